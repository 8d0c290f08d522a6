"""./lab bench-backup: a base copy, a second one after a hundredth of the rows has changed, and a restore; what they cost, what they keep, what
visitors notice of them; and how far the log is behind while as much is written as this machine takes.

Three nodes, their client and the repository, a folder of the node that makes the backups, share this machine.
"""

import argparse
import json
import shlex
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lab.bench import report
from lab.bench.database import ACCOUNT, MYSQL, PASSWORD, SCHEMA, boot
from lab.errors import LabError
from lab.log import Log
from lab.progress import say
from lab.running import Lab, state_dir

NAME = "trivet-bench-bak"
REPOSITORY = "/srv/backup"
MIB = 1 << 20
# A row is 1 KiB, of which half is random: what a page of text and numbers is to a compressor.
ROW = "CONCAT(HEX(RANDOM_BYTES(256)), REPEAT('words ', 85))"
# A transaction of a group is at most 143 MiB (group_replication_transaction_size_limit).
BATCH = 20_000

# What the replica has received and not applied: its own binary log lacks it.
QUEUED = ("SELECT COUNT_TRANSACTIONS_REMOTE_IN_APPLIER_QUEUE FROM performance_schema.replication_group_member_stats "
          "WHERE member_id = @@server_uuid")

# Runs a command; its time, its processes' CPU time and the largest one's memory, as JSON.
TIMED = """
import json, resource, subprocess, sys, time
began = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"status": done.returncode, "seconds": time.monotonic() - began, "cpu": used.ru_utime + used.ru_stime,
                  "memory": used.ru_maxrss * 1024}))
"""


def add_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the table, in MiB (default: 1024)")
    c.add_argument("--seconds", type=int, default=30, help="of watching the site and of writing (default: 30)")
    c.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    c.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    c.add_argument("--profile", default=argparse.SUPPRESS, help="cargo's profile (default: lab)")


