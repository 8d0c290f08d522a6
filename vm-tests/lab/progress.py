"""Progress for people: one line per step, with the time since the command began."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_began = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _began:6.1f}s] {text}", flush=True)


def warn(text: str) -> None:
    print(f"[{time.monotonic() - _began:6.1f}s] note: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step and, when it took long enough to wonder about, say how long."""
    say(text)
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    if took >= 2:
        say(f"  … took {took:.1f} s")
