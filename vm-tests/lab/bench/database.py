"""./lab bench-db: the database through the gateway against a direct connection, and reads with one, two and three members.

A closed loop of mysqlslap (MySQL's own) runs on a node that is not the primary, over TLS as an app does. Rounds are interleaved
(direct, gateway, direct, …), so what disturbs one disturbs the other; the ratio is taken round by round.

All members share this machine's cores, so who may use what is fixed, and it is the database that is measured: each mysqld may have a part
of a core (`--cpu`, by the cgroup's quota), as if it had a small machine of its own, and the primary's is alone on the last core. Load,
gateway and everything else have the others.
"""

import argparse
import json
import os
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lab import bring_up
from lab.bench import report, stats
from lab.errors import LabError
from lab.log import Log
from lab.machine import Node
from lab.progress import say
from lab.running import Lab
from lab.scenarios import PRELUDE, Driver

NAME = "trivet-bench-db"
AIM = 0.95
ACCOUNT, PASSWORD, SCHEMA, ROWS = "bench", "Not-a-secret-1", "bench", 10_000
WRITE_PORT, READ_PORT, MYSQL = 6446, 6447, 3306
QUOTA = Path("/sys/fs/cgroup/cpu/trivet-bench-db")
PERIOD_US = 100_000


@dataclass(frozen=True)
class Case:
    name: str
    query: str
    connections: int


# Rows by their primary key, spread over the table; the numbers stand in the statements, since a WHERE with RAND() reads every row.
ONE_ROW = ";".join(f"SELECT body FROM rows_ WHERE id = {1 + n * 7919 % ROWS}" for n in range(100))

CASES = (
    Case("read a row, 1 connection", ONE_ROW, 1),
    Case("read a row, 16 connections", ONE_ROW, 16),
    Case("read 50 rows of 1 KB, 8 connections", "SELECT id, body FROM rows_ WHERE id BETWEEN 100 AND 149", 8),
    Case("write a row, 1 connection", "INSERT INTO written (body) VALUES (REPEAT('x', 200))", 1),
    Case("write a row, 16 connections", "INSERT INTO written (body) VALUES (REPEAT('x', 200))", 16),
)
SCALING = CASES[1]


def add_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--rounds", type=int, default=5, help="of each kind (default: 5)")
    c.add_argument("--seconds", type=float, default=3, help="of each measurement, about (default: 3)")
    c.add_argument("--cpu", type=_cores, default=0.25, help="cores of each mysqld (default: 0.25)")
    c.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    c.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    c.add_argument("--profile", default=argparse.SUPPRESS, help="cargo's profile (default: lab)")


def _cores(text: str) -> float:
    """A quota that the kernel takes: 1 ms in PERIOD_US at least."""
    least = 1000 / PERIOD_US
    try:
        cores = float(text)
    except ValueError:
        cores = 0.0
    most = os.cpu_count() or 1
    if not least <= cores <= most:
        raise argparse.ArgumentTypeError(f"{text}: a number of cores between {least:g} and {most}, such as 0.25")
    return cores


