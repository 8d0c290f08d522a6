#!/usr/bin/env python3
"""Writes vm-tests/snapshots/: what NixOS would install on each node of the test cluster.

    nix run .#render              write them
    nix run .#render -- --check   compare with those committed, write nothing

By evaluation alone: snapshot.nix reads units and /etc entries off the configuration, and the generated files they refer to are
texts inside derivations (`nix derivation show`), which this program follows. Packages end the path: of them the snapshots
record the name and the programs used. The hash part of store paths is replaced by one made from name and content, so that a
snapshot changes when a node's configuration does, and not when a compiler does.

TRIVET_NIXPKGS is the nixpkgs to evaluate with; `nix run` sets it to the flake's own.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from digest import digest

STORE = "/nix/store/"
OBJECT = re.compile(r"/nix/store/([0-9a-z]{32})-([0-9A-Za-z+._?=-]+)")
NIX = ["nix", "--extra-experimental-features", "nix-command flakes"]


class Refused(Exception):
    """The snapshots cannot be made; the message says why."""


def nix(*args: str) -> str:
    done = subprocess.run([*NIX, *args], capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused(f"nix {args[0]} failed:\n{done.stderr}")
    return done.stdout


def full(path: str) -> str:
    """`nix derivation show` leaves the store's folder off in its newer formats."""
    return path if path.startswith("/") else STORE + path


def top(path: str) -> str:
    """The store object a path lies in."""
    return "/".join(path.split("/")[:4])


class Derivations:
    """What derivations say, asked for in batches and remembered."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}

    def load(self, paths: list[str]) -> None:
        missing = sorted({p for p in paths if p not in self.known})
        if not missing:
            return
        shown = json.loads(nix("derivation", "show", *missing))
        for path, value in shown.get("derivations", shown).items():
            self.known[full(path)] = value

    def inputs(self, path: str) -> list[str]:
        value = self.known[path]
        return [full(p) for p in (value.get("inputs", {}).get("drvs") or value.get("inputDrvs") or {})]

    def outputs(self, path: str) -> dict[str, str]:
        return {name: full(o["path"]) for name, o in self.known[path]["outputs"].items() if o.get("path")}


def generated(value: dict[str, Any]) -> dict[str, Any] | None:
    """The file that a derivation generates from text it carries, or None for a package.

    nixpkgs has few ways to make one: writeText and its relatives (attribute `text`), the JSON and YAML formats (attribute
    `value`; JSON is YAML), links, and files put together from others."""
    env = dict(value.get("env") or {})
    env.update(value.get("structuredAttrs") or {})
    if "__json" in env:
        env.update(json.loads(env["__json"]))
    out = value["outputs"].get("out", {}).get("path")
    if not out:
        return None
    out, command = full(out), env.get("buildCommand") or ""
    executable = env.get("executable") in ("1", True)
    if "text" in env:
        unit = re.search(r"^name=(\S+)$", command, re.M)
        if unit and 'mv "$textPath" "$out/$name"' in command:
            return {"path": f"{out}/{unit[1]}", "text": env["text"], "exec": executable}
        return {"path": out + (env.get("destination") or ""), "text": env["text"], "exec": executable}
    if "value" in env and re.search(r"jq|json2yaml", command):
        data = env["value"] if not isinstance(env["value"], str) else json.loads(env["value"])
        return {"path": out, "text": json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "exec": False}
    if "cat $files" in command:
        files = env["files"] if isinstance(env["files"], list) else env["files"].split()
        return {"path": out, "parts": files, "exec": False}
    return None


class Node:
    """One node's files: from the roots that its units name, along every store path that a text mentions."""

    def __init__(self, data: dict[str, Any], derivations: Derivations) -> None:
        self.data, self.derivations = data, derivations
        self.files: dict[str, dict[str, Any]] = {}  # path → {text, exec}
        self.packages: dict[str, dict[str, Any]] = {}  # store object → {name, output}
        self.follow([r for r in data["roots"] if r.endswith(".drv")])
        sources = [r for r in data["roots"] if not r.endswith(".drv")]
        if sources:
            raise Refused(f"files copied from the source tree cannot be rendered; generate them: {' '.join(sources)}")

    def follow(self, todo: list[str]) -> None:
        seen: set[str] = set()
        while todo:
            self.derivations.load(todo)
            following = []
            for path in todo:
                seen.add(path)
                file = generated(self.derivations.known[path])
                if file is None:
                    for output, store in self.derivations.outputs(path).items():
                        self.packages[store] = {"name": self.derivations.known[path]["name"], "output": output}
                    continue
                mentioned = file["text"] if "text" in file else "\n".join(file["parts"])
                inputs = self.derivations.inputs(path)
                self.derivations.load(inputs)
                following += [
                    i
                    for i in inputs
                    if i not in seen and any(o in mentioned for o in self.derivations.outputs(i).values())
                ]
                self.files[file.pop("path")] = file
            todo = sorted(set(following) - seen)
        for file in self.files.values():
            if "parts" in file:
                file["text"] = "".join(self.files[p]["text"] for p in file.pop("parts"))

    def texts(self) -> Iterator[str]:
        """Every text that is installed: what it mentions must exist on the node."""
        yield from (u["text"] for u in self.data["units"].values())
        yield from self.data["tmpfiles"]
        needed, todo = set(), [e["source"] for e in self.data["etc"].values()]
        todo += [m[0] for t in [*(u["text"] for u in self.data["units"].values()), *self.data["tmpfiles"]] for m in OBJECT.finditer(t)]
        while todo:
            store = top(todo.pop())
            for path, file in self.files.items():
                if top(path) == store and path not in needed:
                    needed.add(path)
                    todo += [m[0] for m in OBJECT.finditer(file["text"])]
        self.files = {p: f for p, f in self.files.items() if p in needed}
        yield from (f["text"] for f in self.files.values())


