"""One fault from beginning to end: users start, the fault comes and goes, the cluster becomes whole, the story is judged."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chaos import check, faults
from chaos.faults import Site
from chaos.schedule import Step

# All was well for so long before the fault, and again after it.
CALM = 2.0
# After the fault is over. A node that boots, recovers its database and joins takes the longest.
WHOLE = 240
SESSIONS, RATE = 12, 3.0
ACCOUNTS, BALANCE = 8, 1000
CHECKSUMS = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'trivet' AND table_type = 'BASE TABLE'"


@dataclass
class Result:
    number: int
    fault: str
    step: str
    node: str = ""
    passed: bool = False
    error: str | None = None
    anomalies: list[str] = field(default_factory=list)
    requests: int = 0
    acknowledged: int = 0  # writes
    failed: dict[str, int] = field(default_factory=dict)
    outage: dict[str, float] = field(default_factory=dict)
    lost: int = 0
    whole_after: float | None = None  # seconds from the end of the fault
    load: float = 0.0  # of the machine that all this runs on, at the end
    whole: bool = False  # the next round may go on with these machines

    def summary(self) -> str:
        if self.error is not None:
            return f"FAILED: {self.error}"
        said = (f"write outage {self.outage['write']:.2f} s, read {self.outage['read']:.2f} s, "
                f"failed {sum(self.failed.values())} of {self.requests}, lost {self.lost}, whole after {self.whole_after:.1f} s")
        return said if self.passed else f"FAILED: {'; '.join(self.anomalies[:3])} ({len(self.anomalies)} in all; {said})"


class Ledger:
    """Users of the ledger (vm-tests/apps/ledger.py), and the judge over everything they wrote down."""

    app: str | None = "ledger"

    def prepare(self, site: Site) -> None:
        body = json.dumps({"accounts": ACCOUNTS, "balance": BALANCE})
        site.client.wait_until_succeeds(
            f"curl -fsS --max-time 30 -o /dev/null {site.SITE}/ledger/setup -H 'Idempotency-Key: setup' --json '{body}'", timeout=60)

    def start(self, site: Site, seed: int, name: str) -> None:
        self.before = kept(partial(site.sql, site.primary()), name)["accounts"]
        _users(site, f"start {name} --base {site.SITE} --sessions {SESSIONS} --rate {RATE} --seed {seed} "
                     f"--accounts {ACCOUNTS} --balance {BALANCE}")

    def served(self, site: Site, name: str) -> Callable[[], bool]:
        since = _now(site)

        def again() -> bool:
            now = json.loads(_users(site, f"show {name}"))
            return bool(now["last_write"] > since and now["last_read"] > since)

        return again

    def stop(self, site: Site, name: str, out: Path) -> None:
        at = _users(site, f"stop {name}").strip()
        text = site.client.succeed(f"cat {at}")
        (out / "history.jsonl").write_text(text)
        self.history = [json.loads(line) for line in text.splitlines()]

    def judge(self, site: Site, name: str, out: Path, result: "Result", began: float, ended: float) -> list[check.Anomaly]:
        result.requests = len(self.history)
        result.acknowledged = sum(r["op"] in check.WRITES and r["outcome"] == "ok" for r in self.history)
        result.failed = check.failures(self.history)
        result.outage = check.outages(self.history, began, ended)
        states = {n.name: kept(partial(site.sql, n), name) for n in site.NODES}
        (out / "states.json").write_text(json.dumps({"before": self.before, "members": states}))
        return check.check(check.Round(self.history, self.before, states))

    def ruins(self, site: Site, name: str) -> list[check.Anomaly]:
        """Of a cluster that did not become whole: the acknowledged writes that no member has any more."""
        states = {}
        for node in site.NODES:
            try:
                states[node.name] = kept(partial(site.sql, node), name)
            except Exception:
                continue  # its mysqld does not answer: what it has is not known
        return check.on_no_member(self.history, states) if len(states) == len(site.NODES) else []


class ReferenceSite:
    """The reference site under trivet-probe: comments written with an idempotency key, pages read."""

    app: str | None = None
    reads, writes = 20, 10

    def prepare(self, site: Site) -> None:
        site.make_user()

    def start(self, site: Site, seed: int, name: str) -> None:
        # A user waits for longer than the site does before it says that it could not.
        site.client.succeed(
            f"trivet-probe start {name} --base {site.SITE} --reads {self.reads} --writes {self.writes} --timeout 40 --write-timeout 40 "
            f"--path / --user {site.USER} --password '{site.PASSWORD}'", timeout=120)

    def served(self, site: Site, name: str) -> Callable[[], bool]:
        before = site.probe_so_far(name)

        def again() -> bool:
            now = site.probe_so_far(name)
            return all(now[s]["succeeded"] > before[s]["succeeded"] + 5 for s in ("reads", "writes"))

        return again

    def stop(self, site: Site, name: str, out: Path) -> None:
        self.seen = site.stop_probe(name)
        (out / "probe.json").write_text(json.dumps(self.seen))

    def judge(self, site: Site, name: str, out: Path, result: "Result", began: float, ended: float) -> list[check.Anomaly]:
        streams = [self.seen["reads"], self.seen["writes"]]
        result.requests = sum(s["requests"] for s in streams)
        result.acknowledged = streams[1]["succeeded"]
        for stream in streams:
            for problem, times in stream["problems"].items():
                result.failed[problem] = result.failed.get(problem, 0) + times
        result.outage = {"read": streams[0]["longest_outage"], "write": streams[1]["longest_outage"]}
        found = [check.Anomaly("lost-write", f"{node}: {text} was acknowledged and is not there")
                 for node, missing in site.lost_writes(self.seen).items() for text in missing]
        twice = "SELECT body FROM trivet.comments WHERE body LIKE 'probe %' GROUP BY body HAVING COUNT(*) > 1"
        found += [check.Anomaly("doubled-write", text) for text in site.sql(site.primary(), twice).splitlines()]
        return found

    def ruins(self, site: Site, name: str) -> list[check.Anomaly]:
        return []


WORKLOADS: dict[str, type[Ledger] | type[ReferenceSite]] = {"ledger": Ledger, "site": ReferenceSite}


def run(site: Site, step: Step, name: str, out: Path, users: "Ledger | ReferenceSite") -> Result:
    """Never raises for what the cluster did; the result says it."""
    result = Result(step.number, step.fault, str(step))
    out.mkdir(parents=True, exist_ok=True)
    try:
        _run(site, step, name, out, result, users)
    except Exception as e:
        result.error = str(e) or type(e).__name__
        try:
            (out / "state.txt").write_text(state(site))
        except Exception as other:
            (out / "state.txt").write_text(f"the state could not be read: {other}")
    result.load = round(os.getloadavg()[0], 1)
    (out / "result.json").write_text(json.dumps(asdict(result), indent=1))
    return result


def _run(site: Site, step: Step, name: str, out: Path, result: Result, users: "Ledger | ReferenceSite") -> None:
    fault = faults.FAULTS[step.fault]
    node = faults.target(site, step)
    result.node = node.name if node is not None else "all"
    users.start(site, step.pick, name)
    working = True
    try:
        time.sleep(CALM)
        began = _now(site)
        try:
            fault.inject(site, node, step)
            time.sleep(max(0.0, began + step.seconds - _now(site)))
        finally:
            fault.heal(site, node, step)
        healed = _now(site)
        try:
            wait_until_whole(site, users.served(site, name))
        except Exception:
            working = False
            users.stop(site, name, out)
            found = users.ruins(site, name)
            result.anomalies, result.lost = [str(a) for a in found], check.lost_writes(found)
            raise
        ended = _now(site)
        result.whole, result.whole_after = True, round(ended - healed, 2)
        time.sleep(CALM)
    finally:
        if working:
            users.stop(site, name, out)
    wait_until_level(site)
    found = users.judge(site, name, out, result, began, ended) + _tables(site)
    result.anomalies, result.lost = [str(a) for a in found], check.lost_writes(found)
    result.passed = not found


def _users(site: Site, words: str) -> str:
    said: str = site.client.succeed(f"trivet-ledger {words}", timeout=180)
    return said


def _now(site: Site) -> float:
    """By the clock that the users write down."""
    return float(site.client.succeed("date +%s.%N"))


# --- the cluster ------------------------------------------------------------------------------------------------


def wait_until_whole(site: Site, served: Callable[[], bool], timeout: float = WHOLE) -> None:
    """All members ONLINE in one another's eyes, one writable primary, one holder of the address, users reading and writing."""
    deadline = time.monotonic() + timeout
    site.wait_for_members(site.NODES, timeout=timeout)

    def left() -> float:
        return max(5.0, deadline - time.monotonic())

    site.poll(lambda: _agreed(site), "the members agree on one writable primary", left())
    site.poll(lambda: len(site.holders(site.NODES)) == 1, "exactly one node holds the virtual address", left())
    site.poll(served, "users read and write again", left())


