"""What a server has used, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

from lab.process import children

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and its descendants (nginx: master and worker)."""
    found = [pid]
    for child in children(pid):
        found += family(child)
    return found


@dataclass(frozen=True)
class Cpu:
    """Seconds on a CPU: in the program, and in the kernel on its behalf."""

    user: float = 0
    system: float = 0

    @property
    def all(self) -> float:
        return self.user + self.system

    def __sub__(self, before: "Cpu") -> "Cpu":
        return Cpu(self.user - before.user, self.system - before.system)


def cpu_ticks(stat: str) -> tuple[int, int]:
    """utime and stime of a `/proc/PID/stat` line (proc(5)): the kernel scales them so that their sum is the time on a CPU."""
    fields = stat[stat.rindex(")") + 2:].split()
    return int(fields[11]), int(fields[12])


def cpu(pids: list[int]) -> Cpu:
    ticks = [cpu_ticks(Path(f"/proc/{pid}/stat").read_text()) for pid in pids]
    return Cpu(sum(user for user, _ in ticks) / TICKS, sum(system for _, system in ticks) / TICKS)


def memory_kib(rollup: str) -> dict[str, int]:
    """`Rss` and `Pss` of a `/proc/PID/smaps_rollup`."""
    found = {}
    for line in rollup.splitlines():
        key, _, rest = line.partition(":")
        if key in ("Rss", "Pss"):
            found[key] = int(rest.split()[0])
    return found


def memory(pids: list[int]) -> dict[str, int]:
    total = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for key, kib in memory_kib(Path(f"/proc/{pid}/smaps_rollup").read_text()).items():
            total[key] += kib
    return total
