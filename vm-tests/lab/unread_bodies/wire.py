"""A client's connection to a proxy, and what it hears there."""

import asyncio
import ssl
from collections.abc import Awaitable
from dataclasses import dataclass

from lab.differential.client import Reader
from lab.servers import SITE


@dataclass(frozen=True)
class Doors:
    """A proxy's two ports."""

    plain: int
    tls: int


@dataclass
class Heard:
    """A visitor's answer; no status when there was none, or none that could be read."""

    status: int | None = None
    body: str = ""


class Wire:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, doors: Doors, http2: bool) -> "Wire":
        loop = asyncio.get_running_loop()
        reader = Reader(limit=1 << 20)
        transport, protocol = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader), "127.0.0.1", doors.tls if http2 else doors.plain,
            ssl=CONTEXT if http2 else None, server_hostname=SITE if http2 else None)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def send(self, data: bytes) -> None:
        """All of it, unless the other side has had enough."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    def close(self) -> None:
        if self.writer.transport.get_write_buffer_size():
            self.writer.transport.abort()  # nobody takes the rest
        else:
            self.writer.close()


def _context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(["h2"])
    return made


CONTEXT = _context()


async def within(seconds: float, what: Awaitable[Heard] | Awaitable[None]) -> Heard:
    """What is heard in that time."""
    try:
        return await asyncio.wait_for(what, seconds) or Heard()
    except TimeoutError:
        return Heard()
