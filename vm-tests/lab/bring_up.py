"""From nothing to three booted nodes with Trivet on them, and the wait until the site answers."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import build, host, install, rootfs, secrets
from lab.errors import LabError
from lab.machine import Node
from lab.process import clean_environment
from lab.progress import say, step, warn
from lab.running import REPOSITORY, Lab

SITE_TIMEOUT = 240


@dataclass(frozen=True)
class Parts:
    """What every lab of this run is made of."""

    root: Path  # Debian
    programs: Path  # the folder of the cargo build


def prepare(profile: str) -> Parts:
    host.install_tools(host.LAB_TOOLS)
    root = rootfs.ensure()
    return Parts(root, build.build(REPOSITORY, profile))


def create(lab: Lab, parts: Parts, *, temporary: bool = False) -> None:
    """Network, secrets, disks with the snapshots on them. Nothing is switched on yet."""
    lab.create(temporary=temporary)
    layer = lab.folder / "programs"
    build.lay_programs(parts.programs, layer)
    secrets.make(parts.programs / "trivet", lab.snapshots / "cluster.json", lab.secrets)
    lab.use_secrets()
    with ThreadPoolExecutor() as pool:
        left_out = list(pool.map(lambda node: _install_node(lab, node, parts, layer), lab.nodes.values()))
    if not temporary and (keys := sorted({key for keys in left_out for key in keys})):
        warn(f"kernel settings that only a real node can have are left out: {', '.join(keys)}")


def _install_node(lab: Lab, node: Node, parts: Parts, layer: Path) -> list[str]:
    node.make_disk([layer, parts.root])
    snapshot = install.Snapshot(lab.snapshots / node.name)
    install.install(snapshot, node.root, node.name, lab.cluster.nodes)
    secrets.give(lab.secrets, node.name, node.root)
    return install.host_sysctls(snapshot)


def switch_on(lab: Lab) -> None:
    lab.client.start()
    for node in lab.nodes.values():
        node.start()


def ask_site(lab: Lab) -> str | None:
    """None when the site answers with a page at its name; else what was wrong."""
    argv = lab.client.enter_command(["curl", "-sS", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", lab.cluster.url])
    done = subprocess.run(argv, capture_output=True, text=True, env=lab.client.environment())
    if done.returncode == 0 and done.stdout == "200":
        return None
    return done.stderr.strip() or f"status {done.stdout}"


def wait_for_site(lab: Lab, timeout: float = SITE_TIMEOUT) -> None:
    began = said = time.monotonic()
    while (problem := ask_site(lab)) is not None:
        now = time.monotonic()
        if dead := [n.name for n in lab.nodes.values() if not n.is_up()]:
            raise LabError(f"{', '.join(dead)} stopped while the site was starting; logs: {lab.folder / 'nodes'}/*/console.log")
        if now - began > timeout:
            raise LabError(f"the site did not answer within {timeout:.0f} s ({problem}); {_failing_units(lab)}"
                           f"look: ./lab run node1 -- systemctl --failed; ./lab run node1 -- journalctl -b")
        if now - said > 10:
            said = now
            say(f"  still waiting: {problem}")
        time.sleep(0.3)


def _failing_units(lab: Lab) -> str:
    found = []
    for node in lab.nodes.values():
        _, out = node.execute("systemctl list-units --failed --no-legend --plain || true")
        found += [f"{node.name}: {line.split()[0]} failed" for line in out.splitlines() if line.strip()]
    return "".join(f"{f}; " for f in found)


def up(lab: Lab, profile: str) -> None:
    parts = prepare(profile)
    with step("installing the snapshots on three nodes"):
        create(lab, parts)
    with step("booting"):
        switch_on(lab)
        for node in lab.nodes.values():
            node.leader()
    with step(f"waiting until {lab.cluster.url} answers at {lab.cluster.virtual_addresses[0]}"):
        wait_for_site(lab)
    with step("publishing the example articles"):
        publish(lab.nodes[min(lab.nodes)], REPOSITORY / "examples/articles")


def publish(node: Node, articles: Path) -> None:
    """What there is to read, by the operator's own command; it waits for a primary of the database."""
    there = "/usr/local/share/trivet/articles"
    node.copy_from_host(str(articles), there)
    program = "trivet-app --config /etc/trivet/app.json --env-file /var/lib/trivet/secrets/app.env"
    status, said = node.execute(f"{program} import {there} 2>&1", timeout=120)
    if status != 0:
        raise LabError(f"importing {articles} on {node.name}: exit code {status}: {said.strip() or '(no output)'}")


def save_logs(lab: Lab, into: Path) -> None:
    """Journals and consoles, for whoever has to find out what went wrong."""
    into.mkdir(parents=True, exist_ok=True)
    for node in lab.nodes.values():
        if not node.root.exists():
            continue
        (into / f"{node.name}.journal").write_text(node.journal())
        if node.console_log.exists():
            (into / f"{node.name}.console").write_bytes(node.console_log.read_bytes())
        if node.is_up():
            done = subprocess.run(node.enter_command(["sh", "-c", "systemctl --no-pager list-units --all; ip -br a; ss -tlnp"]),
                                  capture_output=True, text=True, env=clean_environment())
            (into / f"{node.name}.state").write_text(done.stdout)
