"""What many rounds came to, by fault: for people, and as Markdown for docs/chaos.md."""

from typing import Any

from chaos.faults import FAULTS

HEADINGS = ["fault", "runs", "passed", "requests", "failed requests", "write outage p50", "p95", "longest", "read outage p95",
            "lost writes", "whole again p95"]


def percentile(values: list[float], part: float) -> float | None:
    """The smallest value that at least this part of all values does not exceed (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * part // 1) - 1))]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    table = []
    names = [f for f in FAULTS if any(r["fault"] == f for r in results)]
    for name in names + sorted({r["fault"] for r in results} - set(FAULTS)):
        of = [r for r in results if r["fault"] == name]
        writes = [r["outage"]["write"] for r in of if r["outage"]]
        reads = [r["outage"]["read"] for r in of if r["outage"]]
        whole = [r["whole_after"] for r in of if r["whole_after"] is not None]
        table.append([
            name, str(len(of)), str(sum(r["passed"] for r in of)), str(sum(r["requests"] for r in of)),
            str(sum(sum(r["failed"].values()) for r in of)), _seconds(percentile(writes, 0.5)), _seconds(percentile(writes, 0.95)),
            _seconds(max(writes, default=None)), _seconds(percentile(reads, 0.95)), str(sum(r["lost"] for r in of)),
            _seconds(percentile(whole, 0.95)),
        ])
    return table


def text(results: list[dict[str, Any]]) -> str:
    lines = [HEADINGS, *rows(results)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(HEADINGS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines]
    return "\n".join([shown[0], "  ".join("-" * w for w in widths), *shown[1:]])


def markdown(results: list[dict[str, Any]]) -> str:
    lines = [HEADINGS, ["---", *["--:"] * (len(HEADINGS) - 1)], *rows(results)]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
