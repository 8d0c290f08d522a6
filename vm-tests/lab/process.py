"""Running programs, and saying clearly which one failed and what it said."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError


def run(argv: Sequence[str | Path], *, what: str | None = None, input: str | None = None,
        env: dict[str, str] | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run to the end with the output kept. A failure is a LabError that names `what` and quotes the last lines."""
    words = [str(a) for a in argv]
    try:
        done = subprocess.run(words, input=input, capture_output=True, text=True, errors="replace", env=env)
    except FileNotFoundError:
        raise LabError(f"{what or words[0]}: the program {words[0]!r} is not installed") from None
    if check and done.returncode != 0:
        said = " / ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise LabError(f"{what or ' '.join(words)}: exit code {done.returncode}: {said or '(no output)'}")
    return done


def start_time(pid: int) -> int | None:
    """When the kernel started this process (clock ticks since boot); None when it is gone or a zombie.

    A process id with its start time names a process for good: ids are reused, the pair is not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2:].split()
    return None if fields[0] in "ZX" else int(fields[19])


def children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def clean_environment(**extra: str) -> dict[str, str]:
    """What a command inside a machine sees of the caller's environment: the terminal and nothing else."""
    env = {k: v for k, v in os.environ.items() if k in ("TERM", "COLORTERM", "LANG", "LC_ALL")}
    env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return env | extra
