"""One lab: its machines, its network, its files; bringing it up and leaving nothing behind."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lab import cluster as clusters
from lab import mounts
from lab.cgroup import Cgroup
from lab.client import Client
from lab.errors import LabError
from lab.host import cgroup_root, find_named_hierarchies
from lab.log import Log
from lab.machine import Node
from lab.network import Network
from lab.process import clean_environment, run
from lab.progress import say

REPOSITORY = Path(__file__).resolve().parents[2]
VM_TESTS = REPOSITORY / "vm-tests"


def state_dir() -> Path:
    return Path(os.environ.get("TRIVET_LAB_STATE", "/var/lib/trivet-lab"))


class Lab:
    def __init__(self, name: str, snapshots: Path, log_to: Log, out_dir: Path):
        self.name = name
        self.snapshots = snapshots
        self.folder = state_dir() / name
        self.log_to, self.out_dir = log_to, out_dir
        self.cluster = clusters.load(snapshots / "cluster.json")
        self.network = Network(name, self.cluster.prefix_length)
        self.cgroup = Cgroup(cgroup_root() / f"trivet-lab-{name}")
        hierarchies = find_named_hierarchies(Path("/proc/mounts").read_text())
        self.shadows = [Cgroup(h / self.cgroup.path.name) for h in hierarchies]
        self.nodes = {
            n: Node(name, n, [self.cluster.on_link(address)], self.folder / "nodes" / n, self.network,
                    Cgroup(self.cgroup.path / n), log_to, out_dir)
            for n, address in self.cluster.nodes.items()
        }
        client_addresses = [self.cluster.on_link(clusters.CLIENT_ADDRESS), self.cluster.on_link(clusters.ADMIN_ADDRESS)]
        self.client = Client(name, client_addresses, self.folder / "client", self.network,
                             Cgroup(self.cgroup.path / "client"), log_to, out_dir, VM_TESTS)
        self.client.know({self.cluster.domain: self.cluster.virtual_addresses[0]}, self.ca if self.ca.exists() else None)

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def ca(self) -> Path:
        return self.secrets / "ca/ca.pem"

    def exists(self) -> bool:
        return self.folder.exists() or bool(self.network.existing()) or self.cgroup.path.exists()

    def is_temporary(self) -> bool:
        """Made by a command for itself (test, chaos, …): once that command is over, nobody wants it."""
        try:
            return bool(json.loads((self.folder / "lab.json").read_text()).get("temporary", False))
        except FileNotFoundError:
            return True  # the rest of one that could not be removed as a whole
        except ValueError:
            return False

    def keep(self) -> None:
        """From now on it is the user's, until `./lab down`."""
        self.describe(temporary=False)

    def describe(self, *, temporary: bool) -> None:
        about = {"name": self.name, "created": int(time.time()), "temporary": temporary}
        (self.folder / "lab.json").write_text(json.dumps(about))

    def make_room(self) -> None:
        """Remove what an earlier command left; the caller holds the lab's lock, so none is at work on it."""
        if self.exists() and self.is_temporary():
            say(f"lab {self.name!r} was left by an earlier command: removing it")
            self.remove()
        self.refuse_if_taken()

    def refuse_if_taken(self) -> None:
        if self.exists():
            raise LabError(f"the name {self.name!r} is taken by a lab that exists: ./lab down --name {self.name} "
                           "removes it, --name OTHER makes another")

    def create(self, *, temporary: bool) -> None:
        """Folder and network; the machines are made and started by whoever asked."""
        self.make_room()
        (self.folder / "nodes").mkdir(parents=True)
        self.describe(temporary=temporary)
        if _on_overlay(self.folder):
            # An overlay cannot have its upper layer on an overlay (a container's own disk): use memory.
            run(["mount", "-t", "tmpfs", "-o", "size=8g,mode=0755", "trivet-lab", self.folder / "nodes"])
        self.network.up()

    def use_secrets(self) -> None:
        self.client.know({self.cluster.domain: self.cluster.virtual_addresses[0]}, self.ca)

    def remove(self) -> None:
        """Leave nothing: no process, mount, namespace, bridge, cgroup, file. Checked, not hoped for.

        A step that fails stops none of the others: what can go goes, and the rest is told.
        """
        problems: list[str] = []
        steps: list[Callable[[], None]] = [
            self.cgroup.kill,  # everything at once, also what a half-made lab left
            *(node.release for node in self.nodes.values()),
            self.client.release,
            *(node.remove_disk for node in self.nodes.values()),
            self._unmount_all,
            self.network.down,
            *(cgroup.remove for cgroup in (self.cgroup, *self.shadows)),
        ]
        for one in steps:
            try:
                one()
            except (LabError, OSError) as e:
                problems.append(str(e))
        shutil.rmtree(self.folder, ignore_errors=True)
        if left := problems + self.left_behind():
            raise LabError(f"lab {self.name!r} left behind: {', '.join(left)}")

    def _unmount_all(self) -> None:
        for where in mounts.below(self.folder):
            mounts.unmount(where)

    def hand_over(self, argv: list[str], env: dict[str, str] | None = None) -> int:
        """Run a command in a machine with the user's terminal, and give its exit code."""
        try:
            return subprocess.run(argv, env=env or clean_environment(HOME="/root")).returncode
        except KeyboardInterrupt:
            return 130

    def left_behind(self) -> list[str]:
        left = [f"process {p}" for p in self.cgroup.processes()]
        left += [f"mount {m}" for m in mounts.below(self.folder)]
        left += [f"network namespace {n}" for n in self.network.existing()]
        left += [f"cgroup {c.path}" for c in (self.cgroup, *self.shadows) if c.path.exists()]
        if self.folder.exists():
            left.append(f"folder {self.folder}")
        return left


def _on_overlay(folder: Path) -> bool:
    return run(["stat", "-f", "-c", "%T", folder]).stdout.strip() == "overlayfs"
