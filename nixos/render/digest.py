#!/usr/bin/env python3
"""Tells, without Nix, whether vm-tests/snapshots/ was rendered from the modules as they are now.

Renderer and check agree on one number: the SHA-256 over everything that the snapshots are made from. A digest cannot say what
changed, and a comment counts as a change; `nix run .#render -- --check` compares exactly.
"""

import hashlib
import json
import sys
from pathlib import Path


def inputs(root: Path) -> list[Path]:
    """The files that decide what the snapshots say, in a fixed order."""
    found = [root / "flake.nix", root / "flake.lock", *root.glob("vm-tests/*.nix")]
    found += [p for p in (root / "nixos").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return sorted(found, key=lambda p: p.relative_to(root).as_posix())


def digest(root: Path) -> str:
    """SHA-256 over path and content of every input."""
    total = hashlib.sha256()
    for path in inputs(root):
        content = path.read_bytes()
        total.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    recorded = root / "vm-tests/snapshots/digest.json"
    try:
        expected = json.loads(recorded.read_text())["nixos"]
    except (OSError, ValueError, KeyError) as error:
        print(f"snapshots: {recorded} cannot be read ({error}); write it with: nix run .#render", file=sys.stderr)
        return 1
    if digest(root) != expected:
        print(
            "snapshots: vm-tests/snapshots/ is older than the NixOS modules it is rendered from (flake.nix, flake.lock, "
            "nixos/, vm-tests/*.nix), so the lab would test another configuration than NixOS installs.\n"
            "On a machine with Nix run: nix run .#render, look at the differences, and commit them.",
            file=sys.stderr,
        )
        return 1
    print("snapshots: rendered from the modules as they are")
    return 0


if __name__ == "__main__":
    sys.exit(main())
