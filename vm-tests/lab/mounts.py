"""Mounts of the lab: what is there, and taking it away for good."""

import os
import time
from pathlib import Path

from lab.process import run
from lab.progress import warn

# The kernel lets go of a killed machine's files an instant after its processes; under memory pressure that takes seconds.
PATIENCE = 20.0


def below(folder: Path) -> list[Path]:
    """What is mounted in this folder or below it, innermost first."""
    points = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted((p for p in points if p.is_relative_to(folder)), reverse=True)


def unmount(where: Path, patience: float = PATIENCE) -> None:
    """As often as it takes; what is still in use then leaves the tree of files now, and the kernel with its last user."""
    deadline = time.monotonic() + patience
    while os.path.ismount(where):
        done = run(["umount", where], check=False)
        if done.returncode == 0:
            continue  # there may be another mount below it
        if time.monotonic() > deadline:
            warn(f"{where} is still in use ({done.stderr.strip()}): unmounted lazily")
            run(["umount", "--lazy", where], what=f"unmounting {where}")
        else:
            time.sleep(0.1)

