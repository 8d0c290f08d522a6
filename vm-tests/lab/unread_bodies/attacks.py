"""What attackers send. Every octet that is somebody's own carries a mark: `attack-17.`, `visitor-17-1.`, `secret-17-1.`"""

from dataclasses import dataclass

from lab.servers import SITE

# How much the entry in `length` waits for: less than a visitor's head, so that it is answered at once, with the cookie in it.
MISSING = 300
LARGE = 200_000
EVERY_METHOD = ["GET length", "GET chunked", "POST length", "POST chunked", "PUT length", "DELETE chunked", "OPTIONS length",
                "PATCH chunked", "HEAD length", "HEAD chunked"]


@dataclass(frozen=True)
class Attack:
    mode: str
    method: str
    framing: str
    content: str
    # whole; early: half of the body, and then the end; late: the second half after the answer; expect: after 100, or an answer
    manner: str = "whole"
    http2: bool = False

    @property
    def name(self) -> str:
        words = [self.mode, self.method, self.framing, self.content]
        words += [self.manner] if self.manner != "whole" else []
        return " ".join(words + (["over HTTP/2"] if self.http2 else []))

    def target(self, number: int) -> str:
        return f"/{self.mode}/attack-{number}."

    def body(self, number: int) -> str:
        body = _content(self.content, number)
        # Half of it is read, or sent: the other half is the trap.
        return "y" * len(body) + body if self.mode == "half" or self.manner in ("early", "late") else body

    def parts(self, body: bytes) -> tuple[bytes, bytes]:
        """What is sent at once, and what later or never."""
        at = {"whole": len(body), "expect": 0}.get(self.manner, len(body) // 2)
        return body[:at], body[at:]


def _content(content: str, number: int) -> str:
    smuggled = f"GET /reads/smuggled-by-attack-{number}. HTTP/1.1\r\nHost: {SITE}\r\n"
    entry = f"POST /reads/entries-of-attack-{number}. HTTP/1.1\r\nHost: {SITE}\r\n"
    match content:
        case "none":
            return ""
        case "hello":
            return f"hello-attack-{number}."
        case "request":
            return f"{smuggled}\r\n"
        case "head":
            return f"{smuggled}X-Rest: "
        case "length":
            return f"{entry}Content-Length: {MISSING}\r\n\r\ntext="
        case "large":
            return "x" * LARGE + _content("length", number)
    raise ValueError(content)


def made(mode: str, line: str, content: str, manner: str, http2: bool = False) -> Attack:
    """From a line such as `GET length`: method and framing."""
    method, framing = line.split()
    return Attack(mode, method, framing, content, manner, http2)


def of(mode: str) -> list[Attack]:
    """All attacks on an application that treats bodies so."""
    if mode == "babbles":
        return [Attack(mode, "HEAD", "none", "none", http2=http2) for http2 in (False, True)]
    listed = [(line, content, "whole") for content in ("hello", "request", "head", "length") for line in EVERY_METHOD]
    listed += [(line, "large", "whole") for line in ("GET length", "POST chunked", "PUT length")]
    listed += [(line, "length", manner) for line in ("GET length", "POST length", "PUT chunked") for manner in ("early", "late", "expect")]
    attacks = [made(mode, line, content, manner) for line, content, manner in listed]
    over_http2 = [("GET length", "hello", "whole"), ("GET length", "length", "whole"), ("GET chunked", "length", "whole"),
                  ("POST chunked", "head", "whole"), ("PUT length", "large", "whole"), ("HEAD length", "request", "whole"),
                  ("POST length", "length", "early"), ("PUT chunked", "length", "late")]
    return attacks + [made(mode, line, content, manner, http2=True) for line, content, manner in over_http2]
