"""Attackers and visitors, over both versions. An attacker's answer is nobody's concern; a visitor's is read to its last octet."""

import asyncio
from collections.abc import Iterator

from lab.differential.backend import Request, Unreadable, parse_fields, read_chunked
from lab.servers import SITE
from lab.unread_bodies import http2
from lab.unread_bodies.attacks import Attack
from lab.unread_bodies.wire import Doors, Heard, Wire, within

PIECE = 16_000


async def answer(reader: asyncio.StreamReader, method: str, *, interim: bool = False) -> Heard:
    """The next final answer over HTTP/1.1, or the next of any kind."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
            status = int(head[0].split(b" ")[1])
            if status >= 200 or interim:
                break
        fields = Request("", "", 1, parse_fields(head[1:]))
        if method == "HEAD" or status < 200 or status in (204, 304):
            return Heard(status)
        if fields.all("transfer-encoding"):
            await read_chunked(reader, fields)
        elif lengths := fields.all("content-length"):
            fields.body = await reader.readexactly(int(lengths[0]))
        else:
            fields.body = await reader.read()
        return Heard(status, fields.body.decode("latin-1"))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, Unreadable, ValueError, IndexError):
        return Heard()


async def attack(doors: Doors, made: Attack, number: int, quiet: float) -> None:
    """Send it, and wait for an answer, at most `quiet` for each."""
    wire = await Wire.open(doors, made.http2)
    try:
        await (http2.attack if made.http2 else _attack)(wire, made, number, quiet)
    finally:
        wire.close()


async def _attack(wire: Wire, made: Attack, number: int, quiet: float) -> None:
    body = made.body(number).encode()
    chunked = made.framing == "chunked"
    head = f"{made.method} {made.target(number)} HTTP/1.1\r\nHost: {SITE}\r\nCookie: session=attack-{number}.\r\n"
    if body:
        head += "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n"
    if made.manner == "expect":
        head += "Expect: 100-continue\r\n"
    first, rest = made.parts(body)
    framed = [b"".join(_chunks(part)) if chunked else part for part in (first, rest)]
    if chunked and made.manner != "early":
        framed[1] += b"0\r\n\r\n"
    await wire.send(head.encode() + b"\r\n" + framed[0])
    if made.manner == "whole":
        await wire.send(framed[1])
    else:
        await within(quiet, answer(wire.reader, made.method, interim=made.manner == "expect"))
        if made.manner == "early":
            return
        await wire.send(framed[1])
        if made.manner == "late":
            return
    await within(quiet, answer(wire.reader, made.method))


def _chunks(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), PIECE):
        piece = body[at:at + PIECE]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


async def visit(doors: Doors, over_http2: bool, asked: list[tuple[str, str]], agent: str, patience: float) -> list[Heard]:
    """GET each target with its cookie, on one connection."""
    wire = await Wire.open(doors, over_http2)
    try:
        return [await within(patience, (http2.get if over_http2 else _get)(wire, target, cookie, agent)) for target, cookie in asked]
    finally:
        wire.close()


async def _get(wire: Wire, target: str, cookie: str, agent: str) -> Heard:
    await wire.send(f"GET {target} HTTP/1.1\r\nHost: {SITE}\r\nCookie: {cookie}\r\nUser-Agent: {agent}\r\n\r\n".encode())
    return await answer(wire.reader, "GET")
