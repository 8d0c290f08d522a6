"""Runs scenario files: the symbols of the NixOS test driver, fresh machines for each, a record of what was measured."""

import json
import os
import signal
import time
import traceback
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import apps, bring_up
from lab.client import Client
from lab.commands import retry
from lab.errors import LabError, ScenarioFailed
from lab.log import Log
from lab.machine import Node
from lab.progress import say
from lab.running import VM_TESTS, Lab

FOLDER = VM_TESTS / "scenarios"
PRELUDE = VM_TESTS / "prelude.py"
# No scenario takes minutes when all is well; a time-out is for when it is not.
SCENARIO_TIMEOUT = 900


@dataclass
class Outcome:
    name: str
    seconds: float
    error: str | None = None
    measured: list[dict[str, Any]] = field(default_factory=list)
    logs: Path | None = None
    note: str | None = None  # what its machines left behind

    @property
    def passed(self) -> bool:
        return self.error is None


def available() -> list[str]:
    """Those that run when none is named; one whose name begins with `_` runs only when it is (and not as a NixOS VM test)."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))


def choose(names: list[str]) -> list[str]:
    known = available()
    if unknown := [n for n in names if not (FOLDER / f"{n}.py").exists()]:
        raise LabError(f"no scenario {', '.join(unknown)}; there are: {', '.join(known)}")
    return names or known


class Assertions(unittest.TestCase):
    failureException = ScenarioFailed


class Driver:
    """What a scenario sees as `driver`."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.out_dir = lab.out_dir
        self.logger = lab.log_to

    @property
    def machines(self) -> list[Node | Client]:
        found: list[Node | Client] = [self.lab.client, *self.lab.nodes.values()]
        return sorted(found, key=lambda m: m.name)

    def start_all(self) -> None:
        for machine in self.machines:
            machine.start()

    def join_all(self) -> None:
        for machine in self.machines:
            machine.wait_for_shutdown()

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        with self.logger.nested(f"subtest: {name}"):
            try:
                yield
            except Exception:
                self.logger.headline(f"✗ {name} ({time.monotonic() - began:.1f} s)")
                raise
        self.logger.headline(f"✓ {name} ({time.monotonic() - began:.1f} s)")

    def symbols(self) -> dict[str, object]:
        general = {
            "start_all": self.start_all, "join_all": self.join_all, "subtest": self.subtest, "retry": retry,
            "machines": self.machines, "driver": self, "log": self.logger, "t": Assertions(), "os": os,
        }
        return general | {m.name: m for m in self.machines}


@contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise ScenarioFailed(f"the scenario did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _where(error: BaseException) -> str:
    """The scenario's own line that failed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == FOLDER]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}: " if frames else ""


def run_one(name: str, lab: Lab, parts: bring_up.Parts, keep: bool) -> Outcome:
    """One scenario on fresh machines."""
    began = time.monotonic()
    outcome = Outcome(name, 0.0)
    say(f"{name}")
    try:
        bring_up.create(lab, parts, temporary=True)
        if (app := apps.wanted(FOLDER / f"{name}.py")) is not None:
            for node in lab.nodes.values():
                apps.lay(node, app)
        symbols = Driver(lab).symbols()
        with _deadline(SCENARIO_TIMEOUT):
            exec(compile(PRELUDE.read_text(), PRELUDE, "exec"), symbols)
            exec(compile((FOLDER / f"{name}.py").read_text(), FOLDER / f"{name}.py", "exec"), symbols)
    except Exception as e:
        said = str(e) if len(str(e)) < 500 else f"{str(e)[:500]}… (all of it is in the log)"
        outcome.error = f"{_where(e)}{said or type(e).__name__}"
        lab.log_to.write("".join(traceback.format_exception(e)))
    finally:
        outcome.seconds = time.monotonic() - began
        outcome.measured = [json.loads(p.read_text()) for p in sorted(lab.out_dir.glob("measured-*.json"))]
        if lab.folder.exists():
            try:
                _put_away(lab, outcome, keep)
            except (LabError, OSError) as e:
                outcome.note = str(e)
                say(f"  note: {e}")
    say(f"  {'passed' if outcome.passed else 'FAILED: ' + str(outcome.error)} ({outcome.seconds:.0f} s)")
    return outcome


def _put_away(lab: Lab, outcome: Outcome, keep: bool) -> None:
    """The logs are kept, the machines are not (unless the user wants a look at them)."""
    outcome.logs = lab.out_dir
    try:
        bring_up.save_logs(lab, lab.out_dir)
    finally:
        if keep and outcome.error is not None:
            lab.keep()
            say(f"  kept as it is: ./lab run node1 --name {lab.name} -- …; ./lab down --name {lab.name}")
        else:
            lab.remove()


def run(names: list[str], lab_name: str, snapshots: Path, results: Path, profile: str, keep: bool) -> list[Outcome]:
    chosen = choose(names)
    parts = bring_up.prepare(profile)
    outcomes = []
    for name in chosen:
        out_dir = results / name
        for old in out_dir.glob("*") if out_dir.is_dir() else []:
            if old.is_file():
                old.unlink()
        out_dir.mkdir(parents=True, exist_ok=True)
        lab = Lab(lab_name, snapshots, Log(out_dir / "log"), out_dir)
        outcomes.append(run_one(name, lab, parts, keep))
        if keep and not outcomes[-1].passed:
            break  # its machines stand; there is no place for the next scenario's
    return outcomes
