"""./lab chaos and ./lab bench-failover: rounds of faults on machines of the lab, and what they came to (docs/chaos.md)."""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from chaos import faults, rounds, schedule, table
from chaos.schedule import Step
from lab import apps, bring_up, broken, build, host
from lab.errors import LabError
from lab.log import Log
from lab.progress import say, warn
from lab.running import REPOSITORY, Lab
from lab.scenarios import PRELUDE, Driver

NAME = "trivet-chaos"
Users = rounds.Ledger | rounds.ReferenceSite
# For three members from nothing, two of them cloned, on a machine that has other work: seconds.
BOOT = 300
# The programs whose clock a node's clock is.
CLOCKED = ("mysql", "trivet-keeper", "trivet-gateway", "trivet-app", "trivet-web", "trivet-balancer")
CLOCK = f"""[Service]
Environment="LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
Environment="FAKETIME_TIMESTAMP_FILE={faults.LAB_CLOCK}"
Environment="FAKETIME_CACHE_DURATION=1"
Environment="FAKETIME_DONT_FAKE_MONOTONIC=1"
Environment="FAKETIME_DONT_RESET=1"
"""


def add_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--minutes", type=float, help="go on for so long (the round that runs is finished)")
    c.add_argument("--runs", type=int, help="or for so many rounds")
    c.add_argument("--seed", default="1", help="the same seed gives the same faults in the same order (default: 1)")
    c.add_argument("--fault", action="append", choices=sorted(faults.FAULTS), help="only this one; may be given more than once")
    c.add_argument("--broken", choices=sorted(broken.BROKEN), help="a cluster that breaks a promise: the checker must object")
    c.add_argument("--markdown", action="store_true", help="no run: the table of all results that are kept, as docs/chaos.md has it")
    _common(c, "ledger")


def add_failover_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--runs", type=int, default=20, help="of each kind (default: 20)")
    c.add_argument("--kind", choices=("planned", "unplanned", "both"), default="both")
    c.add_argument("--markdown", action="store_true", help="no run: the table of all results that are kept")
    _common(c, "site")


def _common(c: argparse.ArgumentParser, app: str) -> None:
    c.add_argument("--app", choices=sorted(rounds.WORKLOADS), default=app,
                   help=f"who is asked: the ledger, made for the checker, or the reference site (default: {app})")
    c.add_argument("--results", type=Path, help="folder for histories and results (default: target/lab/chaos, or …/failover)")
    c.add_argument("--profile", default=argparse.SUPPRESS, help="cargo's profile (default: lab)")


# --- machines ---------------------------------------------------------------------------------------------------


def boot(lab: Lab, parts: bring_up.Parts, users: "Users", *, clock: bool = False, sabotage: broken.Broken | None = None) -> faults.Site:
    """A fresh cluster that carries what the users use, each database on a disk of its own."""
    bring_up.create(lab, parts, temporary=True)
    for node in lab.nodes.values():
        node.use_data_disk()
        if users.app is not None:
            apps.lay(node, users.app, sabotage.environment if sabotage else None)
        if clock:
            at = node.root / faults.LAB_CLOCK.lstrip("/")
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text("+0\n")
            for unit in CLOCKED:
                apps.drop_in(node, unit, "clock", CLOCK)
        if sabotage:
            sabotage.lay(node)
    symbols = Driver(lab).symbols()
    exec(compile(PRELUDE.read_text(), PRELUDE, "exec"), symbols)
    site = SimpleNamespace(**symbols)
    site.start_all()
    site.site_answers()
    site.wait_for_members(site.NODES, timeout=BOOT)
    site.settled()
    users.prepare(site)
    return site


class Run:
    """Rounds on one lab; after a round that did not leave a whole cluster behind, on a new one."""

    def __init__(self, options: argparse.Namespace, name: str, snapshots: Path, results: Path, users: Users, *,
                 sabotage: broken.Broken | None = None):
        self.users = users
        self.name, self.snapshots, self.results, self.sabotage = name, snapshots, results, sabotage
        self.clock = False
        self.parts = bring_up.prepare(options.profile)
        self.lab: Lab | None = None
        self.site: faults.Site | None = None
        self.done: list[rounds.Result] = []

    def one(self, step: Step) -> rounds.Result:
        label = f"r{step.number:03}"
        out = self.results / f"{label}-{step.fault}"
        out.mkdir(parents=True, exist_ok=True)
        # mysqld asks for the time without end, and whoever can have the clock moved (libfaketime) is told slowly: a lab apart.
        clock = step.fault == "clock"
        if self.site is not None and clock != self.clock:
            self.end()
        if self.site is None:
            say("booting three nodes")
            self.clock = clock
            self.lab = Lab(self.name, self.snapshots, Log(self.results / "log"), self.results)
            try:
                self.site = boot(self.lab, self.parts, self.users, clock=clock, sabotage=self.sabotage)
            except Exception as e:
                bring_up.save_logs(self.lab, out)
                raise LabError(f"the cluster did not come up: {e}; logs: {out}") from e
        say(f"{label} {step}")
        result = rounds.run(self.site, step, label, out, self.users)
        say(f"     {'(' + result.node + ') ' if result.node else ''}{result.summary()}")
        self.done.append(result)
        if not result.passed and self.lab is not None:
            bring_up.save_logs(self.lab, out)
            say(f"     kept: {out}")
        if not result.whole:
            self.end()
        return result

    def end(self) -> None:
        if self.lab is not None:
            try:
                self.lab.remove()
            except LabError as e:  # costs the next rounds nothing
                warn(str(e))
        self.lab = self.site = None


