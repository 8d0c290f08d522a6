# Ruby's WEBrick: a body is read when the application asks for it, the rest before the next request.
require "json"
require "webrick"

class Site < WEBrick::HTTPServlet::AbstractServlet
  def service(request, response)
    mode = request.path.split("/")[1]
    return response.body = "" if mode == "healthz"
    body = ""
    if mode == "reads"
      body = request.body || ""
    elsif mode == "half"
      request.body { |piece| body = piece; break }
    end
    method, target, cookie = request.request_method, request.path, request["Cookie"] || ""
    record = { method: method, target: target, cookie: cookie, body: body.dup.force_encoding("ISO-8859-1").encode("UTF-8") }
    $stdout.syswrite(JSON.generate(record) + "\n")
    response.body = "#{method} #{target} #{cookie}"
  end
end

server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: Integer(ARGV[0]), AccessLog: [],
                                 Logger: WEBrick::Log.new($stderr, WEBrick::Log::FATAL))
# Head and content come in two packets, and without this the second 40 ms later. Connections inherit it.
server.listeners.each { |socket| socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1) }
server.mount("/", Site)
trap("TERM") { server.shutdown }
server.start
