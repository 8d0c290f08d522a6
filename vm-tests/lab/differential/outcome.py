"""What became of a case, in one line that two servers can be compared by."""

import hashlib

from lab.differential.backend import Request
from lab.differential.client import Heard
from lab.servers import SITE

# Every proxy adds or rewrites these in its own way; docs/balancer.md says what ours does. Shown only when a client's forgery got through.
OWN_FIELDS = {"host", "content-length", "transfer-encoding", "connection", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host",
              "x-forwarded-port", "x-real-ip", "x-request-id", "forwarded", "via", "keep-alive", "trivet-hop"}
FORGED = ("192.0.2.1", "forged")
MANY = 8


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:20]}…({len(text)})"


def _request(request: Request) -> str:
    words = [_short(request.method), _short(request.target)]
    if (host := ",".join(request.all("host"))) != SITE:
        words.append(f"host={host}")
    if request.framing != "none":
        body = request.body
        shown = repr(body.decode("latin-1")) if len(body) <= 24 else f"({len(body)} {hashlib.sha256(body).hexdigest()[:6]})"
        words.append(shown)
    fields = [f"{n}={_short(v)!a}" for n, v in request.fields
              if n not in OWN_FIELDS or (v and any(mark in v for mark in FORGED))]
    words += fields if len(fields) <= MANY else [f"{len(fields)} fields"]
    words += [f"trailer {n}={_short(v)}" for n, v in request.trailers]
    return " ".join(words)


def line(heard: Heard, requests: list[Request], unreadable: list[str]) -> str:
    """`200 404, closed ← GET /a; GET /b`: what the client heard, and what the back end saw."""
    text = " ".join(map(str, heard.statuses)) or "nothing"
    text += ", closed" if heard.closed else ", open"
    if heard.wrong:
        text += f", {heard.wrong}"
    for status, body, fields in zip([s for s in heard.statuses if s == 101 or s >= 200], heard.bodies, heard.fields, strict=False):
        if status == 200 and body not in (b"hello", b"ok") and not _is_ours(body):
            text += f", body {_short(body.decode('latin-1'))!r}"
        if any(n == "x-t" for n, _ in fields):
            text += ", trailer in head"
    # One that the proxy broke off is no request: nobody may act on it, and how much of it was sent is a matter of time.
    if complete := [r for r in requests if r.complete]:
        text += " ← " + "; ".join(_request(r) for r in complete)
    for why in unreadable:
        text += f" ← UNREADABLE {why}"
    return text


def _is_ours(body: bytes) -> bool:
    words = body.split()
    return not body or (len(words) == 2 and words[1].isdigit())
