"""./lab bench-scale: what a large configuration costs a request.

The same balancer twice, on the same core, in interleaved rounds: one site with one back end; and 50 sites with 1,000 routes, a pool of 300 back
ends, of which ten come and go, with an operator's order ten times a second. What differs is the time on a CPU per request; what must not
grow is its memory.
"""

import argparse
import functools
import itertools
import json
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from lab import arena, build, host, rootfs, servers
from lab.bench import backend, load, plan, proc, stats
from lab.bench.cases import CASES
from lab.errors import LabError
from lab.process import run
from lab.progress import say, warn
from lab.running import REPOSITORY

SECONDS = 15 * 60
# What a large configuration may cost (the aim), and how much its memory may grow from the first round to the last.
AIM, GROWTH = 1.05, 1.05
SITES, ROUTES, BACK_ENDS, FLAPPING = 50, 20, 300, 10
BACKEND, FLAPS = 9000, 9050
MEASURED = ("h1-plain-1k", "h2-tls-1k")


def add_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--rounds", type=int, default=5, help="of each kind (default: 5)")
    c.add_argument("--seconds", type=float, default=3, help="of each round (default: 3)")
    c.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    c.add_argument("--balancer", type=Path, help="a built trivet-balancer (default: build one)")
    c.add_argument("--profile", default=argparse.SUPPRESS, help="cargo's profile (default: release)")


