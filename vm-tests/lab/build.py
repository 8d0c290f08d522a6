"""Trivet's own programs, from the working tree, by cargo; and the layer that carries them into the machines."""

import os
import shutil
import subprocess
from pathlib import Path

from lab import farms
from lab.errors import LabError
from lab.host import BUILD_TOOLS, install_tools, require_cargo
from lab.progress import step

PROGRAMS = ["trivet", "trivet-balancer", "trivet-web", "trivet-app", "trivet-keeper", "trivet-backup",
            "trivet-transfer"]


def target_dir(repository: Path) -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", repository / "target"))


def build(repository: Path, profile: str) -> Path:
    """Build, and return the folder with the programs."""
    require_cargo()
    install_tools(BUILD_TOOLS)
    argv = ["cargo", "build", "--locked", "--bins", "--profile", profile]
    with step(f"building Trivet (cargo, profile {profile}; the first time takes minutes)"):
        # cargo's own progress goes to the terminal; its output is the user's best explanation when it fails.
        if subprocess.run(argv, cwd=repository).returncode != 0:
            raise LabError(f"{' '.join(argv)} failed: see its output above")
    built = target_dir(repository) / {"dev": "debug"}.get(profile, profile)
    if missing := [p for p in PROGRAMS if not (built / p).exists()]:
        raise LabError(f"the build made no {', '.join(missing)} in {built}")
    return built


def build_one(repository: Path, profile: str, program: str) -> Path:
    """Build one program (fat LTO takes minutes for each), and return its path."""
    require_cargo()
    install_tools(BUILD_TOOLS)
    argv = ["cargo", "build", "--locked", "--profile", profile, "--bin", program]
    with step(f"building {program} (cargo, profile {profile}; the first time takes minutes)"):
        if subprocess.run(argv, cwd=repository).returncode != 0:
            raise LabError(f"{' '.join(argv)} failed: see its output above")
    return target_dir(repository) / {"dev": "debug"}.get(profile, profile) / program


def lay_programs(built: Path, layer: Path) -> None:
    """Copies, not links: a running lab keeps its programs while someone builds anew."""
    at = layer / farms.OUR_PROGRAMS.lstrip("/")
    at.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        shutil.copy(built / program, at / program)
        (at / program).chmod(0o755)
