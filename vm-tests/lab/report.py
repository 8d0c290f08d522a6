"""What the scenarios saw: a table for people, JSON for machines."""

import json
import time
from pathlib import Path

from lab.scenarios import Outcome

HEADINGS = ["scenario", "result", "took", "what happened", "longest outage", "writes out", "failed requests", "writes acked", "lost"]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _rows(outcome: Outcome) -> list[list[str]]:
    rows: list[list[str]] = []
    for m in outcome.measured or [{}]:
        reads, keepalive, writes = m.get("reads"), m.get("keepalive"), m.get("writes")
        pages = [s for s in (reads, keepalive) if s]
        rows.append([
            outcome.name if not rows else "",
            ("passed" if outcome.passed else "FAILED") if not rows else "",
            f"{outcome.seconds:.0f} s" if not rows else "",
            m.get("label", "–"),
            # A connection of its own per request is the finest measure; kept connections when there is no other.
            _seconds((reads or keepalive or {}).get("longest_outage")),
            _seconds(writes["longest_outage"] if writes else None),
            f"{sum(s['failed'] for s in pages)} of {sum(s['requests'] for s in pages)}" if pages else "–",
            str(writes["succeeded"]) if writes else "–",
            str(m["lost"]) if "lost" in m else "–",
        ])
    return rows


def table(outcomes: list[Outcome]) -> str:
    rows = [HEADINGS] + [row for outcome in outcomes for row in _rows(outcome)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def write_json(outcomes: list[Outcome], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "scenarios": [{"name": o.name, "passed": o.passed, "seconds": round(o.seconds, 1), "error": o.error, "note": o.note,
                       "measured": o.measured} for o in outcomes],
    }, indent=1) + "\n")


def show(outcomes: list[Outcome], path: Path) -> None:
    print()
    print(table(outcomes))
    print()
    for o in outcomes:
        if not o.passed:
            print(f"{o.name}: {o.error}\n  logs: {o.logs}")
        if o.note:
            print(f"{o.name}: note: {o.note}")
    print(f"measurements: {path}")
    passed = sum(o.passed for o in outcomes)
    print(f"{passed} passed, {len(outcomes) - passed} failed", flush=True)
