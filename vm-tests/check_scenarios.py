#!/usr/bin/env python3
"""Type-checks every scenario as a driver runs it: behind the symbols of the driver and behind the prelude.

    python3 vm-tests/check_scenarios.py MYPY CACHE

A scenario by itself is a file full of unknown names; together they are one program, so a misspelt helper, a method that one of
the two drivers lacks, or a wrong argument is found before three machines have booted for it.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FRONT = [HERE / "driver_symbols.py", HERE / "prelude.py"]
# Scenarios are read more than they are called: what their helpers take need not be said.
RELAXED = ["--allow-untyped-defs", "--allow-untyped-calls", "--allow-incomplete-defs", "--check-untyped-defs"]


def joined(scenario: Path) -> tuple[str, list[tuple[Path, int]]]:
    """The program, and where each of its lines comes from."""
    text, origin = [], []
    for part in [*FRONT, scenario]:
        lines = part.read_text().splitlines()
        text += lines
        origin += [(part, number) for number in range(1, len(lines) + 1)]
    return "\n".join(text) + "\n", origin


def steps_of_the_document() -> list[str]:
    """`node1# command`, in their order, of docs/disaster.md."""
    return re.findall(r"^(node\d# .*)$", (HERE.parent / "docs/disaster.md").read_text(), re.MULTILINE)


def steps_of_the_scenario() -> list[str]:
    """What the scenario of that name does at a terminal, in the words of the document, whose moment is an example."""
    text = (HERE / "scenarios/disaster.py").read_text().replace("{moment}", "2026-01-02T15:04:05Z")
    return [f"{node}# {command}" for node, command in re.findall(r'\bstep\((node\d), f?"([^"]*)"', text)]


def main(mypy: str, cache: str) -> int:
    with tempfile.TemporaryDirectory(prefix="trivet-scenarios-") as folder:
        origins = {}
        for scenario in sorted((HERE / "scenarios").glob("*.py")):
            module = "scenario_" + scenario.stem.replace("-", "_")
            text, origins[module] = joined(scenario)
            (Path(folder) / f"{module}.py").write_text(text)
        argv = [mypy, "--config-file", str(HERE.parent / "pyproject.toml"), "--cache-dir", cache, *RELAXED, folder]
        said = subprocess.run(argv, cwd=HERE, capture_output=True, text=True)
    problems = set()
    for line in said.stdout.splitlines():
        found = re.match(r".*?(scenario_\w+)\.py:(\d+): (.*)", line)
        if found:
            part, number = origins[found[1]][int(found[2]) - 1]
            problems.add(f"{part.relative_to(HERE.parent)}:{number}: {found[3]}")
        elif "error:" in line:
            problems.add(line)
    if steps_of_the_document() != steps_of_the_scenario():
        problems.add(f"docs/disaster.md and scenarios/disaster.py differ: {steps_of_the_document()} and {steps_of_the_scenario()}")
    print("\n".join(sorted(problems)) if problems else f"scenarios: {len(origins)} are sound")
    if said.stderr:
        print(said.stderr, file=sys.stderr)
    return 1 if problems else said.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
