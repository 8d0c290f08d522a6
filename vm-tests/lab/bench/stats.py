"""Numbers out of rounds."""

import math
import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], p: float) -> float:
    """Nearest rank, on sorted values."""
    if not values:
        return math.nan
    return values[max(0, math.ceil(p / 100 * len(values)) - 1)]


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Round by round: what disturbed a round disturbed its neighbours too."""
    return [a / b for a, b in zip(of, to, strict=True) if b > 0]


def summary(rounds: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Per server: the median, the median of its ratios to `base`, and the ratios' extremes."""
    out = {}
    for server, values in rounds.items():
        against = ratios(values, rounds[base])
        out[server] = {"median": statistics.median(values), "ratio": statistics.median(against) if against else math.nan,
                       "lowest": min(against, default=math.nan), "highest": max(against, default=math.nan)}
    return out


def steady(rows: Sequence[tuple[int, int, int]], skip_us: int) -> list[float]:
    """Milliseconds of the successful requests that began `skip_us` after the first, sorted. Rows: start, status, duration (µs)."""
    if not rows:
        return []
    begin = min(start for start, _, _ in rows) + skip_us
    return sorted(took / 1000 for start, status, took in rows if start >= begin and 200 <= status < 300)
