"""A back end that reads as strictly as the RFCs allow, and writes down what it was sent.

What it cannot read by RFC 9112 it calls unreadable: a proxy that forwards such a thing reads it in another way than its back end may.
"""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Protocol

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/1\.([01])")
LARGEST_HEAD = 256 * 1024


class Unreadable(Exception):
    """Not one reading, or none."""


@dataclass
class Request:
    method: str
    target: str
    minor: int
    fields: list[tuple[str, str]]
    framing: str = "none"
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False

    def all(self, name: str) -> list[str]:
        return [v for n, v in self.fields if n == name]


def parse_fields(lines: list[bytes]) -> list[tuple[str, str]]:
    """Field lines, RFC 9112 section 5."""
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise Unreadable(f"field line {line[:60]!r}")
        if not VALUE.fullmatch(value):
            raise Unreadable(f"field value {value[:60]!r}")
        fields.append((name.decode().lower(), value.decode("latin-1").strip(" \t")))
    return fields


def parse_head(head: bytes) -> Request:
    """A head without its empty line, RFC 9112 sections 2 and 3."""
    lines = head.split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise Unreadable("a bare CR or LF in the head")
    match = REQUEST_LINE.fullmatch(lines[0])
    if not match:
        raise Unreadable(f"request line {lines[0][:60]!r}")
    return Request(match[1].decode(), match[2].decode(), int(match[3]), parse_fields(lines[1:]))


def framing(request: Request) -> tuple[str, int]:
    """RFC 9112 section 6.3, without any of its leniencies."""
    lengths, codings = request.all("content-length"), request.all("transfer-encoding")
    if lengths and codings:
        raise Unreadable("Content-Length beside Transfer-Encoding")
    if codings:
        if [c.lower() for c in codings] != ["chunked"] or request.minor == 0:
            raise Unreadable(f"transfer codings {codings}")
        return "chunked", 0
    if lengths:
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,18}", lengths[0]):
            raise Unreadable(f"lengths {lengths}")
        return "length", int(lengths[0])
    return "none", 0


class Reader(Protocol):
    """What of a stream's reader is used."""

    async def readuntil(self, separator: bytes) -> bytes: ...
    async def readexactly(self, n: int) -> bytes: ...


async def read_line(reader: Reader) -> bytes:
    line = await reader.readuntil(b"\n")
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        raise Unreadable(f"a line ended otherwise than by CR LF: {line[-20:]!r}")
    return line[:-2]


async def read_chunked(reader: Reader, request: Request) -> None:
    while True:
        line = await read_line(reader)
        size, _, extension = line.partition(b";")
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size) or not VALUE.fullmatch(extension):
            raise Unreadable(f"chunk line {line[:40]!r}")
        if int(size, 16) == 0:
            break
        request.body += await reader.readexactly(int(size, 16))
        if await reader.readexactly(2) != b"\r\n":
            raise Unreadable("a chunk longer than its size")
    trailers = []
    while line := await read_line(reader):
        trailers.append(line)
    request.trailers = parse_fields(trailers)


class Backend:
    """Listens for one proxy."""

    def __init__(self, answers: "Answers") -> None:
        self.answers = answers
        self.requests: list[Request] = []
        self.unreadable: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> None:
        self.server = await asyncio.start_server(self._connection, "127.0.0.1", port, limit=LARGEST_HEAD)

    def take(self) -> tuple[list[Request], list[str]]:
        """What came since the last call."""
        taken = self.requests, self.unreadable
        self.requests, self.unreadable = [], []
        return taken

    async def close(self) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        try:
            while await self._exchange(reader, writer):
                pass
        except Unreadable as e:
            self.unreadable.append(str(e))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, asyncio.CancelledError):
            pass  # a proxy that breaks off: the request stays marked as not complete (or the end of the run)
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
        except asyncio.IncompleteReadError as e:
            if e.partial:
                raise Unreadable(f"half a head: {e.partial[:60]!r}") from None
            return False
        request = parse_head(head)
        if request.target == "/healthz":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return True
        self.requests.append(request)
        request.framing, length = framing(request)
        if request.all("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.framing == "chunked":
            await read_chunked(reader, request)
        else:
            request.body = await reader.readexactly(length)
        request.complete = True
        answer, keep = self.answers(request)
        writer.write(answer)
        await writer.drain()
        return keep and "close" not in " ".join(request.all("connection")).lower()


Answer = tuple[bytes, bool]


class Answers:
    """What is answered, by path: `/status/204`, `/raw/NAME` (an entry of `raw`), anything else a short 200."""

    def __init__(self, raw: dict[str, Answer]):
        self.raw = raw

    def __call__(self, request: Request) -> Answer:
        path = request.target.split("?")[0]
        if path.startswith("/raw/") and path[5:] in self.raw:
            return self.raw[path[5:]]
        body = f"{request.method} {len(request.body)}".encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        return (head if request.method == "HEAD" else head + body), True
