"""A WSGI application, for gunicorn (which is given its name) and waitress (which is started here)."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    method, target, cookie = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_COOKIE", "")
    mode, body, text = target.split("/")[1], b"", f"{method} {target} {cookie}"
    if mode == "healthz":
        text = ""
    else:
        if mode == "reads":
            body = environ["wsgi.input"].read()
        elif mode == "half":
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 80) // 2)
        record = {"method": method, "target": target, "cookie": cookie, "body": body.decode("latin-1")}
        os.write(1, json.dumps(record).encode() + b"\n")
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [] if method == "HEAD" else [text.encode()]


if __name__ == "__main__":
    import waitress  # type: ignore[import-untyped]

    waitress.serve(app, listen=f"127.0.0.1:{sys.argv[1]}", threads=8)
