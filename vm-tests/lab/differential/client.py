"""Sends a case's bytes and reads the answers, strictly."""

import asyncio
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from lab.differential.backend import Request, Unreadable, parse_fields, read_chunked

HTTP2 = "HTTP/2 frames"
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9]) [\t\x20-\x7e\x80-\xff]*")


@dataclass
class Heard:
    """What a client got: statuses in order (interim ones too), bodies, how it ended."""

    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    fields: list[list[tuple[str, str]]] = field(default_factory=list)
    closed: bool = False
    wrong: str = ""


def cuts(data: bytes, seed: int) -> list[bytes]:
    """The same bytes in pieces. Seed 0: one by one when short, else in pieces of three at most."""
    chance = random.Random(seed)
    pieces, at = [], 0
    while at < len(data):
        step = 1 if seed == 0 and len(data) <= 400 else chance.choice((1, 2, 3, 7, 40, 200) if seed else (1, 2, 3))
        if len(data) > 4000:
            step *= 500
        pieces.append(data[at:at + step])
        at += step
    return pieces


async def _answer(reader: "_Pushed", heard: Heard, bodiless: bool) -> bool:
    """One final answer and the interim ones before it; whether another may follow."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        match = STATUS_LINE.fullmatch(head[0])
        if not match:
            raise Unreadable(f"status line {head[0][:60]!r}")
        status, fields = int(match[2]), parse_fields(head[1:])
        heard.statuses.append(status)
        if status == 101 or status >= 200:
            break
    answer = Request("", "", int(match[1]), fields)
    heard.fields.append(fields)
    codings, lengths = answer.all("transfer-encoding"), answer.all("content-length")
    if len(lengths) > 1 or (codings and lengths):
        raise Unreadable("an answer with two lengths")
    try:
        if bodiless or status in (101, 204, 304):
            pass
        elif codings:
            await read_chunked(reader, answer)
        elif lengths:
            answer.body = await reader.readexactly(int(lengths[0]))
        else:
            while piece := await reader.read(65536):
                answer.body += piece
            heard.closed = True
    finally:
        heard.bodies.append(answer.body)
    return status != 101 and not heard.closed


async def talk(port: int, pieces: Iterable[bytes], bodiless: frozenset[int], quiet: float, pause: float = 0.0) -> Heard:
    """Send, then read until the server closes or says nothing for `quiet` seconds."""
    heard = Heard()
    loop = asyncio.get_running_loop()
    reader = Reader(limit=1 << 20)
    transport, protocol = await loop.create_connection(lambda: asyncio.StreamReaderProtocol(reader), "127.0.0.1", port)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    async def send() -> None:
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if pause:
                    await asyncio.sleep(pause)
        except ConnectionError:
            pass  # refused and closed while we still spoke

    sending = asyncio.create_task(send())
    try:
        more = True
        while more:
            first = await _first_byte(reader, sending, quiet)
            if first is None:
                break
            if first == b"":
                heard.closed = True
                break
            if first == b"\0":  # the length of a frame; no status line begins so
                heard.wrong = HTTP2
                break
            more = await _answer(_Pushed(reader, first), heard, len(heard.bodies) in bodiless)
    except Unreadable as e:
        heard.wrong = str(e)
        await asyncio.sleep(quiet)  # what the server still does with the rest belongs to the outcome
    except asyncio.IncompleteReadError:
        heard.closed = True
        heard.wrong = "broken off in an answer"
    except TimeoutError:
        heard.wrong = "an answer that does not end"
    finally:
        sending.cancel()
        writer.close()
    return heard


async def _first_byte(reader: asyncio.StreamReader, sending: asyncio.Task[None], quiet: float) -> bytes | None:
    """The next byte, b"" at the end, None when nothing came for `quiet` seconds after everything was sent."""
    waiting = asyncio.ensure_future(reader.read(1))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=quiet)
            if done:
                return waiting.result()
            if sending.done():
                return None
    finally:
        waiting.cancel()


class Reader(asyncio.StreamReader):
    """What came before a reset is still an answer; asyncio's own reader forgets it."""

    def set_exception(self, exc: Exception) -> None:
        self.feed_eof()


class _Pushed:
    """A reader with one byte put back."""

    def __init__(self, reader: asyncio.StreamReader, first: bytes):
        self.reader, self.first = reader, first

    async def readuntil(self, separator: bytes) -> bytes:
        first, self.first = self.first, b""
        return first + await asyncio.wait_for(self.reader.readuntil(separator), 5)

    async def readexactly(self, n: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(n), 5)

    async def read(self, n: int) -> bytes:
        return await asyncio.wait_for(self.reader.read(n), 5)
