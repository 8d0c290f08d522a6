"""./lab bench-scale: what a large configuration costs a request.

The same balancer, on the same core, in interleaved rounds: plain, one site with one back end; spread, with 300 back ends; large, 300 back ends,
of which ten come and go, 50 sites with 1,000 routes, and an operator's order ten times a second. HAProxy with one and with 300 servers tells what it
costs to have connections to 300 instead of one: that is the machine's. What differs is the time on a CPU per request; what must not grow is the
memory.
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

from lab import arena, rootfs, servers
from lab.bench import backend, load, plan, proc, stats
from lab.bench.cases import CASES
from lab.errors import LabError
from lab.process import run
from lab.progress import say, warn

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
    profile = options.profile if options.profile != "lab" else "release"
    balancer = arena.prepare(options.balancer, profile)
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


def backends(flapping: int) -> list[dict[str, str]]:
    steady = [{"name": f"b{n}", "address": f"127.0.{1 + n // 250}.{1 + n % 250}:{BACKEND}"} for n in range(BACK_ENDS - flapping)]
    return steady + [{"name": f"f{n}", "address": f"127.0.0.1:{FLAPS + n}"} for n in range(flapping)]


def spread(place: servers.Place, certificates: servers.Certificates) -> str:
    config = json.loads(servers.trivet(place, certificates))
    config["web"]["backends"] = backends(0)
    return json.dumps(config, indent=1)


def haproxy_spread(place: servers.Place, certificates: servers.Certificates) -> str:
    config = servers.haproxy(place, certificates)
    one = next(line for line in config.splitlines() if line.strip().startswith("server "))
    address = f"127.0.0.1:{place.backend}"
    return config.replace(one, "\n".join(one.replace("server backend", f"server {b['name']}").replace(address, b["address"]) for b in backends(0)))


def large(place: servers.Place, certificates: servers.Certificates) -> str:
    config = json.loads(servers.trivet(place, certificates))
    config["web"]["backends"] = backends(FLAPPING)
    config["routes"] = routes(0)
    config["sites"] = {f"site{n}": {"names": [f"site{n}.example"], "routes": routes(n)} for n in range(1, SITES)}
    config["runtime_directory"] = str(place.folder)
    config["control"] = {"state_file": str(place.folder / "orders.json")}
    return json.dumps(config, indent=1)


# What is measured, and how its configuration is made.
MADE = {"plain": servers.trivet, "spread": spread, "large": large, "haproxy": servers.haproxy, "haproxy-spread": haproxy_spread}
# Whose CPU time a request is compared with whose.
COSTS = (("large", "plain"), ("large", "spread"), ("spread", "plain"), ("haproxy-spread", "haproxy"))


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
    places = {name: servers.Place(folder / name, 9100 + 10 * n, 9101 + 10 * n, 9102 + 10 * n, BACKEND) for n, name in enumerate(MADE)}
    results: dict[str, Any] = {}
    churn = None
    try:
        # On every address of the loopback network.
        ports = {"plain": BACKEND, "tls": 9443, "h2": 9001}
        backend.start(processes, folder / "backend", ports, certificates, root, cores.backend, address="0.0.0.0")
        for name, place in places.items():
            place.folder.mkdir(parents=True, exist_ok=True)
            is_ours = not name.startswith("haproxy")
            config = place.folder / ("balancer.json" if is_ours else "haproxy.cfg")
            config.write_text(MADE[name](place, certificates))
            argv = [str(options.balancer), "--config", str(config)] if is_ours else [*arena.debian(root, "haproxy"), "-db", "-f", str(config)]
            processes.start(name, argv, cores.server)
            processes.wait_for_port(name, place.tls)
        control = places["large"].folder / "control.sock"
        for _ in range(100):
            if control.exists():
                break
            time.sleep(0.1)
        churn = Churn(control)
        pids = {name: proc.family(processes.running[name].pid) for name in places}
        growth = 0.0
        for case in [c for c in CASES if c.name in MEASURED]:
            rounds: dict[str, list[float]] = {name: [] for name in places}
            memory = []
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
            costs = {f"{a} ÷ {b}": stats.ratios(rounds[b], rounds[a]) for a, b in COSTS}
            # The first rounds fill pools of connections.
            growth = max(growth, memory[-1] / memory[1])
            results[case.name] = {"rounds": rounds, "costs": {what: statistics.median(of) for what, of in costs.items()}, "memory_kib": memory}
            for what, of in costs.items():
                say(f"{case.name}: {what}: {statistics.median(of):.3f} ({min(of):.3f} to {max(of):.3f})")
    finally:
        if churn:
            churn.stop()
        processes.stop_all()
        run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    results["orders"] = churn.orders
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    worst = max(results[name]["costs"]["large ÷ spread"] for name in MEASURED)
    print(f"\n{'requests per server-CPU-second':32}" + "".join(f"{name:>16}" for name in MADE))
    for name in MEASURED:
        print(f"{name:32}" + "".join(f"{statistics.median(of):>16,.0f}" for of in results[name]["rounds"].values()))
    print(f"\n{'CPU a request':32}" + "".join(f"{a + ' ÷ ' + b:>36}" for a, b in COSTS))
    for name in MEASURED:
        print(f"{name:32}" + "".join(f"{cost:>36.3f}" for cost in results[name]["costs"].values()))
    print(f"\naims: sites, routes and changes at most {AIM} of the CPU a request with as many back ends ({'met' if worst <= AIM else 'missed'}); "
          f"memory after the last round at most {GROWTH} of that after the second ({growth:.3f}, {'met' if growth <= GROWTH else 'missed'}); "
          f"{churn.orders} orders; {time.monotonic() - began:.0f} s")
    return 0