def _agreed(site: Site) -> bool:
    views = [site.members(n) for n in site.NODES]
    named = {a for v in views for a, (state, role) in v.items() if (state, role) == ("ONLINE", "PRIMARY")}
    return len(named) == 1 and all(views) and [site.try_sql(n, "SELECT @@super_read_only") for n in site.NODES].count("0") == 1


def wait_until_level(site: Site) -> None:
    """Until each member has applied everything that the primary has."""
    everything = site.executed_everywhere(site.NODES)
    for node in site.NODES:
        waited = site.sql(node, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{everything}', 60)", timeout=90)
        if waited != "0":
            raise Exception(f"{node.name} did not apply what the primary has within 60 s")


def kept(ask: Callable[[str], str], name: str) -> dict[str, Any]:
    """What a server has of this round; `ask` is given a statement and answers with tab-separated lines."""

    def rows(statement: str) -> list[list[str]]:
        return [line.split("\t") for line in ask(statement).splitlines()]

    entries: dict[str, list[str]] = {}
    for key, value in rows(f"SELECT list, value FROM trivet.ledger_entries WHERE list LIKE '{name}.%' ORDER BY list, position"):
        entries.setdefault(key, []).append(value)
    return {
        "entries": entries,
        "accounts": {a: [int(b), int(v)] for a, b, v in rows("SELECT name, balance, version FROM trivet.ledger_accounts")},
        "requests": [row[0] for row in rows(f"SELECT id FROM trivet.ledger_requests WHERE id LIKE '{name}.%'")],
    }


def _tables(site: Site) -> list[check.Anomaly]:
    """Checksums of all tables, and the histories' identifiers, are equal on all members."""
    found = []
    tables = ", ".join(f"trivet.`{t}`" for t in sorted(site.sql(site.NODES[0], CHECKSUMS).splitlines()))
    sums = {n.name: site.sql(n, f"CHECKSUM TABLE {tables}") for n in site.NODES}
    if len(set(sums.values())) > 1:
        found.append(check.Anomaly("checksums-differ", f"{sums}"))
    executed = {n.name: site.sql(n, "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')") for n in site.NODES}
    if len(set(executed.values())) > 1:
        found.append(check.Anomaly("gtids-differ", f"{executed}"))
    return found


def state(site: Site) -> str:
    """For whoever has to find out what went wrong."""
    said = []
    for node in site.NODES:
        if hasattr(node, "is_up") and not node.is_up():
            said.append(f"== {node.name}: off")
            continue
        said.append(f"== {node.name}")
        for command in ("trivet status", "systemctl --no-pager --failed", "ip -brief address",
                        f"mysql --table --execute='{site.MEMBERS}; SELECT @@super_read_only, @@gtid_executed'",
                        "journalctl --no-pager --unit=trivet-keeper --lines=30", "df /var/lib/mysql"):
            said.append(f"$ {command}\n{node.execute(f'{command} 2>&1', timeout=20)[1]}")
    return "\n".join(said)
