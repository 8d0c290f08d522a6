"""One fault from beginning to end: users start, the fault comes and goes, the cluster becomes whole, the story is judged."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos import check, faults
from chaos.faults import Site
from chaos.schedule import Step

# All was well for so long before the fault, and again after it.
CALM = 2.0
# After the fault is over. A node that boots, recovers its database and joins takes the longest.
WHOLE = 150
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
    failed: dict[str, int] = field(default_factory=dict)
    outage: dict[str, float] = field(default_factory=dict)
    lost: int = 0
    whole_after: float | None = None  # seconds from the end of the fault
    whole: bool = False  # the next round may go on with these machines

    def summary(self) -> str:
        if self.error is not None:
            return f"FAILED: {self.error}"
        said = (f"write outage {self.outage['write']:.2f} s, read {self.outage['read']:.2f} s, failed {sum(self.failed.values())} of {self.requests}, "
                f"lost {self.lost}, whole after {self.whole_after:.1f} s")
        return said if self.passed else f"FAILED: {'; '.join(self.anomalies[:3])} ({len(self.anomalies)} in all; {said})"


def prepare(site: Site) -> None:
    """The accounts."""
    body = json.dumps({"accounts": ACCOUNTS, "balance": BALANCE})
    site.client.wait_until_succeeds(
        f"curl -fsS --max-time 30 -o /dev/null {site.SITE}/ledger/setup -H 'Idempotency-Key: setup' --json '{body}'", timeout=60)


def run(site: Site, step: Step, name: str, out: Path, say: Callable[[str], None]) -> Result:
    """Never raises for what the cluster did; the result says it."""
    result = Result(step.number, step.fault, str(step))
    out.mkdir(parents=True, exist_ok=True)
    try:
        _run(site, step, name, out, result, say)
    except Exception as e:
        result.error = str(e) or type(e).__name__
        try:
            (out / "state.txt").write_text(state(site))
        except Exception as other:
            (out / "state.txt").write_text(f"the state could not be read: {other}")
    (out / "result.json").write_text(json.dumps(asdict(result), indent=1))
    return result


def _run(site: Site, step: Step, name: str, out: Path, result: Result, say: Callable[[str], None]) -> None:
    before = _member(site, site.primary(), name)["accounts"]
    fault = faults.FAULTS[step.fault]
    _users(site, f"start {name} --base {site.SITE} --sessions {SESSIONS} --rate {RATE} --seed {step.pick} "
                 f"--accounts {ACCOUNTS} --balance {BALANCE}")
    try:
        time.sleep(CALM)
        node = faults.target(site, step)
        result.node = node.name if node is not None else "all"
        began = _now(site)
        try:
            fault.inject(site, node, step)
            time.sleep(max(0.0, began + step.seconds - _now(site)))
        finally:
            fault.heal(site, node, step)
        healed = _now(site)
        wait_until_whole(site, name)
        ended = _now(site)
        result.whole, result.whole_after = True, round(ended - healed, 2)
        time.sleep(CALM)
    finally:
        history = _history(site, name, out)
    result.requests = len(history)
    result.failed = check.failures(history)
    result.outage = check.outages(history, began, ended)
    states = {n.name: _member(site, n, name) for n in _level(site)}
    (out / "states.json").write_text(json.dumps({"before": before, "members": states}))
    found = check.check(check.Round(history, before, states)) + _tables(site)
    result.anomalies, result.lost = [str(a) for a in found], check.lost_writes(found)
    result.passed = not found


def _users(site: Site, words: str) -> str:
    return site.client.succeed(f"trivet-ledger {words}", timeout=180)


def _now(site: Site) -> float:
    """By the clock that the users write down."""
    return float(site.client.succeed("date +%s.%N"))


def _history(site: Site, name: str, out: Path) -> list[dict]:
    at = _users(site, f"stop {name}").strip()
    text = site.client.succeed(f"cat {at}")
    (out / "history.jsonl").write_text(text)
    return [json.loads(line) for line in text.splitlines()]


# --- the cluster ------------------------------------------------------------------------------------------------


def wait_until_whole(site: Site, name: str, timeout: float = WHOLE) -> None:
    """All members ONLINE in one another's eyes, one writable primary, one holder of the address, users reading and writing."""
    deadline = time.monotonic() + timeout
    site.wait_for_members(site.NODES, timeout=timeout)

    def left() -> float:
        return max(5.0, deadline - time.monotonic())

    site.poll(lambda: _agreed(site), "the members agree on one writable primary", left())
    site.poll(lambda: len(site.holders(site.NODES)) == 1, "exactly one node holds the virtual address", left())
    since = _now(site)

    def served() -> bool:
        now = json.loads(_users(site, f"show {name}"))
        return now["last_write"] > since and now["last_read"] > since

    site.poll(served, "users read and write again", left())


def _agreed(site: Site):
    views = [site.members(n) for n in site.NODES]
    named = {a for v in views for a, (state, role) in v.items() if (state, role) == ("ONLINE", "PRIMARY")}
    return len(named) == 1 and all(views) and [site.try_sql(n, "SELECT @@super_read_only") for n in site.NODES].count("0") == 1


def _level(site: Site) -> list:
    """The members, once each has applied everything that the primary has."""
    everything = site.executed_everywhere(site.NODES)
    for node in site.NODES:
        waited = site.sql(node, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{everything}', 60)", timeout=90)
        if waited != "0":
            raise Exception(f"{node.name} did not apply what the primary has within 60 s")
    return site.NODES


def _member(site: Site, node, name: str) -> dict:
    """What the member has of this round."""

    def rows(statement: str) -> list[list[str]]:
        return [line.split("\t") for line in site.sql(node, statement).splitlines()]

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
