"""A scenario's log: everything to a file with times, the headlines to the terminal."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.progress import say


class Log:
    def __init__(self, path: Path | None = None):
        self.path = path
        self._file = None
        self._depth = 0
        self._began = time.monotonic()
        self._lock = threading.Lock()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", buffering=1)

    def write(self, text: str) -> None:
        if self._file is not None:
            with self._lock:
                self._file.write(f"[{time.monotonic() - self._began:8.2f}] {'  ' * self._depth}{text}\n")

    def headline(self, text: str) -> None:
        """For the person who watches, too."""
        self.write(text)
        say(f"  {text}")

    @contextmanager
    def nested(self, text: str) -> Iterator[None]:
        self.write(text)
        self._depth += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._depth -= 1
            self.write(f"(finished: {text[:80]}, in {time.monotonic() - began:.2f} seconds)")

    # The names of the NixOS driver's logger, for scenarios.
    def log(self, text: str, attributes: dict[str, str] | None = None) -> None:
        self.write(text)

    info = warning = error = log