def _keep(results: Path, run: Run, about: dict[str, Any]) -> None:
    """One file for each run; the table is made of all that are there."""
    kept = about | {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "rounds": [json.loads(json.dumps(r.__dict__)) for r in run.done]}
    (results / "results.json").write_text(json.dumps(kept, indent=1) + "\n")


def kept(results: Path, app: str) -> list[dict[str, Any]]:
    found = [json.loads(p.read_text()) for p in sorted(results.glob("*/results.json"))]
    return [r for run in found if not run.get("broken") and run.get("app") == app for r in run["rounds"]]


def _folder(options: argparse.Namespace, name: str) -> Path:
    return (options.results or build.target_dir(REPOSITORY) / "lab" / name).resolve()


# --- commands ---------------------------------------------------------------------------------------------------


def main(options: argparse.Namespace, name: str, snapshots: Path) -> int:
    results = _folder(options, "chaos")
    if options.markdown:
        print(table.markdown(kept(results, options.app)))
        return 0
    if options.broken:
        return _broken(options, name, snapshots, results)
    chosen = options.fault or list(faults.FAULTS)
    into = _new_folder(results, f"{options.app}-seed-{options.seed}")
    run = Run(options, name, snapshots, into, rounds.WORKLOADS[options.app]())
    began = time.monotonic()
    limit = 60 * (options.minutes if options.minutes is not None else (10 if options.runs is None else 1e9))
    try:
        for step in schedule.plan(options.seed, chosen):
            if time.monotonic() - began > limit or (options.runs is not None and step.number > options.runs):
                break
            run.one(step)
            _keep(into, run, {"app": options.app, "seed": options.seed, "faults": chosen})
    finally:
        run.end()
    return _tell(run, into)


def _broken(options: argparse.Namespace, name: str, snapshots: Path, results: Path) -> int:
    """Passes when the checker objects."""
    how = broken.BROKEN[options.broken]
    into = _new_folder(results, f"broken-{options.broken}")
    run = Run(options, name, snapshots, into, rounds.Ledger(), sabotage=how)
    passed = 0
    runs = options.runs or 3
    say(f"{options.broken}: {how.about}")
    try:
        for step in schedule.plan(options.seed, options.fault or list(how.faults)):
            if step.number > runs:
                break
            result = run.one(step)
            objected = any(a.split(":")[0] in how.expected for a in result.anomalies)
            passed += objected
            say(f"     {'the checker objects, as it must' if objected else 'FAILED: the checker did not notice'}")
            _keep(into, run, {"app": "ledger", "seed": options.seed, "broken": options.broken})
    finally:
        run.end()
    print(f"{passed} passed, {runs - passed} failed", flush=True)
    return 0 if passed == runs else 1


def _new_folder(results: Path, name: str) -> Path:
    """Earlier runs are kept: the table counts them."""
    number = 1
    while (results / f"{name}-{number}").exists():
        number += 1
    (results / f"{name}-{number}").mkdir(parents=True)
    return results / f"{name}-{number}"


def _tell(run: Run, into: Path) -> int:
    done = [json.loads(json.dumps(r.__dict__)) for r in run.done]
    if not done:
        raise LabError("no round was run")
    print(f"\n{table.text(done)}\n")
    for result in run.done:
        if not result.passed:
            print(f"r{result.number:03} {result.step}: {result.error or result.anomalies[:5]}\n  kept: {into}/r{result.number:03}-{result.fault}")
    print(f"results: {into}/results.json")
    passed = sum(r.passed for r in run.done)
    print(f"{passed} passed, {len(run.done) - passed} failed", flush=True)
    return 0 if passed == len(run.done) else 1


KINDS = {"planned": "switchover", "unplanned": "power-off"}


def failover(options: argparse.Namespace, name: str, snapshots: Path) -> int:
    """How long nobody can write while the primary moves: by the operator's command, and because its node loses power."""
    results = _folder(options, "failover")
    if options.markdown:
        print(table.markdown(kept(results, options.app)))
        return 0
    into = _new_folder(results, f"{options.app}-{options.kind}")
    chosen = list(KINDS) if options.kind == "both" else [options.kind]
    run = Run(options, name, snapshots, into, rounds.WORKLOADS[options.app]())
    number = 0
    try:
        for _ in range(options.runs):
            for kind in chosen:
                number += 1
                role = "primary" if kind == "planned" else "primary-elsewhere"
                run.one(Step(number, KINDS[kind], role, 8.0 if kind == "unplanned" else 0.0, number))
                _keep(into, run, {"app": options.app, "kind": options.kind})
    finally:
        run.end()
    return _tell(run, into)


def tools() -> None:
    host.install_tools(host.LAB_TOOLS | {"mkfs.ext4": "e2fsprogs", "losetup": "mount"})
