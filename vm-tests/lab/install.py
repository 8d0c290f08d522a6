"""Lay a node's snapshot over a Debian root, byte for byte: what NixOS would install is what the machine runs."""

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

from lab import accounts, farms
from lab.errors import LabError

STORE_PATH = re.compile(r"/nix/store/[0-9a-z]{32}-[A-Za-z0-9+._?=-]+")
UNITS = "etc/systemd/system"


class Snapshot:
    """One node's folder of the snapshots (format: docs/lab.md)."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            self.units: dict[str, dict[str, Any]] = manifest["units"]
            self.etc: dict[str, dict[str, Any]] = manifest["etc"]
            self.tmpfiles: list[str] = manifest["tmpfiles"]
            self.users: dict[str, dict[str, Any]] = manifest["users"]
            self.groups: dict[str, dict[str, Any]] = manifest["groups"]
            self.sysctl: dict[str, object] = manifest["sysctl"]
            self.packages: dict[str, dict[str, Any]] = manifest["packages"]
            self.files: dict[str, dict[str, Any]] = manifest["files"]
        except FileNotFoundError:
            raise LabError(f"{folder}/manifest.json is missing: the snapshots are not complete (nix run .#render)") from None
        except (ValueError, KeyError) as e:
            raise LabError(f"{folder}/manifest.json: {e}") from None

    def text(self, kind: str, name: str) -> bytes:
        return (self.folder / kind / name).read_bytes()


def _put(root: Path, at: str, content: bytes, mode: int) -> Path:
    path = root / at.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        path.unlink()
    path.write_bytes(content)
    path.chmod(mode)
    return path


def _link(root: Path, at: str, target: str) -> None:
    path = root / at.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        path.unlink()
    path.symlink_to(target)


def install(snapshot: Snapshot, root: Path, hostname: str, hosts: dict[str, str]) -> None:
    """Everything of the snapshot, and what a machine has of itself (name, identity)."""
    _put(root, "etc/hostname", f"{hostname}\n".encode(), 0o644)
    _put(root, "etc/machine-id", f"{uuid.uuid4().hex}\n".encode(), 0o444)
    known = "".join(f"{address} {name}\n" for name, address in hosts.items())
    _put(root, "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{known}".encode(), 0o644)
    (root / "var/log/journal").mkdir(parents=True, exist_ok=True)  # the log outlives the power
    _install_store(snapshot, root)
    _install_units(snapshot, root)
    accounts.install(root, snapshot.users, snapshot.groups)
    _install_etc(snapshot, root)
    if snapshot.tmpfiles:
        _put(root, "etc/tmpfiles.d/00-nixos.conf", ("\n".join(snapshot.tmpfiles) + "\n").encode(), 0o644)
    # A machine may set its own network's values only; the rest is the host's kernel.
    own = {k: v for k, v in snapshot.sysctl.items() if k.startswith("net.")}
    lines = "".join(f"{k}={_sysctl_value(v)}\n" for k, v in sorted(own.items()))
    _put(root, "etc/sysctl.d/60-nixos.conf", lines.encode(), 0o644)
    for program in (root / farms.OUR_PROGRAMS.lstrip("/")).iterdir():
        _link(root, f"usr/local/bin/{program.name}", f"{farms.OUR_PROGRAMS}/{program.name}")
    _see_that_all_is_there(snapshot, root)


def host_sysctls(snapshot: Snapshot) -> list[str]:
    """The values that a machine of the lab cannot have of its own."""
    return sorted(k for k in snapshot.sysctl if not k.startswith("net."))


def _sysctl_value(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _install_store(snapshot: Snapshot, root: Path) -> None:
    for path, file in snapshot.files.items():
        if file.get("link"):
            _link(root, path, file["link"])
        else:
            _put(root, path, (snapshot.folder / file["file"]).read_bytes(), 0o555 if file.get("exec") else 0o444)
    for path, package in snapshot.packages.items():
        farms.lay(root, path, package.get("programs", []))


def _install_units(snapshot: Snapshot, root: Path) -> None:
    for name, unit in snapshot.units.items():
        if not unit["enable"]:
            _link(root, f"{UNITS}/{name}", "/dev/null")
            continue
        text = snapshot.text("units", name)
        theirs = (root / "usr/lib/systemd/system" / name).exists()
        # systemd's own units are Debian's, with what NixOS adds; every other unit is NixOS' as a whole.
        as_drop_in = theirs and (name.startswith("systemd-") or unit.get("overrideStrategy") == "asDropin")
        _put(root, f"{UNITS}/{name}.d/overrides.conf" if as_drop_in else f"{UNITS}/{name}", text, 0o644)
        for kind, targets in (("wants", "wantedBy"), ("requires", "requiredBy"), ("upholds", "upheldBy")):
            for target in unit.get(targets, []):
                _link(root, f"{UNITS}/{target}.{kind}/{name}", f"../{name}")
        for alias in unit.get("aliases", []):
            _link(root, f"{UNITS}/{alias}", name)


def _install_etc(snapshot: Snapshot, root: Path) -> None:
    names = {kind: {row.split(":")[0]: int(row.split(":")[2]) for row in (root / "etc" / kind).read_text().splitlines()}
             for kind in ("passwd", "group")}
    for target, entry in snapshot.etc.items():
        if entry["kind"] == "link":
            _link(root, f"etc/{target}", entry["source"])
            continue
        mode = entry.get("mode", "0644")
        path = _put(root, f"etc/{target}", snapshot.text("etc", target), 0o444 if mode == "symlink" else int(mode, 8))
        os.chown(path, _number(names["passwd"], entry.get("user", "root")), _number(names["group"], entry.get("group", "root")))


def _number(known: dict[str, int], name: str) -> int:
    """NixOS writes an owner as a name, or as +number."""
    if name.startswith("+"):
        return int(name[1:])
    if name not in known:
        raise LabError(f"the snapshot gives a file to {name!r}, which is no account of the node")
    return known[name]


def _see_that_all_is_there(snapshot: Snapshot, root: Path) -> None:
    """No installed text may name a store path that the machine does not have."""
    texts = [snapshot.text("units", n) for n, u in snapshot.units.items() if u["enable"]]
    texts += [snapshot.text("etc", t) for t, e in snapshot.etc.items() if e["kind"] != "link"]
    texts += [(snapshot.folder / f["file"]).read_bytes() for f in snapshot.files.values() if not f.get("link")]
    texts += ["\n".join(snapshot.tmpfiles).encode()]
    named = {path for text in texts for path in STORE_PATH.findall(text.decode(errors="replace"))}
    named |= {e["source"] for e in snapshot.etc.values() if e["kind"] == "link"}
    for path in sorted(named):
        top = "/".join(path.split("/")[:4])
        if not os.path.lexists(root / top.lstrip("/")):
            raise LabError(f"{snapshot.folder.name}: the configuration names {path}, which the snapshot does not hold")
