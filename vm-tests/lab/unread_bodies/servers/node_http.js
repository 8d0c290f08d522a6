// Node's http. It throws away what nobody has begun to read; what somebody began to read and stopped holds the connection up.
const fs = require("fs");
const http = require("http");

const server = http.createServer((request, response) => {
  const { method, url: target } = request;
  const cookie = request.headers.cookie ?? "";
  const mode = target.split("/")[1];
  let body = "";
  let answered = false;
  const answer = () => {
    if (answered) return;
    answered = true;
    const text = mode === "healthz" ? "" : `${method} ${target} ${cookie}`;
    if (mode !== "healthz") fs.writeSync(1, JSON.stringify({ method, target, cookie, body }) + "\n");
    response.writeHead(200, { "Content-Length": text.length });
    response.end(text);
  };
  if (mode !== "reads" && mode !== "half") return answer();
  request.setEncoding("latin1");
  request.on("data", (piece) => {
    body += piece;
    if (mode === "half") {
      request.pause();
      answer();
    }
  });
  request.on("end", answer);
});
server.keepAliveTimeout = 60000;
server.listen(Number(process.argv[2]), "127.0.0.1");