class Names:
    """Store objects under names that depend on what they are, not on how they are built."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.done: dict[str, str] = {}
        self.by_object = {top(p): (p, f) for p, f in node.files.items()}

    def of(self, store: str) -> str:
        if store not in self.done:
            name = store[len(STORE) + 33 :]
            seed = f"package\0{name}"
            if store in self.by_object:
                path, file = self.by_object[store]
                seed = f"file\0{path[len(store):]}\0{int(file['exec'])}\0{name}\0{self.text(file['text'])}"
            self.done[store] = f"{STORE}{short_hash(seed)}-{name}"
        return self.done[store]

    def text(self, text: str) -> str:
        return OBJECT.sub(lambda m: self.of(m[0]), text)


def short_hash(seed: str) -> str:
    """32 characters of Nix' alphabet."""
    alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:20], "big")
    return "".join(alphabet[(number >> (5 * i)) & 31] for i in range(32))


def write_node(folder: Path, data: dict[str, Any], derivations: Derivations) -> None:
    node = Node(data, derivations)
    texts = list(node.texts())
    names = Names(node)
    blob = "\n".join(texts)

    def put(relative: str, text: str) -> None:
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    # A file that /etc links to is kept under its /etc name, the name people know; the others under their store name.
    in_etc = {e["source"]: f"etc/{target}" for target, e in sorted(data["etc"].items(), reverse=True)}
    files, taken = {}, set()
    for path, file in sorted(node.files.items(), key=lambda item: names.text(item[0])):
        relative = in_etc.get(path) or "store/" + path[len(STORE) + 33 :]
        if relative in taken:
            relative += "." + names.of(top(path))[len(STORE) :][:6]
        taken.add(relative)
        put(relative, names.text(file["text"]))
        files[names.text(path)] = {"file": relative, "exec": file["exec"], "link": None}

    packages = {}
    for store, package in node.packages.items():
        if not re.search(re.escape(store) + r"(?![0-9A-Za-z+._?=-])", blob):
            continue
        programs = sorted(set(re.findall(re.escape(store) + r"/s?bin/([A-Za-z0-9_.+-]+)", blob)))
        packages[names.of(store)] = {
            "name": re.sub(r"-[0-9].*$", "", package["name"]),
            "output": package["output"],
            "programs": programs,
        }
    unknown = {m[0] for m in OBJECT.finditer(blob)} - set(node.packages) - {top(p) for p in node.files}
    if unknown:
        raise Refused(f"{folder.name}: made only when a system is built, so not to be rendered: {' '.join(sorted(unknown))}")

    etc = {}
    for target, entry in data["etc"].items():
        if entry["source"] not in node.files:
            raise Refused(f"{folder.name}: /etc/{target} is made only when a system is built ({entry['source']})")
        link = entry["mode"] == "symlink"
        etc[target] = {
            "kind": "link" if link else "file",
            "mode": "0444" if link else entry["mode"],
            "user": entry["user"],
            "group": entry["group"],
            "source": names.text(entry["source"]),
        }
    units = {}
    for name, unit in data["units"].items():
        put(f"units/{name}", names.text(unit["text"]))
        units[name] = {key: value for key, value in unit.items() if key != "text"}
    manifest = {
        "units": units,
        "etc": etc,
        "tmpfiles": [names.text(rule) for rule in sorted(data["tmpfiles"])],
        "users": data["users"],
        "groups": data["groups"],
        "sysctl": data["sysctl"],
        "packages": packages,
        "files": files,
    }
    put("manifest.json", json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def evaluate(root: Path, nixpkgs: str, name: str) -> dict[str, Any]:
    """The value of `nixos/render/name`."""
    value: dict[str, Any] = json.loads(
        nix("eval", "--json", "--impure", "--expr", f"import {root}/nixos/render/{name} {{ nixpkgs = {nixpkgs}; }}")
    )
    return value


def render(root: Path, nixpkgs: str, out: Path) -> None:
    print("evaluating the test cluster …", file=sys.stderr)
    nodes = evaluate(root, nixpkgs, "snapshot.nix")
    derivations = Derivations()
    for name, data in nodes.items():
        print(f"rendering {name} …", file=sys.stderr)
        write_node(out / name, data, derivations)
    first = out / min(nodes) / "etc/trivet/cluster.json"
    (out / "cluster.json").write_text(first.read_text())
    print("evaluating the other examples …", file=sys.stderr)
    for example, files in evaluate(root, nixpkgs, "examples.nix").items():
        folder = out / "examples" / example
        folder.mkdir(parents=True)
        for name, value in files.items():
            text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            # Which build of a package it is says nothing here.
            (folder / name).write_text(re.sub(r"/nix/store/[0-9a-z]{32}-", f"/nix/store/{'0' * 32}-", text))
    (out / "digest.json").write_text(json.dumps({"nixos": digest(root)}, indent=2) + "\n")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def repository() -> Path:
    for folder in [Path.cwd(), *Path.cwd().parents]:
        if (folder / "nixos/render/snapshot.nix").exists():
            return folder
    raise Refused("run it inside the repository of Trivet")


def main() -> int:
    parser = argparse.ArgumentParser(description="Render the test cluster's configuration to vm-tests/snapshots/.")
    parser.add_argument("--check", action="store_true", help="compare with the committed snapshots; write nothing")
    options = parser.parse_args()
    try:
        root = repository()
        nixpkgs = os.environ.get("TRIVET_NIXPKGS")
        if not nixpkgs:
            raise Refused("TRIVET_NIXPKGS is not set; start it with `nix run .#render`, or set it to a copy of nixpkgs")
        target = root / "vm-tests/snapshots"
        with tempfile.TemporaryDirectory(prefix="trivet-snapshots-") as folder:
            fresh = Path(folder)
            render(root, nixpkgs, fresh)
            if options.check:
                old, new = contents(target), contents(fresh)
                stale = sorted(p for p in old.keys() | new.keys() if old.get(p) != new.get(p))
                if stale:
                    raise Refused("vm-tests/snapshots/ is stale in:\n  " + "\n  ".join(stale) + "\nrun: nix run .#render")
                print("snapshots: equal to what the modules make", file=sys.stderr)
            else:
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(fresh, target)
                # That of a temporary folder is for its owner alone.
                target.chmod(0o755)
                print(f"wrote {target}", file=sys.stderr)
    except Refused as refusal:
        print(f"render: {refusal}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
