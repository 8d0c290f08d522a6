#!/usr/bin/env python3
"""A database gateway that ignores roles: every connection goes to the next member that takes it, for writes and for reads.

It stands in for the real one when the checker is checked (`./lab chaos --broken roles`). It reads the same configuration for
the members' addresses: /etc/trivet/gateway.json.
"""

import asyncio
import itertools
import json
import os
import socket
from pathlib import Path

CONFIGURATION = Path("/etc/trivet/gateway.json")


def main() -> None:
    database = json.loads(CONFIGURATION.read_text())["database"]
    turn = itertools.cycle([member["address"] for member in database["members"]])
    count = len(database["members"])

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(count):
            host, port = next(turn).rsplit(":", 1)
            try:
                to_reader, to_writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 1)
            except (OSError, TimeoutError):
                continue
            await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))
            return
        writer.close()

    async def run() -> None:
        servers = []
        # systemd holds the sockets and passes them on, from descriptor 3 (sd_listen_fds(3)).
        for number in range(int(os.environ["LISTEN_FDS"])):
            servers.append(await asyncio.start_server(serve, sock=socket.socket(fileno=3 + number)))
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(run())


if __name__ == "__main__":
    main()
