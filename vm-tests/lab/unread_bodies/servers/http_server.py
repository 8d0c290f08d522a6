"""Python's http.server: nobody reads a body but the application, and what it leaves is the next request."""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and content in one packet.
    wbufsize = -1

    def exchange(self) -> None:
        mode, length = self.path.split("/")[1], int(self.headers.get("Content-Length", 0))
        if mode == "healthz":
            return self.say("")
        body, cookie = b"", self.headers.get("Cookie", "")
        if mode == "reads" and self.headers.get("Transfer-Encoding"):
            self.close_connection = True  # it reads no chunks, and therefore nothing after them
        elif mode in ("reads", "half"):
            body = self.rfile.read(length if mode == "reads" else length // 2)
        record = {"method": self.command, "target": self.path, "cookie": cookie, "body": body.decode("latin-1")}
        os.write(1, json.dumps(record).encode() + b"\n")
        text = f"{self.command} {self.path} {cookie}"
        self.say(text)
        if mode == "babbles":
            self.wfile.flush()
            time.sleep(0.05)  # for the next request to come on this connection
            self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = exchange

    def say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
