"""How much of everything, and which core does what."""

from dataclasses import dataclass

from lab.errors import LabError


@dataclass(frozen=True)
class Plan:
    rounds: int
    seconds: float
    latency_rounds: int
    latency_seconds: int
    idle_connections: int


FULL = Plan(rounds=5, seconds=3, latency_rounds=5, latency_seconds=5, idle_connections=10_000)
QUICK = Plan(rounds=3, seconds=1, latency_rounds=3, latency_seconds=3, idle_connections=2_000)


@dataclass(frozen=True)
class Cores:
    server: list[int]
    load: list[int]
    backend: list[int]


def cores(available: set[int]) -> Cores:
    """One core for the server under test; the others, never that one, for everything else."""
    if len(available) < 2:
        raise LabError("the benchmark needs two cores: one for the server, one for what loads it")
    *others, server = sorted(available)
    if len(others) == 1:
        return Cores([server], others, others)
    return Cores([server], others[:-1], others[-1:])