def main(options: argparse.Namespace) -> int:
    if arena.inside():
        return _inside(options)
    host.require_host()
    host.install_tools(host.LAB_TOOLS)
    rootfs.ensure()
    profile = options.profile if options.profile != "lab" else "release"
    balancer = (options.balancer or build.build_one(REPOSITORY, profile, "trivet-balancer")).resolve()
    again = ["bench-scale", "--balancer", str(balancer), "--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    if options.json:
        again += ["--json", str(options.json.resolve())]
    return arena.enter(again, SECONDS)


def routes(site: int) -> list[dict[str, Any]]:
    """Twenty of a site, none of which is for what is asked: most by prefix, as people write them."""
    prefixes = [{"path_prefix": f"/section-{site}-{n}", "response_timeout": "10s"} for n in range(ROUTES - 5)]
    exact = [{"path": f"/page-{site}-{n}", "redirect": {"to": f"/section-{site}-{n}"}} for n in range(3)]
    patterns = [{"path_pattern": f"^/user/[0-9]+/{n}$", "refuse": 410} for n in range(2)]
    return [*prefixes, *exact, *patterns]


def large(place: servers.Place, certificates: servers.Certificates) -> str:
    config = json.loads(servers.trivet(place, certificates))
    steady = [{"name": f"b{n}", "address": f"127.0.{1 + n // 250}.{1 + n % 250}:{BACKEND}"} for n in range(BACK_ENDS - FLAPPING)]
    flapping = [{"name": f"f{n}", "address": f"127.0.0.1:{FLAPS + n}"} for n in range(FLAPPING)]
    config["web"]["backends"] = steady + flapping
    config["routes"] = routes(0)
    config["sites"] = {f"site{n}": {"names": [f"site{n}.example"], "routes": routes(n)} for n in range(1, SITES)}
    config["runtime_directory"] = str(place.folder)
    config["control"] = {"state_file": str(place.folder / "orders.json")}
    return json.dumps(config, indent=1)


class Churn:
    """Back ends that come and go, and an operator who drains one after the other, until this is stopped."""

    def __init__(self, control: Path):
        self.control = control
        self.over = threading.Event()
        self.orders = 0
        self.threads = [threading.Thread(target=work) for work in (self._flap, self._order)]
        for thread in self.threads:
            thread.start()

    def _flap(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        for turn in itertools.count():
            listening = []
            for n in range(FLAPPING):
                if (turn + n) % 2:
                    s = socket.socket()
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", FLAPS + n))
                    s.listen(64)
                    s.settimeout(0.02)
                    listening.append(s)
            until = time.monotonic() + 1.5
            while time.monotonic() < until and not self.over.is_set():
                if not listening:
                    time.sleep(0.02)
                for s in listening:
                    try:
                        connection, _ = s.accept()
                    except OSError:
                        continue
                    with connection:
                        try:
                            connection.settimeout(0.2)
                            connection.recv(4096)
                            connection.sendall(answer)
                        except OSError:
                            pass
            for s in listening:
                s.close()
            if self.over.is_set():
                return

    def _order(self) -> None:
        for n in itertools.cycle(range(100)):
            for command in ("drain", "ready"):
                if self.over.wait(0.1):
                    return
                self._command({"command": command, "target": {"backend": {"pool": "web", "name": f"b{n}"}}})

    def _command(self, command: dict[str, Any]) -> None:
        body = json.dumps(command).encode()
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(str(self.control))
            s.sendall(b"POST /command HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            answer = b"".join(iter(lambda: s.recv(4096), b""))
        if b" 200 " not in answer.split(b"\r\n", 1)[0]:
            raise LabError(f"an order was refused: {answer.decode(errors='replace')}")
        self.orders += 1

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


def _inside(options: argparse.Namespace) -> int:
    arena.settle()
    began = time.monotonic()
    root = rootfs.ensure()
    folder = Path(tempfile.mkdtemp(prefix="trivet-scale-"))
    run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", folder])
    processes = arena.Processes(folder)
    cores = plan.cores(os.sched_getaffinity(0))
    if os.getloadavg()[0] > 0.5:
        warn(f"this machine is busy (load average {os.getloadavg()[0]:.1f}): what is measured is disturbed")
    certificates = servers.make_certificates(folder / "certificates")
    places = {name: servers.Place(folder / name, port, port + 1, port + 2, BACKEND) for name, port in (("plain", 9100), ("large", 9200))}
    results: dict[str, Any] = {}
    churn = None
    try:
        # On every address of the loopback network.
        ports = {"plain": BACKEND, "tls": 9443, "h2": 9001}
        backend.start(processes, folder / "backend", ports, certificates, root, cores.backend, address="0.0.0.0")
        for name, place in places.items():
            place.folder.mkdir(parents=True, exist_ok=True)
            config = place.folder / "balancer.json"
            config.write_text(servers.trivet(place, certificates) if name == "plain" else large(place, certificates))
            processes.start(name, [str(options.balancer), "--config", str(config)], cores.server)
            processes.wait_for_port(name, place.tls)
        control = places["large"].folder / "control.sock"
        for _ in range(100):
            if control.exists():
                break
            time.sleep(0.1)
        churn = Churn(control)
        pids = {name: proc.family(processes.running[name].pid) for name in places}
        memory = []
        for case in [c for c in CASES if c.name in MEASURED]:
            rounds: dict[str, list[float]] = {name: [] for name in places}
            for number in range(-1, options.rounds):
                for name, place in places.items():
                    seconds = 1.0 if number < 0 else options.seconds
                    used = functools.partial(proc.cpu, pids[name])
                    count, cpu = load.closed_loop(case, place, root, cores.load, seconds, used, folder / "requests.tsv")
                    if count.good == 0 or count.bad > 0:
                        raise LabError(f"{case.name}: {name} answered {count.good} requests well and {count.bad} badly: {processes.last_words(name)}")
                    if number >= 0:
                        rounds[name].append(count.good / cpu.all)
                    if name == "large":
                        memory.append(proc.memory(pids["large"])["Pss"])
                for log in folder.rglob("*.log"):
                    os.truncate(log, 0)
            costs = [a / b for a, b in zip(rounds["plain"], rounds["large"], strict=True)]
            results[case.name] = {"rounds": rounds, "cost": statistics.median(costs), "lowest": min(costs), "highest": max(costs)}
            say(f"{case.name}: a request costs {statistics.median(costs):.3f} of the plain case ({min(costs):.3f} to {max(costs):.3f})")
    finally:
        if churn:
            churn.stop()
        processes.stop_all()
        run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    # The first rounds fill caches and pools of connections.
    settled = memory[2:]
    growth = stats.percentile(sorted(settled[-3:]), 50) / stats.percentile(sorted(settled[:3]), 50)
    results["memory_kib"] = memory
    results["orders"] = churn.orders
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    worst = max(results[name]["cost"] for name in MEASURED)
    print(f"\n{'requests per server-CPU-second':32}{'plain':>10}{'large':>10}{'cost':>8}")
    for name in MEASURED:
        of = results[name]
        print(f"{name:32}{statistics.median(of['rounds']['plain']):>10,.0f}{statistics.median(of['rounds']['large']):>10,.0f}{of['cost']:>8.3f}")
    print(f"memory of the large one: {settled[0] / 1024:.1f} MiB, {growth:.3f} of that at the end; {churn.orders} orders")
    print(f"aim: at most {AIM} of the plain case's CPU a request ({'met' if worst <= AIM else 'missed'}), "
          f"at most {GROWTH} of the memory ({'met' if growth <= GROWTH else 'missed'}); {time.monotonic() - began:.0f} s")
    return 0
