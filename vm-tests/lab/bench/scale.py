"""./lab bench-scale: what a large configuration costs a request.

The same balancer, on the same core, in interleaved rounds: plain, one site with one back end, and the same again, which tells what two
measurements of the same differ by; spread, with 300 back ends; large, 300 back ends, of which ten get well and unwell, 50 sites with 1,000
routes, and an operator's order ten times a second. HAProxy with one and with 300 servers tells what it costs to have connections to 300
instead of one: that is the machine's. One nginx is every back end, and an unwell one says so to checks alone: nobody waits for a slow one.

What differs is the time on a CPU per request. What checks take does not depend on the requests: it is measured while there are none, shown by
itself, and not part of a request's. What must not grow is the memory.
"""

import argparse
import functools
import itertools
import json
import os
import re
import shutil
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import arena, rootfs, servers
from lab.bench import backend, load, plan, proc, stats
from lab.bench.cases import CASES, Case
from lab.errors import LabError
from lab.process import run
from lab.progress import say, warn

SECONDS = 15 * 60
# What a large configuration may cost (the aim), and how much its memory may grow from the first round to the last.
AIM, GROWTH = 1.05, 1.05
SITES, ROUTES, BACK_ENDS, FLAPPING = 50, 20, 300, 10
BACKEND = 9000
# How long back ends stay well or unwell: a check every 500 ms notices each time.
TURN = 1.5
# How long servers are looked at while nobody asks them anything; the clock of /proc has 10 ms.
IDLE = 10.0
MEASURED = ("h1-plain-1k", "h2-tls-1k")


def add_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--rounds", type=int, default=6, help="of each kind (default: 6, so that each server is once at each place)")
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
    """All at one port, each at its own address of the loopback network; those that flap at others than the steady ones."""
    steady = [{"name": f"b{n}", "address": f"127.0.{1 + n // 250}.{1 + n % 250}:{BACKEND}"} for n in range(BACK_ENDS - flapping)]
    return steady + [{"name": f"f{n}", "address": f"{_flapping(n)}:{BACKEND}"} for n in range(flapping)]


def _flapping(number: int) -> str:
    return f"127.0.9.{1 + number}"


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
MADE = {"plain": servers.trivet, "again": servers.trivet, "spread": spread, "large": large, "haproxy": servers.haproxy,
        "haproxy-spread": haproxy_spread}
# Whose CPU time a request is compared with whose. The first are the same: by how much they differ is what cannot be told.
COSTS = (("again", "plain"), ("large", "plain"), ("large", "spread"), ("spread", "plain"), ("haproxy-spread", "haproxy"))


@dataclass(frozen=True)
class Round:
    """What one server did in one round."""

    good: int
    seconds: float
    cpu: float

    def per_request(self, idle: float) -> float:
        """Seconds on a CPU for each request, without those that the server uses anyway: `idle` in each second."""
        return (self.cpu - idle * self.seconds) / self.good


def turned(names: Sequence[str], number: int) -> list[str]:
    """Each round begins with the next one, so that a machine that gets slower is so for all."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def in_words(values: Sequence[float], digits: int) -> str:
    """The median, the lowest and the highest."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def transitions(metrics: str) -> int:
    """How often back ends were found up or down, by Prometheus' text."""
    return sum(int(float(n)) for n in re.findall(r"^trivet_backend_transitions_total\{.*\} (\S+)$", metrics, re.MULTILINE))


