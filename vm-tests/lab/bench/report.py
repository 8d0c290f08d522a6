"""What was measured, for people."""

import argparse
import json
from typing import Any

from lab.bench.cases import Case

Rows = list[list[str]]
NGINX = 1.25


def _text(rows: Rows) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def _markdown(rows: Rows) -> str:
    lines = ["| " + " | ".join(f"**{c}**" if c == "loss" or c.startswith("below") else c for c in row) + " |" for row in rows]
    lines.insert(1, "|---" + "|--:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines)


def hand_out(options: argparse.Namespace, measured: dict[str, Any], tables: list[Rows]) -> None:
    """To the terminal, and into the files that --json and --markdown name."""
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text("\n\n".join(_markdown(rows) for rows in tables) + "\n")
    for rows in tables:
        print(f"\n{_text(rows)}")


def verdict(ratio: float, aim: float | None) -> str:
    if aim is not None:
        return "aim met" if ratio >= aim else f"below {aim:.2f}"
    return "" if ratio >= 1 else "loss"


def aim(case: Case, nginx: float) -> float | None:
    """As a multiple of HAProxy; where answers are small, also a quarter more than nginx, if that is the faster of the two."""
    if case.aim is None or case.size != "1k" or nginx <= 1:
        return case.aim
    return max(case.aim, NGINX * nginx)


def throughput(cases: list[Case], results: dict[str, Any]) -> Rows:
    rows = [["requests per server-CPU-second", "HAProxy", "nginx", "Trivet", "nginx ÷ HAProxy", "Trivet ÷ HAProxy", "(lowest–highest)", ""]]
    for case in cases:
        if case.name not in results:
            continue
        s = results[case.name]["summary"]
        t = s["trivet"]
        rows.append([case.name, *(f"{s[name]['median']:,.0f}" for name in ("haproxy", "nginx", "trivet")), f"{s['nginx']['ratio']:.2f}",
                     f"{t['ratio']:.2f}", f"{t['lowest']:.2f}–{t['highest']:.2f}", verdict(t["ratio"], aim(case, s["nginx"]["ratio"]))])
    return rows


def where(cases: list[Case], results: dict[str, Any]) -> Rows:
    rows = [["µs of CPU a request, in the program + in the kernel", "HAProxy", "nginx", "Trivet", "Trivet's core was busy"]]
    for case in cases:
        if case.name not in results:
            continue
        s = results[case.name]["summary"]
        times = (f"{s[name]['user_us']:,.1f} + {s[name]['system_us']:,.1f}" for name in ("haproxy", "nginx", "trivet"))
        rows.append([case.name, *times, f"{100 * s['trivet']['busy']:.0f} %"])
    return rows


def latency(cases: list[Case], results: dict[str, Any]) -> Rows:
    rows = [["milliseconds at half of the slowest", "rate/s", "HAProxy p50", "p99", "nginx p50", "p99", "Trivet p50", "p99", ""]]
    for case in cases:
        if case.name not in results:
            continue
        r = results[case.name]
        s = r["summary"]
        row = [case.name, f"{r['rate']:,.0f}"]
        for name in ("haproxy", "nginx", "trivet"):
            row += [f"{s[name]['p50_ms']:.2f}", f"{s[name]['p99_ms']:.2f}"]
        rows.append([*row, "" if s["trivet"]["p99_ms"] <= s["haproxy"]["p99_ms"] else "loss"])
    return rows


def memory(results: dict[str, Any]) -> Rows:
    rows = [["idle TLS connections, after a request each", "held", "PSS KiB each", "RSS KiB each", ""]]
    base = results["haproxy"]["pss_kib_each"]
    for name, label in (("haproxy", "HAProxy"), ("nginx", "nginx"), ("trivet", "Trivet")):
        r = results[name]
        lost = name == "trivet" and r["pss_kib_each"] > base
        rows.append([label, f"{r['held']:,} of {r['wanted']:,}", f"{r['pss_kib_each']:.1f}", f"{r['rss_kib_each']:.1f}", "loss" if lost else ""])
    return rows


def _parts(cases: list[Case], results: dict[str, Any]) -> list[Rows]:
    made = [throughput(cases, results["throughput"]), where(cases, results["throughput"]), latency(cases, results["latency"])]
    return [rows for rows in made if len(rows) > 1] + ([memory(results["memory"])] if results["memory"] else [])


def show(cases: list[Case], results: dict[str, Any]) -> str:
    return "\n\n".join(_text(rows) for rows in _parts(cases, results))


def markdown(cases: list[Case], results: dict[str, Any]) -> str:
    """The same tables, as docs/benchmarks.md has them."""
    return "\n\n".join(_markdown(rows) for rows in _parts(cases, results)) + "\n"


def last_line(about: dict[str, Any], cases: list[Case], seconds: float) -> str:
    versions = about["versions"]
    return (f"bench: {len(cases)} cases, {about['rounds']} rounds each in {seconds:.0f} s; HAProxy {versions['haproxy']}, nginx {versions['nginx']}, "
            f"Trivet {versions['trivet']} ({about['profile']}, {about['commit']}); "
            f"load average {about['load_before']:.1f} before, {about['load_after']:.1f} after")