class Quota:
    """A part of a core for each mysqld. Its cgroup is of the lab's own, beside the node's."""

    def __init__(self, cpu: float):
        self.cpu = cpu

    def limit(self, node: Node) -> None:
        at = QUOTA / node.name
        at.mkdir(parents=True, exist_ok=True)
        (at / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (at / "cpu.cfs_quota_us").write_text(str(round(self.cpu * PERIOD_US)))
        (at / "cgroup.procs").write_text(str(mysqld(node)))

    def remove(self) -> None:
        for folder in [*QUOTA.glob("*/"), QUOTA] if QUOTA.is_dir() else []:
            for task in (folder / "cgroup.procs").read_text().split():
                (QUOTA.parent / "cgroup.procs").write_text(task)
            folder.rmdir()


def mysqld(node: Node) -> int:
    """The process on the host."""
    space = Path(f"/proc/{node.leader()}/ns/pid").readlink()
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if (proc / "comm").read_text().strip() == "mysqld" and (proc / "ns/pid").readlink() == space:
                return int(proc.name)
        except OSError:  # it has just ended
            continue
    raise LabError(f"{node.name}: there is no mysqld")


class Pinned:
    """The primary's mysqld alone on the last core, while this lasts."""

    def __init__(self, lab: Lab, primary: Node):
        self.before = os.sched_getaffinity(0)
        *others, last = sorted(self.before)
        if not others:
            raise LabError("the benchmark needs two cores: one for the primary's database, one for everything else")
        self.alone, self.others = {last}, set(others)
        self.spaces = {Path(f"/proc/{machine.leader()}/ns/pid").readlink() for machine in lab.nodes.values()}
        self.database = mysqld(primary)

    def __enter__(self) -> None:
        self.place(self.alone, self.others)

    def __exit__(self, *_: object) -> None:
        self.place(self.before, self.before)

    def place(self, database: set[int], rest: set[int]) -> None:
        # What is started from here on inherits it.
        os.sched_setaffinity(0, rest)
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if (proc / "ns/pid").readlink() in self.spaces:
                    for task in (proc / "task").iterdir():
                        os.sched_setaffinity(int(task.name), database if int(proc.name) == self.database else rest)
            except OSError:  # it has just ended
                continue


def boot(lab: Lab, profile: str) -> SimpleNamespace:
    bring_up.create(lab, bring_up.prepare(profile), temporary=True)
    symbols = Driver(lab).symbols()
    exec(compile(PRELUDE.read_text(), PRELUDE, "exec"), symbols)
    site = SimpleNamespace(**symbols)
    site.start_all()
    site.site_answers()
    site.wait_for_members(site.NODES)
    site.settled()
    return site


def prepare(site: SimpleNamespace) -> None:
    for statement in (
        f"CREATE DATABASE {SCHEMA}",
        f"CREATE USER {ACCOUNT}@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL",
        f"GRANT ALL ON {SCHEMA}.* TO {ACCOUNT}@'%'",
        f"CREATE TABLE {SCHEMA}.rows_ (id INT PRIMARY KEY, body VARCHAR(1024) NOT NULL)",
        f"CREATE TABLE {SCHEMA}.written (id BIGINT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(255) NOT NULL)",
        f"SET SESSION cte_max_recursion_depth = {ROWS}; INSERT INTO {SCHEMA}.rows_ WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL "
        f"SELECT i + 1 FROM n WHERE i < {ROWS}) SELECT i, REPEAT(CHAR(97 + i % 26), 1000) FROM n",
    ):
        site.sql(site.primary(), statement)


def slap(node: Any, host: str, port: int, case: Case, queries: int) -> float:
    """Queries a second."""
    argv = ["mysqlslap", "--no-defaults", "--protocol=TCP", f"--host={host}", f"--port={port}", f"--user={ACCOUNT}", f"--password={PASSWORD}",
            "--ssl-mode=REQUIRED", f"--create-schema={SCHEMA}", "--no-drop", f"--concurrency={case.connections}",
            f"--number-of-queries={queries}", f"--query={case.query}", "--delimiter=;", "--csv"]
    said = node.succeed(f"{shlex.join(argv)} 2>/dev/null", timeout=120).strip().splitlines()[-1]
    seconds = float(said.split(",")[2])
    done = queries // case.connections * case.connections
    if seconds <= 0:
        raise LabError(f"{case.name}: too short to be measured")
    return done / seconds


def how_many(node: Any, host: str, port: int, case: Case, seconds: float) -> int:
    """As many as take about so long; also warms caches."""
    first = slap(node, host, port, case, 200 * case.connections if "read" in case.name else 20 * case.connections)
    return max(case.connections, round(first * seconds))


def gateway_against_direct(site: SimpleNamespace, rounds: int, seconds: float) -> dict[str, Any]:
    primary = site.primary()
    app = site.others(primary)[0]
    ways = {"direct": (site.ADDRESSES[primary.name], MYSQL), "gateway": ("127.0.0.1", WRITE_PORT)}
    results: dict[str, Any] = {}
    for case in CASES:
        queries = how_many(app, *ways["direct"], case, seconds)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (host, port) in ways.items():
                taken[way].append(round(slap(app, host, port, case, queries), 1))
        results[case.name] = {"rounds": taken, "summary": stats.summary(taken, "direct"), "queries": queries}
        say(f"{case.name}: gateway {results[case.name]['summary']['gateway']['ratio']:.2f} of direct")
    return results


def usable(site: SimpleNamespace, node: Any) -> int:
    """Replicas that the gateway of this node gives reads to."""
    said = node.succeed(f"curl -fsS http://{site.ADDRESSES[node.name]}:9605/status")
    return sum(member["usable"] for member in json.loads(said)["database"]["read"])


def scaling(site: SimpleNamespace, quota: Quota, rounds: int, seconds: float) -> dict[str, Any]:
    """Reads through the read address of the primary's node, with one member, two and three."""
    primary = site.primary()
    rest = site.others(primary)
    for node in rest:
        node.succeed("systemctl stop trivet-keeper mysql", timeout=120)
    results = {}
    for members in (1, 2, 3):
        if members > 1:
            node = rest[members - 2]
            node.succeed("systemctl start mysql trivet-keeper", timeout=120)
            site.wait_for_members([primary, *rest[:members - 1]])
            quota.limit(node)
        site.poll(lambda members=members: usable(site, primary) == members - 1, "the gateway knows all replicas")
        queries = how_many(primary, "127.0.0.1", READ_PORT, SCALING, seconds)
        taken = [round(slap(primary, "127.0.0.1", READ_PORT, SCALING, queries), 1) for _ in range(rounds)]
        results[str(members)] = {"rounds": taken, "median": statistics.median(taken), "served_by": max(1, members - 1)}
        say(f"{members} member(s): {results[str(members)]['median']:,.0f} reads a second")
    return results


def tables(results: dict[str, Any]) -> list[report.Rows]:
    first = [["queries a second", "direct", "through the gateway", "ratio", "(lowest–highest)", ""]]
    for name, found in results["gateway"].items():
        s = found["summary"]
        g = s["gateway"]
        first.append([name, f"{s['direct']['median']:,.0f}", f"{g['median']:,.0f}", f"{g['ratio']:.2f}",
                      f"{g['lowest']:.2f}–{g['highest']:.2f}", report.verdict(g["ratio"], AIM)])
    second = [["reads a second through the read address", "1 member", "2 members", "3 members"]]
    found = results["scaling"]
    second.append(["served by", "the primary", "1 replica", "2 replicas"])
    second.append([SCALING.name, *(f"{found[n]['median']:,.0f}" for n in ("1", "2", "3"))])
    return [first, second]


def main(options: argparse.Namespace, name: str, snapshots: Path, results: Path) -> int:
    results.mkdir(parents=True, exist_ok=True)
    lab = Lab(name, snapshots, Log(results / "log"), results)
    quota = Quota(options.cpu)
    say("booting three nodes")
    try:
        site = boot(lab, options.profile)
        prepare(site)
        for node in lab.nodes.values():
            quota.limit(node)
        with Pinned(lab, lab.nodes[site.primary().name]):
            gateway = gateway_against_direct(site, options.rounds, options.seconds)
        measured = {"about": {"cpu": options.cpu, "rounds": options.rounds, "seconds": options.seconds}, "gateway": gateway,
                    "scaling": scaling(site, quota, options.rounds, options.seconds)}
    finally:
        lab.remove()
        quota.remove()
    report.hand_out(options, measured, tables(measured))
    return 0