class Churn:
    """Back ends that get well and unwell, and an operator who drains one after the other, until this is stopped."""

    def __init__(self, control: Path, unwell: Path):
        self.control = control
        self.unwell = unwell
        self.over = threading.Event()
        self.orders = 0
        self.failed: Exception | None = None
        self.threads = [threading.Thread(target=self._until_over, args=(work,)) for work in (self._flap, self._order)]
        for thread in self.threads:
            thread.start()

    def _until_over(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as e:  # Told by `stop`: a benchmark without it measures something else.
            self.failed = e

    def _flap(self) -> None:
        for turn in itertools.count():
            for n in range(FLAPPING):
                mark = self.unwell / _flapping(n)
                if (turn + n) % 2:
                    mark.touch()
                else:
                    mark.unlink(missing_ok=True)
            if self.over.wait(TURN):
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
        if self.failed:
            raise LabError(f"the changes ended before the benchmark: {self.failed}")


class Bench:
    """The servers of all kinds, each in its place, with what stands behind them."""

    def __init__(self, folder: Path, root: Path, balancer: Path, cores: plan.Cores):
        self.folder, self.root, self.balancer, self.cores = folder, root, balancer, cores
        self.processes = arena.Processes(folder)
        self.certificates = servers.make_certificates(folder / "certificates")
        self.places = {name: servers.Place(folder / name, 9100 + 10 * n, 9101 + 10 * n, 9102 + 10 * n, BACKEND) for n, name in enumerate(MADE)}
        self.pids: dict[str, list[int]] = {}

    def start(self) -> None:
        # On every address of the loopback network.
        ports = {"plain": BACKEND, "tls": 9443, "h2": 9001}
        backend.start(self.processes, self.folder / "backend", ports, self.certificates, self.root, self.cores.backend, address="0.0.0.0")
        for name, place in self.places.items():
            place.folder.mkdir(parents=True, exist_ok=True)
            is_ours = not name.startswith("haproxy")
            config = place.folder / ("balancer.json" if is_ours else "haproxy.cfg")
            config.write_text(MADE[name](place, self.certificates))
            argv = [str(self.balancer), "--config", str(config)] if is_ours else [*arena.debian(self.root, "haproxy"), "-db", "-f", str(config)]
            self.processes.start(name, argv, self.cores.server)
            self.processes.wait_for_port(name, place.tls)
            self.pids[name] = proc.family(self.processes.running[name].pid)

    def churn(self) -> Churn:
        control = self.places["large"].folder / "control.sock"
        for _ in range(100):
            if control.exists():
                break
            time.sleep(0.1)
        return Churn(control, backend.unwell(self.folder / "backend"))

    def idle(self, seconds: float) -> dict[str, float]:
        """How much of a core each server uses while nobody asks it anything."""
        began, before = time.monotonic(), {name: proc.cpu(pids) for name, pids in self.pids.items()}
        time.sleep(seconds)
        took = time.monotonic() - began
        return {name: (proc.cpu(pids) - before[name]).all / took for name, pids in self.pids.items()}

    def round(self, case: Case, name: str, seconds: float) -> Round:
        used = functools.partial(proc.cpu, self.pids[name])
        count, cpu = load.closed_loop(case, self.places[name], self.root, self.cores.load, seconds, used, self.folder / "requests.tsv")
        if count.good == 0 or count.bad > 0:
            raise LabError(f"{case.name}: {name} answered {count.good} requests well and {count.bad} badly: {self.processes.last_words(name)}")
        return Round(count.good, count.seconds, cpu.all)

    def rounds(self, case: Case, number: int, seconds: float) -> tuple[dict[str, list[Round]], list[int]]:
        """Of each server so many, after one that warms it up and does not count; and the large one's memory after each, in KiB."""
        rounds: dict[str, list[Round]] = {name: [] for name in self.places}
        memory = []
        for n in range(-1, number):
            for name in turned(list(self.places), n):
                done = self.round(case, name, 1.0 if n < 0 else seconds)
                if n >= 0:
                    rounds[name].append(done)
            memory.append(proc.memory(self.pids["large"])["Pss"])
            for log in self.folder.rglob("*.log"):
                os.truncate(log, 0)
        return rounds, memory

    def transitions(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.places['large'].stats}/metrics", timeout=5) as answer:
            return transitions(answer.read().decode())


def _inside(options: argparse.Namespace) -> int:
    arena.settle()
    began = time.monotonic()
    root = rootfs.ensure()
    folder = Path(tempfile.mkdtemp(prefix="trivet-scale-"))
    run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", folder])
    cores = plan.cores(os.sched_getaffinity(0))
    # The one who orders is not to stand in the way of the one who obeys.
    os.sched_setaffinity(0, {*cores.load, *cores.backend})
    if os.getloadavg()[0] > 0.5:
        warn(f"this machine is busy (load average {os.getloadavg()[0]:.1f}): what is measured is disturbed")
    bench = Bench(folder, root, options.balancer, cores)
    try:
        bench.start()
        measured = measure(bench, options.rounds, options.seconds)
    finally:
        bench.processes.stop_all()
        run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    print(report(measured) + f" {time.monotonic() - began:.0f} s")
    return 0


def measure(bench: Bench, number: int, seconds: float) -> dict[str, Any]:
    """All of it: `number` rounds of so many seconds for each server and case."""
    # The checks of the start are over, and what belongs to none of them.
    time.sleep(1)
    idle = bench.idle(IDLE)
    churn = bench.churn()
    try:
        changing = bench.idle(IDLE)["large"]
        cases: dict[str, Any] = {}
        for case in [c for c in CASES if c.name in MEASURED]:
            rounds, memory = bench.rounds(case, number, seconds)
            cost = {name: [r.per_request(idle[name]) * 1e6 for r in of] for name, of in rounds.items()}
            ratios = {f"{a} ÷ {b}": stats.ratios(cost[a], cost[b]) for a, b in COSTS}
            for what, of in ratios.items():
                say(f"{case.name}: {what}: {in_words(of, 3)}")
            cases[case.name] = {"rounds": {name: [vars(r) for r in of] for name, of in rounds.items()}, "cpu_us": cost, "ratios": ratios,
                                "memory_kib": memory}
        turns = bench.transitions()
    finally:
        churn.stop()
    if turns == 0 or churn.orders == 0:
        raise LabError(f"nothing changed meanwhile: {turns} changes of health, {churn.orders} orders")
    return {"idle": idle, "idle_with_changes": changing, "cases": cases, "orders": churn.orders, "transitions": turns}


def report(measured: dict[str, Any]) -> str:
    """For people: medians, each with the lowest and the highest."""
    cases = measured["cases"]
    lines = ["", "CPU of each server while nobody asks it anything, which is its checks, in % of a core:"]
    lines += [f"  {name:16}{100 * share:7.2f}" for name, share in measured["idle"].items()]
    lines += [f"  {'large, changing':16}{100 * measured['idle_with_changes']:7.2f}", "", "CPU a request without that, in µs:"]
    for name in MADE:
        lines.append(f"  {name:16}" + "".join(f"{in_words(of['cpu_us'][name], 2):>28}" for of in cases.values()))
    lines += ["", f"{'Compared, round by round:':32}" + "".join(f"{name:>28}" for name in cases)]
    for a, b in COSTS:
        what = f"{a} ÷ {b}"
        lines.append(f"  {what:30}" + "".join(f"{in_words(of['ratios'][what], 3):>28}" for of in cases.values()))
    worst = max(statistics.median(of["ratios"]["large ÷ plain"]) for of in cases.values())
    own = max(statistics.median(of["ratios"]["large ÷ spread"]) for of in cases.values())
    # The first rounds fill pools of connections.
    growth = max(of["memory_kib"][-1] / of["memory_kib"][1] for of in cases.values())
    met = {True: "met", False: "missed"}
    lines += ["", f"aims: large at most {AIM} of plain ({worst:.3f}, {met[worst <= AIM]}), and of spread, whose back ends are as many "
              f"({own:.3f}, {met[own <= AIM]}); memory after the last round at most {GROWTH} of that after the second ({growth:.3f}, "
              f"{met[growth <= GROWTH]}); {measured['orders']} orders, {measured['transitions']} changes of health;"]
    return "\n".join(lines)
