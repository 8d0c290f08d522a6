"""`./lab unread-bodies`."""

import argparse
import asyncio
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

from lab import arena, rootfs, servers
from lab.errors import LabError
from lab.progress import say
from lab.unread_bodies import backends, judge, runner

SECONDS = 180
SHOWN = 12
LEGEND = """mixed: a server took what two clients sent for one request; smuggled: it took a part of a body for a request;
foreign: a visitor got what was said to somebody else; failed: a visitor got an error, or nothing"""


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("server", nargs="*", metavar="SERVER", help=f"of {', '.join(s.name for s in backends.SERVERS)}; all when none is named")
    command.add_argument("--trusting", action="store_true", help="Trivet with trusted_framing: which servers may have it?")
    command.add_argument("--json", type=Path, metavar="FILE", help="write every finding there")
    command.add_argument("--balancer", type=Path, help="a built trivet-balancer (default: build one)")
    command.add_argument("--profile", default=argparse.SUPPRESS, help="cargo's profile (default: lab)")


def main(options: argparse.Namespace) -> int:
    chosen = choose(options.server)
    if arena.inside():
        return _inside(options, chosen)
    balancer = arena.prepare(options.balancer, options.profile)
    again = ["unread-bodies", *options.server, "--balancer", str(balancer)]
    again += ["--json", str(options.json.resolve())] if options.json else []
    again += ["--trusting"] if options.trusting else []
    return arena.enter(again, SECONDS)


def choose(names: list[str]) -> list[backends.Server]:
    known = {server.name.lower(): server for server in backends.SERVERS}
    if unknown := [name for name in names if name.lower() not in known]:
        raise LabError(f"no server {unknown[0]!r}; there are: {', '.join(s.name for s in backends.SERVERS)}")
    return [known[name.lower()] for name in names] or backends.SERVERS


def _inside(options: argparse.Namespace, chosen: list[backends.Server]) -> int:
    arena.settle()
    root = rootfs.ensure()
    backends.furnish(root)
    folder = Path(tempfile.mkdtemp(prefix="trivet-unread-bodies-"))
    processes = arena.Processes(folder)
    try:
        certificates = servers.make_certificates(folder / "certificates")
        versions = {proxy: servers.version(proxy, root, options.balancer) for proxy in servers.NAMES}
        say(f"{len(chosen)} servers behind Trivet, HAProxy {versions['haproxy']} and nginx {versions['nginx']}")
        results = asyncio.run(runner.run(chosen, processes, certificates, root, options.balancer, options.trusting))
    finally:
        processes.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        plain = {s: {m: {p: dataclasses.asdict(o) for p, o in of.items()} for m, of in modes.items()} for s, modes in results.items()}
        options.json.write_text(json.dumps({"versions": versions, "outcomes": plain}, indent=1) + "\n")
    failures = failed(results)
    for failure in failures[:SHOWN]:
        print(failure)
    if len(failures) > SHOWN:
        print(f"… and {len(failures) - SHOWN} more" + ("" if options.json else "; --json FILE has all of them"))
    print(f"\n{table(results)}\n\n{LEGEND}\n")
    say(f"{sum(o.attacks for of in results.values() for m in of.values() for o in m.values())} attacks; {len(failures)} failures of Trivet")
    return 1 if failures else 0


def failed(results: runner.Results) -> list[str]:
    """What is wrong with Trivet, or with this test: attacks that reach nobody prove nothing."""
    wrong = []
    for server, modes in results.items():
        for mode, by_proxy in modes.items():
            ours = by_proxy["trivet"]
            wrong += [f"{server}: {told}" for told in ours.told]
            if ours.reached * 2 < ours.attacks:
                wrong.append(f"{server}: only {ours.reached} of {ours.attacks} attacks on an application that {mode} reached it")
    return wrong


def table(results: runner.Results) -> str:
    rows = [["server", "the application", "attacks", *(proxy for proxy in reversed(servers.NAMES))]]
    for server, modes in results.items():
        for mode, by_proxy in modes.items():
            cells = [_cell(by_proxy[proxy]) for proxy in reversed(servers.NAMES)]
            rows.append([server, mode, str(by_proxy["trivet"].attacks), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(outcome: runner.Outcome) -> str:
    return ", ".join(f"{outcome.counts[kind]} {kind}" for kind in judge.KINDS if outcome.counts[kind]) or "–"
