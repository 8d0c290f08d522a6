"""The measurements: requests per server-CPU-second, latency at a constant rate, memory of idle connections."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import arena, servers
from lab.bench import backend, load, proc, stats
from lab.bench.cases import Case
from lab.bench.plan import Cores, Plan
from lab.errors import LabError
from lab.progress import say

# The back end's port for each link; a server's own follow from its place in the list.
BACKEND = {"plain": 9000, "tls": 9443, "h2": 9001}
# The rate of the latency runs, as a part of what the slowest server reaches. That was reached with as many requests at once as there
# are; evenly over time, each wakes the server up.
LOAD = 0.5
# Requests of the first second are of connections that are being opened.
SETTLE_US = 1_000_000


@dataclass
class Bench:
    folder: Path
    root: Path
    balancer: Path
    certificates: servers.Certificates
    plan: Plan
    cores: Cores
    processes: arena.Processes

    def place(self, server: str, link: str) -> servers.Place:
        port = 9100 + 10 * servers.NAMES.index(server) + 100 * servers.LINKS.index(link)
        # Patient, so that connections whose memory is measured live until it is.
        return servers.Place(self.folder / self.name(server, link), port, port + 1, port + 2, BACKEND[link], link, idle=600, first=600)

    @staticmethod
    def name(server: str, link: str) -> str:
        return server if link == "plain" else f"{server}-{link}-backend"

    def start_backend(self) -> None:
        backend.start(self.processes, self.folder / "backend", BACKEND, self.certificates, self.root, self.cores.backend)

    def start(self, server: str, link: str) -> None:
        servers.start(self.processes, self.name(server, link), server, self.place(server, link), self.certificates,
                      self.root, self.balancer, self.cores.server)

    def pids(self, server: str, link: str) -> list[int]:
        return proc.family(self.processes.running[self.name(server, link)].pid)

    def empty_logs(self) -> None:
        """They lie in memory; what is written counts, what was written is of no use."""
        for log in self.folder.rglob("*.log"):
            os.truncate(log, 0)

    # --- throughput -------------------------------------------------------------------------------------------

    def throughput(self, case: Case, names: list[str]) -> dict[str, Any]:
        """Interleaved rounds (A B C, A B C …)."""
        rounds: dict[str, list[dict[str, float]]] = {server: [] for server in names}
        for number in range(-1, self.plan.rounds):  # -1: warms the server, and does not count
            for server in names:
                taken = self._one(case, server, 0.5 if number < 0 else self.plan.seconds)
                if number >= 0:
                    rounds[server].append(taken)
            self.empty_logs()
        per_cpu = {server: [r["per_cpu_second"] for r in taken] for server, taken in rounds.items()}
        summary = stats.summary(per_cpu, names[0])
        for server, of_server in rounds.items():
            for key in ("user_us", "system_us", "busy"):
                summary[server][key] = statistics.median(r[key] for r in of_server)
        return {"rounds": rounds, "summary": summary}

    def _one(self, case: Case, server: str, seconds: float) -> dict[str, float]:
        pids = self.pids(server, case.link)
        count, cpu = load.closed_loop(case, self.place(server, case.link), self.root, self.cores.load, seconds,
                                      lambda: proc.cpu(pids), self.folder / "requests.tsv")
        if count.good == 0 or cpu.all <= 0:
            raise LabError(f"{case.name}: {server} answered {count.good} requests well and {count.bad} badly: "
                           f"{self.processes.last_words(self.name(server, case.link))}")
        return {"good": count.good, "bad": count.bad, "resumed": count.resumed, "seconds": round(count.seconds, 3), "cpu_seconds": round(cpu.all, 3),
                "user_us": round(cpu.user / count.good * 1e6, 2), "system_us": round(cpu.system / count.good * 1e6, 2),
                "rate": round(count.rate, 1), "per_cpu_second": round(count.good / cpu.all, 1), "busy": round(cpu.all / count.seconds, 3)}

    # --- latency ----------------------------------------------------------------------------------------------

    def latency(self, case: Case, names: list[str], throughput: dict[str, Any]) -> dict[str, Any]:
        """At LOAD of what the slowest reached."""
        rate = LOAD * min(statistics.median(r["rate"] for r in throughput["rounds"][server]) for server in names)
        rounds: dict[str, list[dict[str, float]]] = {server: [] for server in names}
        for _ in range(self.plan.latency_rounds):
            for server in names:
                rows = load.constant_rate(case, self.place(server, case.link), self.root, self.cores.load, rate,
                                          self.plan.latency_seconds, self.folder / "requests.tsv")
                took = stats.steady(rows, SETTLE_US)
                rounds[server].append({"requests": len(took), "p50_ms": round(stats.percentile(took, 50), 3),
                                       "p99_ms": round(stats.percentile(took, 99), 3)})
            self.empty_logs()
        medians = {server: {key: statistics.median(r[key] for r in taken) for key in ("p50_ms", "p99_ms")} for server, taken in rounds.items()}
        return {"rate": round(rate, 1), "rounds": rounds, "summary": medians}

    # --- memory -----------------------------------------------------------------------------------------------

    def memory(self, names: list[str]) -> dict[str, Any]:
        """What each of many idle TLS connections costs, after one request on each."""
        found: dict[str, Any] = {}
        for server in names:
            name = self.name(server, "plain")
            if name in self.processes.running:
                self.processes.stop(name)
            self.start(server, "plain")
            place, wanted = self.place(server, "plain"), self.plan.idle_connections
            warm = Case("warm-up", False, True, "1k")
            load.closed_loop(warm, place, self.root, self.cores.load, 1, proc.Cpu, self.folder / "requests.tsv")
            time.sleep(0.5)
            before = proc.memory(self.pids(server, "plain"))
            argv = ["taskset", "-c", ",".join(map(str, self.cores.load)), sys.executable, "-m", "lab.bench.opener", "hold", "--port", str(place.tls),
                    "--connections", str(wanted), "--processes", "4"]
            with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
                assert holder.stdin and holder.stdout
                try:
                    opened = int(holder.stdout.readline() or 0)
                    time.sleep(1)
                    after = proc.memory(self.pids(server, "plain"))
                    holder.stdin.write("\n")
                    holder.stdin.flush()
                    held = int(holder.stdout.readline() or 0)
                finally:
                    holder.kill()
            found[server] = {"wanted": wanted, "opened": opened, "held": held, "before_kib": before, "after_kib": after,
                             "pss_kib_each": round((after["Pss"] - before["Pss"]) / max(held, 1), 2),
                             "rss_kib_each": round((after["Rss"] - before["Rss"]) / max(held, 1), 2)}
            say(f"  {server}: {held} of {wanted} held, {found[server]['pss_kib_each']} KiB each")
            self.empty_logs()
        return found