def fill(site: SimpleNamespace, size: int) -> None:
    primary = site.primary()
    site.sql(primary, f"CREATE DATABASE {SCHEMA}; CREATE TABLE {SCHEMA}.rows_ (id INT PRIMARY KEY, body VARCHAR(1100) NOT NULL); "
                      f"CREATE TABLE {SCHEMA}.written (id BIGINT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(255) NOT NULL); "
                      f"CREATE USER {ACCOUNT}@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL; GRANT ALL ON {SCHEMA}.* TO {ACCOUNT}@'%'")
    for first in range(0, size * 1024, BATCH):
        count = min(BATCH, size * 1024 - first)
        site.sql(primary, f"SET SESSION cte_max_recursion_depth = {BATCH}; INSERT INTO {SCHEMA}.rows_ WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL "
                          f"SELECT i + 1 FROM n WHERE i < {count}) SELECT {first} + i, {ROW} FROM n", timeout=600)
    for node in site.NODES:
        site.sql(node, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{site.executed_everywhere(site.NODES)}', 600)", timeout=700)


def timed(node: Any, command: str) -> dict[str, Any]:
    status, out = node.execute(f"python3 -c {shlex.quote(TIMED)} {command} 2>/var/tmp/said", timeout=7200)
    measured: dict[str, Any] = json.loads(out) if status == 0 else {"status": status}
    if measured.pop("status"):
        raise LabError(f"{command} failed: {node.execute('tail -n 5 /var/tmp/said')[1]}")
    return measured


def stored(node: Any) -> int:
    return int(node.succeed(f"du --summarize --bytes {REPOSITORY}/restic").split()[0])


def watched(site: SimpleNamespace, name: str, meanwhile: Any) -> dict[str, Any]:
    """What visitors of the site saw while something was done."""
    site.start_probe(name, reads=40)
    result = meanwhile()
    reads = site.stop_probe(name)["reads"]
    return {"site": {key: reads[key] for key in ("median", "p99", "failed", "requests")}, **(result or {})}


def first_copy(site: SimpleNamespace, node: Any) -> dict[str, Any]:
    began = time.monotonic()
    site.poll(lambda: site.backed_up(node).get("last_base") and site.backed_up(node).get("last_files"), "the first copy", 7200)
    return {"seconds": time.monotonic() - began}


def local_copy(site: SimpleNamespace, node: Any) -> dict[str, Any]:
    """The other way of MySQL's own: the member writes the copy to its own disk, where the service would have to get at it."""
    began = time.monotonic()
    site.sql(node, "CLONE LOCAL DATA DIRECTORY = '/var/tmp/local'", timeout=7200)
    took = time.monotonic() - began
    # Its unit has a /var/tmp of its own.
    node.succeed("nsenter --mount --target $(systemctl show --value --property=MainPID mysql) rm -rf /var/tmp/local")
    return {"seconds": took}


def log_behind(node: Any) -> float:
    said = node.succeed("curl -fsS http://127.0.0.1:9606/metrics | grep '^trivet_backup_log_behind_seconds'")
    return float(said.split()[-1])


def write(site: SimpleNamespace, node: Any, seconds: int) -> dict[str, Any]:
    """As many rows as it takes, one a transaction, and what the metric says meanwhile."""
    address = site.ADDRESSES[site.primary().name]
    query = f"INSERT INTO {SCHEMA}.written (body) VALUES (REPEAT('x', 200))"
    slap = ["mysqlslap", "--no-defaults", "--protocol=TCP", f"--host={address}", f"--port={MYSQL}", f"--user={ACCOUNT}", f"--password={PASSWORD}",
            "--ssl-mode=REQUIRED", f"--create-schema={SCHEMA}", "--no-drop", "--concurrency=32", "--number-of-queries=10000000", f"--query={query}"]
    count = f"SELECT COUNT(*) FROM {SCHEMA}.written"
    before, began, behind, queued = int(site.sql(site.primary(), count)), time.monotonic(), [], []
    writer = site.others(node)[0]
    writer.succeed(f"systemd-run --quiet --unit=bench-writes timeout {seconds} {shlex.join(slap)}")
    while time.monotonic() - began < seconds:
        behind.append(log_behind(node))
        queued.append(int(site.sql(node, QUEUED)))
        time.sleep(1)
    took = time.monotonic() - began
    written = int(site.sql(site.primary(), count)) - before
    return {"writes_per_second": written / took, "queued": sorted(queued)[len(queued) // 2],
            "behind": {"highest": max(behind), "median": sorted(behind)[len(behind) // 2]}}


def measure(site: SimpleNamespace, size: int, seconds: int) -> dict[str, Any]:
    site.keepers_make_the_backup_account()
    node = site.others(site.primary())[0]
    say(f"filling a table of {size} MiB")
    fill(site, size)
    found: dict[str, Any] = {"size": size * MIB}
    found["without"] = watched(site, "without", lambda: time.sleep(seconds))
    say("CLONE LOCAL, to compare")
    found["local"] = watched(site, "local", lambda: local_copy(site, node))
    say("the first base copy, by the service itself")
    # No copy but those that are measured.
    site.start_backups(node, {"main": {"folder": REPOSITORY}}, base={"every": "365d"}, verify={"every": "365d"})
    found["first"] = watched(site, "first", lambda: first_copy(site, node))
    found["first"]["stored"] = first = stored(node)
    say("a second one")
    site.sql(site.primary(), f"UPDATE {SCHEMA}.rows_ SET body = {ROW} WHERE id <= {size * 1024 // 100}", timeout=600)
    found["second"] = watched(site, "second", lambda: timed(node, "trivet backup now"))
    found["second"]["stored"] = stored(node) - first
    say("a restore")
    found["restore"] = watched(site, "restore", lambda: timed(node, "trivet restore --to latest --into /var/tmp/restored"))
    node.succeed("rm -rf /var/tmp/restored")
    say("writes")
    found["writes"] = write(site, node, seconds)
    return found


def tables(found: dict[str, Any]) -> list[report.Rows]:
    def row(name: str, part: dict[str, Any]) -> list[str]:
        mib = f"{part['stored'] / MIB:,.0f}" if "stored" in part else "–"
        seen = part.get("site")
        p99 = f"{1000 * seen['p99']:.1f}" if seen else "–"
        cost = [f"{part[key] / unit:,.0f}" if key in part else "–" for key, unit in (("seconds", 1), ("cpu", 1), ("memory", MIB))]
        return [name, *cost, mib, p99]

    first = [[f"{found['size'] / MIB:,.0f} MiB of rows", "s", "CPU s", "memory, MiB", "stored, MiB", "p99 of the site, ms"],
             row("without backups", found["without"]), row("CLONE LOCAL alone", found["local"]), row("first base copy", found["first"]),
             row("second, 1 % changed", found["second"]), row("restore", found["restore"])]
    w = found["writes"]
    second = [["writes a second", "log behind, s: median", "highest", "not yet applied by the replica, median"],
              [f"{w['writes_per_second']:,.0f}", f"{w['behind']['median']:.1f}", f"{w['behind']['highest']:.1f}", f"{w['queued']:,}"]]
    return [first, second]


def main(options: argparse.Namespace, name: str, snapshots: Path, results: Path) -> int:
    # Three members with their binary logs, a scratch copy, a restore and the repository.
    needed = options.size * MIB * 10
    state_dir().mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(state_dir()).free) < needed:
        raise LabError(f"{needed / MIB:,.0f} MiB are needed below {state_dir()}, and {free / MIB:,.0f} are free: give a smaller --size")
    results.mkdir(parents=True, exist_ok=True)
    lab = Lab(name, snapshots, Log(results / "log"), results)
    say("booting three nodes")
    try:
        found = measure(boot(lab, options.profile), options.size, options.seconds)
    finally:
        lab.remove()
    report.hand_out(options, found, tables(found))
    return 0
