"""One cgroup per machine: without one, machines share a cgroup tree and kill one another's services.

It is also the lab's list of what it started: every process in it is ours, and no other process is.
"""

import time
from contextlib import suppress
from pathlib import Path

from lab.errors import LabError


class Cgroup:
    def __init__(self, path: Path):
        self.path = path

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def enter_command(self, argv: list[str]) -> list[str]:
        """The command, so that it starts inside this cgroup."""
        return ["sh", "-c", 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"', "sh", str(self.path), *argv]

    def _all(self) -> list[Path]:
        """This cgroup and those below it, deepest first."""
        if not self.path.is_dir():
            return []
        below = [p for p in self.path.rglob("*") if p.is_dir()]
        return [*sorted(below, key=lambda p: -len(p.parts)), self.path]

    def processes(self) -> list[int]:
        found: list[int] = []
        for folder in self._all():
            with suppress(OSError):  # the folder went away, or is a threaded cgroup without the file
                found += [int(p) for p in (folder / "cgroup.procs").read_text().split()]
        return found

    def kill(self, timeout: float = 20) -> None:
        """Kill everything inside at one stroke, and wait until it is gone."""
        if not self.path.is_dir():
            return
        deadline = time.monotonic() + timeout
        while True:
            try:
                (self.path / "cgroup.kill").write_text("1")
            except OSError as e:
                raise LabError(f"killing the processes in {self.path}: {e.strerror} (Linux 5.14 or newer?)") from None
            for _ in range(20):
                if not self.processes():
                    return
                time.sleep(0.01)
            if time.monotonic() > deadline:
                raise LabError(f"processes {self.processes()} in {self.path} do not die")

    def remove(self) -> None:
        for folder in self._all():
            for _ in range(50):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # busy for an instant after the last process died
                    time.sleep(0.02)
