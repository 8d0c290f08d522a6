"""What is measured."""

import fnmatch
from dataclasses import dataclass

from lab.errors import LabError

SIZES = {"1k": 1024, "100k": 100 * 1024, "10m": 10 * 1024 * 1024}


@dataclass(frozen=True)
class Case:
    """`mode`: `keep` (connections are kept), `new` (one request each, full handshakes) or `resumed` (one each, with a ticket)."""

    name: str
    http2: bool
    tls: bool
    size: str
    mode: str = "keep"
    # One of servers.LINKS.
    link: str = "plain"
    # Requests per server-CPU-second that the project wants, as a multiple of HAProxy's; None: none given.
    aim: float | None = None
    latency: bool = False

    @property
    def path(self) -> str:
        return f"/{self.size}"

    @property
    def connections(self) -> int:
        # Enough to keep the server's core busy, and few enough that 10 MB each stay in the caches' reach.
        return {"1k": 64, "100k": 32, "10m": 8}[self.size]

    @property
    def streams(self) -> int:
        return {"1k": 10, "100k": 4, "10m": 1}[self.size] if self.http2 else 1


# What is wanted of large answers, whatever the protocol.
LARGE = {"100k": 1.15, "10m": 1.0}
CASES = [
    *(Case(f"h1-plain-{s}", False, False, s, aim=LARGE.get(s, 1.5), latency=s == "1k") for s in SIZES),
    *(Case(f"h1-tls-{s}", False, True, s, aim=LARGE.get(s, 1.9), latency=s == "1k") for s in SIZES),
    *(Case(f"h2-plain-{s}", True, False, s, aim=LARGE.get(s, 1.6)) for s in SIZES),
    *(Case(f"h2-tls-{s}", True, True, s, aim=LARGE.get(s, 1.6), latency=s == "1k") for s in SIZES),
    Case("new-plain-1k", False, False, "1k", "new"),
    Case("new-tls-1k", False, True, "1k", "new", aim=2.0),
    Case("resumed-tls-1k", False, True, "1k", "resumed"),
    Case("h1-plain-1k-tls-backend", False, False, "1k", link="tls"),
    Case("h1-tls-1k-tls-backend", False, True, "1k", link="tls"),
    Case("h1-tls-100k-tls-backend", False, True, "100k", link="tls"),
    Case("h1-plain-1k-h2-backend", False, False, "1k", link="h2"),
    Case("h2-tls-1k-h2-backend", True, True, "1k", link="h2"),
    Case("h2-tls-100k-h2-backend", True, True, "100k", link="h2"),
]
MEMORY = "memory"


def choose(patterns: list[str]) -> tuple[list[Case], bool]:
    """The cases named, and whether memory is measured, too; everything without patterns."""
    if not patterns:
        return CASES, True
    names = [c.name for c in CASES] + [MEMORY]
    chosen = {n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)}
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(n, pattern) for n in names):
            raise LabError(f"no case is called {pattern}; there are: {', '.join(names)}")
    return [c for c in CASES if c.name in chosen], MEMORY in chosen
