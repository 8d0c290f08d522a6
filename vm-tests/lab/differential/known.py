"""The table of known differences (known.toml): what each server does, and why Trivet does what it does."""

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.servers import NAMES

FILE = Path(__file__).with_name("known.toml")

# Between the outcomes of a server that does not do the same every time.
OR = " or: "


def is_recorded(happened: str, recorded: str) -> bool:
    """Whether this is the recorded outcome, or one of them."""
    return happened in recorded.split(OR)


@dataclass(frozen=True)
class Known:
    """One explanation, and the cases it holds for with their recorded outcomes."""

    why: str
    outcomes: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Table:
    versions: dict[str, str]
    known: list[Known]

    def of(self, case: str) -> tuple[Known, dict[str, str]] | None:
        return next(((k, k.outcomes[case]) for k in self.known if case in k.outcomes), None)


def load(path: Path = FILE) -> Table:
    raw = tomllib.loads(path.read_text()) if path.exists() else {}
    known = []
    seen: set[str] = set()
    for entry in raw.get("difference", []):
        if not entry.get("why", "").strip():
            raise LabError(f"{path.name}: a difference without a reason")
        for case, outcome in entry["cases"].items():
            if case in seen or set(outcome) != set(NAMES):
                raise LabError(f"{path.name}: case {case!r} stands twice, or lacks one of {', '.join(NAMES)}")
            seen.add(case)
        known.append(Known(entry["why"].strip(), entry["cases"]))
    return Table(raw.get("versions", {}), known)


@dataclass(frozen=True)
class Verdict:
    """`failures` end the run with 1; `notes` are told."""

    failures: list[str]
    notes: list[str]


def judge(table: Table, outcomes: dict[str, dict[str, str]], versions: dict[str, str], ours: bool = False) -> Verdict:
    """Compare what happened with what is known; what the others do that is new is only a note with `ours`.

    A reference server of another version than the recorded one may have learnt something: that is a note. The same version
    that does something else, or Trivet that does, is a failure.
    """
    failures: list[str] = []
    notes: list[str] = []
    for case, happened in outcomes.items():
        found = table.of(case)
        if found is None:
            if len(set(happened.values())) > 1:
                alone = all(happened["trivet"] != happened[s] for s in happened if s != "trivet")
                (notes if ours and not alone else failures).append(f"{case}: a difference nobody has explained\n" + _rows(happened))
            continue
        for server, recorded in found[1].items():
            if is_recorded(happened[server], recorded):
                continue
            text = f"{case}: {server} does something else than the table says\n    now   {happened[server]}\n    table {recorded}"
            drifted = server != "trivet" and (ours or versions.get(server) != table.versions.get(server))
            (notes if drifted else failures).append(text)
    for known in table.known:
        failures += [f"{case}: stands in the table, but there is no such case" for case in known.outcomes if case not in outcomes]
    return Verdict(failures, notes)


def _rows(happened: dict[str, str]) -> str:
    return "\n".join(f"    {server:8}{outcome}" for server, outcome in happened.items())


def _quote(text: str) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else {'"': '\\"', "\\": "\\\\"}.get(c, c) for c in text) + '"'


def write(table: Table, outcomes: dict[str, dict[str, str]], versions: dict[str, str], path: Path = FILE) -> int:
    """Bring the table's outcomes up to date; what differs and has no reason yet goes to the end, for a person to explain.

    Returns how many those are: they fail until they have a reason.
    """
    out = ["# What Trivet, HAProxy and nginx do differently with the same bytes, and why. `./lab differential --accept` writes the", "# outcomes; the reasons are a person's. A case that is not here is treated alike by all three.", "",
           "[versions]", *(f"{server} = {_quote(v)}" for server, v in versions.items() if server != "trivet"), ""]
    left = {c: o for c, o in outcomes.items() if len(set(o.values())) > 1}
    for known in table.known:
        cases = {c: _kept(left.pop(c), known.outcomes[c]) for c in known.outcomes if c in left}
        if cases:
            out += _entry(known.why, cases)
    if left:
        out += _entry("", left)
    path.write_text("\n".join(out))
    return len(left)


def _kept(happened: dict[str, str], recorded: dict[str, str]) -> dict[str, str]:
    """What happened, but where one of several recorded outcomes did, all of these."""
    return {s: recorded[s] if is_recorded(outcome, recorded[s]) else outcome for s, outcome in happened.items()}


def _entry(why: str, cases: dict[str, dict[str, str]]) -> list[str]:
    lines = ["[[difference]]", f"why = {_quote(why)}"]
    for case, outcome in cases.items():
        lines.append(f"[difference.cases.{case if case.replace('-', '').replace('_', '').isalnum() else _quote(case)}]")
        lines += [f"{server} = {_quote(text)}" for server, text in outcome.items()]
    return [*lines, ""]


def choose(names: list[str], patterns: list[str]) -> list[str]:
    """The cases named; all without patterns."""
    if not patterns:
        return names
    chosen = [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    if not chosen:
        raise LabError(f"no case is called {' or '.join(patterns)}")
    return chosen
