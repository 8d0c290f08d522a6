"""`./lab differential`."""

import argparse
import asyncio
import json
import shutil
import tempfile
from pathlib import Path

from lab import arena, rootfs, servers
from lab.differential import corpus, known, page, runner
from lab.progress import say, warn
from lab.running import REPOSITORY

SECONDS = 240
PAGE = REPOSITORY / "docs/http-differential.md"


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("case", nargs="*", metavar="CASE", help="which, by name or pattern; all when none is named")
    command.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    command.add_argument("--accept", action="store_true",
                         help="write what happened into the table; what is new there needs a reason, by hand")
    command.add_argument("--ours", action="store_true", help="what HAProxy and nginx do otherwise than recorded is told, and no failure")
    command.add_argument("--balancer", type=Path, help="a built trivet-balancer (default: build one)")
    command.add_argument("--profile", default=argparse.SUPPRESS, help="cargo's profile (default: lab)")


def main(options: argparse.Namespace) -> int:
    if arena.inside():
        return _inside(options)
    balancer = arena.prepare(options.balancer, options.profile)
    again = ["differential", *options.case, "--balancer", str(balancer)]
    if options.json:
        again += ["--json", str(options.json.resolve())]
    again += [name for name, wanted in (("--accept", options.accept), ("--ours", options.ours)) if wanted]
    return arena.enter(again, SECONDS)


def _inside(options: argparse.Namespace) -> int:
    arena.settle()
    cases = {case.name: case for case in corpus.all_cases()}
    chosen = [cases[name] for name in known.choose(list(cases), options.case)]
    table = known.load()
    root = rootfs.ensure()
    recorded = {case: outcomes for k in table.known for case, outcomes in k.outcomes.items()}
    versions = {server: servers.version(server, root, options.balancer) for server in servers.NAMES}
    folder = Path(tempfile.mkdtemp(prefix="trivet-differential-"))
    processes = arena.Processes(folder)
    try:
        certificates = servers.make_certificates(folder / "certificates")
        say(f"{len(chosen)} byte streams through Trivet, HAProxy {versions['haproxy']} and nginx {versions['nginx']}")
        outcomes, wrong = asyncio.run(runner.run(chosen, processes, certificates, root, options.balancer, recorded))
    finally:
        processes.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps({"versions": versions, "outcomes": outcomes, "wrong": wrong}, indent=1) + "\n")
    if options.accept:
        unexplained = known.write(table, outcomes, versions)
        if not unexplained:
            PAGE.write_text(page.render(known.load(), cases))
        say(f"{known.FILE.name} written; {unexplained} differences need a reason")
        return 0 if not unexplained and not wrong else 1
    everything = len(chosen) == len(cases)
    verdict = known.judge(table if everything else _only(table, outcomes), outcomes, versions, options.ours)
    failures = [f"{case}: {why}" for case, whys in wrong.items() for why in whys] + verdict.failures
    if everything and not failures and PAGE.read_text() != page.render(table, cases):
        failures.append(f"{PAGE.name} is older than {known.FILE.name}: ./lab differential --accept")
    for note in verdict.notes:
        warn(note)
    for failure in failures:
        print(failure)
    alike = sum(len(set(o.values())) == 1 for o in outcomes.values())
    say(f"{len(outcomes)} cases: {alike} alike, {len(outcomes) - alike} different; {len(failures)} failures")
    return 1 if failures else 0


def _only(table: known.Table, outcomes: dict[str, dict[str, str]]) -> known.Table:
    """The part of the table that is about the chosen cases."""
    return known.Table(table.versions, [known.Known(k.why, {c: o for c, o in k.outcomes.items() if c in outcomes}) for k in table.known])
