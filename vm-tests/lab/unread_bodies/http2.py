"""As much of HTTP/2 (RFC 9113) as it takes to ask one thing on a connection, in whatever pieces.

curl would be a process for each request, and never stops in the middle of a body.
"""

import asyncio

from lab.servers import SITE
from lab.unread_bodies.attacks import Attack
from lab.unread_bodies.wire import Heard, Wire, within

PIECE = 16_000
# Of HTTP/2 (RFC 9113 section 6), what is needed to ask one thing.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE = 0, 1, 3, 4, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INDEXED_200 = 0x88  # RFC 7541 appendix A: how every server writes `:status: 200`


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def headers(fields: dict[str, str]) -> bytes:
    """Literals that are never indexed, without Huffman coding (RFC 7541 section 6.2.3)."""
    block = b""
    for text in (text for pair in fields.items() for text in (None, *pair)):
        block += b"\x10" if text is None else _string(text.encode())
    return block


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    length, more = len(text) - 127, b"\x7f"
    while length >= 128:
        more += bytes([length % 128 + 128])
        length //= 128
    return more + bytes([length]) + text


def _begin(method: str, target: str, fields: dict[str, str], more: bool) -> bytes:
    block = headers({":method": method, ":scheme": "https", ":authority": SITE, ":path": target, **fields})
    # A large window for the answer: nobody here counts.
    return (PREFACE + frame(SETTINGS, 0, 0, b"\0\x04" + (1 << 20).to_bytes(4, "big"))
            + frame(HEADERS, END_HEADERS | (0 if more else END_STREAM), 1, block))


async def _frames(wire: Wire, window: "Window") -> Heard:
    """The answer on stream 1, of which nothing but 200 is told apart from other statuses."""
    heard = Heard()
    try:
        while True:
            size, kind, flags = int.from_bytes(await wire.reader.readexactly(3), "big"), *(await wire.reader.readexactly(2))
            stream = int.from_bytes(await wire.reader.readexactly(4), "big") & 0x7FFF_FFFF
            payload = await wire.reader.readexactly(size)
            if kind == SETTINGS and not flags & ACK:
                window.settings(payload)
                await wire.send(frame(SETTINGS, ACK, 0))
            elif kind == WINDOW_UPDATE:
                window.add(stream, int.from_bytes(payload, "big"))
            elif kind == HEADERS and stream == 1 and heard.status is None:
                # A change of the table's size may come first (RFC 7541 section 4.2).
                first = next((octet for octet in payload if octet & 0xE0 != 0x20), 0)
                heard.status = 200 if first == INDEXED_200 else 0
            elif kind == DATA and stream == 1:
                heard.body += payload.decode("latin-1")
            if kind == RST_STREAM:
                return Heard()
            if kind in (HEADERS, DATA) and stream == 1 and flags & END_STREAM:
                return heard
    except (asyncio.IncompleteReadError, ConnectionError):
        return Heard()


class Window:
    """What may be sent on stream 1 (RFC 9113 section 6.9)."""

    def __init__(self) -> None:
        self.connection = self.stream = self.initial = 65_535
        self.grown = asyncio.Event()

    def settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if payload[at:at + 2] == b"\0\x04":
                new = int.from_bytes(payload[at + 2:at + 6], "big")
                self.stream, self.initial = self.stream + new - self.initial, new
        self.grown.set()

    def add(self, stream: int, octets: int) -> None:
        if stream == 0:
            self.connection += octets
        else:
            self.stream += octets
        self.grown.set()

    async def take(self, wanted: int) -> int:
        while (room := min(self.connection, self.stream)) <= 0:
            self.grown.clear()
            await self.grown.wait()
        taken = min(wanted, room)
        self.connection, self.stream = self.connection - taken, self.stream - taken
        return taken


async def attack(wire: Wire, made: Attack, number: int, quiet: float) -> None:
    body = made.body(number).encode()
    fields = {"cookie": f"session=attack-{number}."}
    if made.framing == "length":
        fields["content-length"] = str(len(body))
    await wire.send(_begin(made.method, made.target(number), fields, bool(body)))
    window = Window()
    hearing = asyncio.create_task(_frames(wire, window))
    first, rest = made.parts(body)
    try:
        await within(quiet, _data(wire, window, first, ends=made.manner == "whole" and bool(body)))
        await within(quiet, asyncio.shield(hearing))
        if made.manner == "late":
            await within(quiet, _data(wire, window, rest, ends=True))
        if made.manner == "early":
            await wire.send(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    finally:
        hearing.cancel()


async def _data(wire: Wire, window: Window, body: bytes, ends: bool) -> None:
    at = 0
    while at < len(body):
        taken = await window.take(min(PIECE, len(body) - at))
        at += taken
        await wire.send(frame(DATA, END_STREAM if ends and at == len(body) else 0, 1, body[at - taken:at]))


async def get(wire: Wire, target: str, cookie: str, agent: str) -> Heard:
    """The answer to the connection's one request."""
    await wire.send(_begin("GET", target, {"cookie": cookie, "user-agent": agent}, more=False))
    return await _frames(wire, Window())
