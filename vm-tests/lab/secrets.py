"""The test cluster's secrets, made by the real `trivet secrets init`, and carried to the nodes."""

import os
import shutil
from pathlib import Path

from lab.errors import LabError
from lab.process import run

ON_NODE = "var/lib/trivet/secrets"


def make(trivet: Path, cluster_file: Path, into: Path) -> None:
    run([trivet, "secrets", "init", "--cluster", cluster_file, "--out", into], what="making the cluster's secrets")
    if not (into / "ca/ca.pem").exists():
        raise LabError(f"trivet secrets init made no {into / 'ca/ca.pem'}")


def give(secrets: Path, node: str, root: Path) -> None:
    """As an administrator would: the node's own folder, root's alone. The CA's key stays behind."""
    at = root / ON_NODE
    at.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(secrets / node, at)
    for folder, _, files in os.walk(at):
        os.chmod(folder, 0o700)
        for name in files:
            os.chmod(os.path.join(folder, name), 0o600)
