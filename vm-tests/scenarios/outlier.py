# The app of one node goes wrong in ways that its health check does not show: it answers 500, then it accepts and says nothing. It costs
# a handful of requests, and once it is well it is served from again.

cluster_up()

BROKEN = r'''
import http.server, sys, threading, time
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        if self.path != "/healthz" and sys.argv[1] == "hangs":
            time.sleep(3600)
        well = self.path == "/healthz"
        body = b"{}" if well else b"broken"
        self.send_response(200 if well else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = do_HEAD = answer
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8081), App).serve_forever()
'''


def outliers():
    return [b["name"] for b in balancer_status(node)["backends"] if b["outlier"]]


def goes_wrong(how):
    bad.succeed("systemctl stop trivet-app", timeout=60)
    bad.succeed(f"cat > /run/broken.py <<'EOF'\n{BROKEN}EOF")
    bad.succeed(f"systemd-run --quiet --unit=broken-app python3 /run/broken.py {how}")
    bad.wait_until_succeeds("curl -fsS http://127.0.0.1:8081/healthz")


def is_mended():
    bad.succeed("systemctl stop broken-app")
    bad.succeed("systemctl start trivet-app", timeout=60)
    bad.wait_until_succeeds("curl -fsS http://127.0.0.1:8081/healthz", timeout=RECOVERY)


node = holder()
bad = others(node)[0]

with subtest("an app that answers 500 costs a handful of requests, not a third"):
    start_probe("errors", reads=20)
    client.sleep(2)
    goes_wrong("fails")
    poll(lambda: outliers() == [bad.name], "it is an outlier", 30)
    client.sleep(5)
    seen = stop_probe("errors")
    measured("answers 500", seen)
    failed, asked = seen["reads"]["failed"], seen["reads"]["requests"]
    # Five in a row, and those that were on their way with them; one more for each time that it is tried again.
    assert failed <= 15, f"{failed} of {asked} failed"

with subtest("it is served from again once it is well"):
    is_mended()
    poll(lambda: outliers() == [], "it is no outlier any more", 120)

with subtest("an app that accepts and says nothing keeps nobody"):
    start_probe("silence", reads=20)
    client.sleep(2)
    goes_wrong("hangs")
    poll(lambda: outliers() == [bad.name], "it is an outlier", 30)
    client.sleep(5)
    seen = stop_probe("silence")
    measured("says nothing", seen)
    assert seen["reads"]["failed"] <= 5, seen["reads"]
    is_mended()
    poll(lambda: outliers() == [], "it is no outlier any more", 300)
