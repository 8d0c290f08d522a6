"""The judgement over one round: what users were told, against what the members have.

A history is a list of rows as trivet-ledger writes them (vm-tests/ledger_client.py). A state is what one member has on its disk:

    {"entries": {LIST: [VALUE, …]}, "accounts": {NAME: [BALANCE, VERSION]}, "requests": [ID, …]}

`before` holds the accounts as they were when the round began. Every finding is an anomaly: none of them is expected, whatever
the fault was. Failed requests are no anomaly; they are counted elsewhere.
"""

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from chaos import order

Row = dict[str, Any]  # of a history, or a member's state: JSON that the users and the members wrote

WRITES = ("append", "transfer")


@dataclass(frozen=True)
class Anomaly:
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Round:
    history: list[Row]
    before: dict[str, list[int]]
    states: dict[str, Row]  # by member

    def of(self, op: str, *outcomes: str) -> list[Row]:
        return [r for r in self.history if r["op"] == op and (not outcomes or r["outcome"] in outcomes)]


def check(story: Round) -> list[Anomaly]:
    """Everything that contradicts what was promised; empty when the round is sound."""
    found = []
    for judge in (members_agree, acknowledged_writes, at_most_once, refused_did_nothing, reads_are_prefixes, sessions,
                  money, real_time):
        found += judge(story)
    return found + [Anomaly("cycle", text) for text in order.cycles(story.history, final(story)["entries"])]


def final(story: Round) -> Row:
    """One member's state, to compare with. That the others are like it is a judgement of its own."""
    return next(iter(story.states.values()))


def as_of(history: list[Row], moment: float, doubt: float) -> list[Row]:
    """The history as it was known at `moment` (seconds since the epoch), for a state that was restored to then: what was acknowledged before is
    there, what was asked after is not, and of the rest, also within `doubt` of it (the clocks of two machines), nobody knows."""
    known = []
    for row in history:
        if row["end"] < moment - doubt:
            known.append(row)
        elif row["op"] in WRITES:
            late = row["begin"] > moment + doubt
            rest = {k: v for k, v in row.items() if k != "answer"}
            known.append(rest | {"outcome": "failed" if late else "unknown", "problem": f"not answered at {moment}"})
    return known


# --- writes -----------------------------------------------------------------------------------------------------


def members_agree(story: Round) -> list[Anomaly]:
    found = []
    (first, state), *rest = story.states.items()
    for name, other in rest:
        for part in state:
            a, b = state[part], other[part]
            if part == "requests":
                a, b = sorted(a), sorted(b)
            if a != b:
                found.append(Anomaly("members-differ", f"{first} and {name} differ in {part}: {_difference(a, b)}"))
    return found


def _difference(a: object, b: object) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
        return "; ".join(f"{k}: {_short(a.get(k))} / {_short(b.get(k))}" for k in keys[:3])
    if isinstance(a, list) and isinstance(b, list):
        return f"{_short([x for x in a if x not in b])} / {_short([x for x in b if x not in a])}"
    return f"{_short(a)} / {_short(b)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:160]}…"


def acknowledged_writes(story: Round) -> list[Anomaly]:
    """Every acknowledged write is on every member, where it was said to be."""
    found = []
    for name, state in story.states.items():
        done = set(state["requests"])
        for row in story.of("append", "ok"):
            for key, value in row["entries"].items():
                values = state["entries"].get(key, [])
                at = row["answer"]["positions"][key]
                if value not in values:
                    found.append(Anomaly("lost-write", f"{name}: {value} was acknowledged in list {key} and is not there (request {row['id']})"))
                elif len(values) < at or values[at - 1] != value:
                    is_at = values.index(value) + 1
                    found.append(Anomaly("moved-write", f"{name}: {value} was acknowledged at position {at} of {key} and is at {is_at}"))
        for row in story.of("transfer", "ok"):
            if row["id"] not in done:
                found.append(Anomaly("lost-write", f"{name}: transfer {row['id']} was acknowledged and is not there"))
    return found


def on_no_member(history: list[Row], states: dict[str, Row]) -> list[Anomaly]:
    """Acknowledged writes that none of the members has. Two may lack what the third still brings back, so only that is lost for certain."""
    there = {request for state in states.values() for request in state["requests"]}
    return [Anomaly("lost-write", f"every member: {row['op']} {row['id']} was acknowledged and is not there")
            for row in history if row["op"] in WRITES and row["outcome"] == "ok" and row["id"] not in there]


def lost_writes(anomalies: list[Anomaly]) -> int:
    return len({a.text.split(": ", 1)[1] for a in anomalies if a.kind == "lost-write"})


def at_most_once(story: Round) -> list[Anomaly]:
    """No value twice in a list, none that nobody wrote. (A transfer that was made twice shows in `money`.)"""
    found = []
    asked = {(key, value): row["id"] for row in story.of("append") for key, value in row["entries"].items()}
    for name, state in story.states.items():
        for key, values in state["entries"].items():
            for value, times in Counter(values).items():
                if times > 1:
                    found.append(Anomaly("doubled-write", f"{name}: {value} is {times} times in list {key}"))
                if (key, value) not in asked:
                    found.append(Anomaly("phantom-write", f"{name}: {value} in list {key} was written by nobody"))
    return found


def refused_did_nothing(story: Round) -> list[Anomaly]:
    """What the app said had changed nothing changed nothing; and a write to two lists is in both or in none."""
    found = []
    for name, state in story.states.items():
        done = set(state["requests"])
        for row in story.history:
            if row["op"] in WRITES and row["outcome"] in ("refused", "failed") and row["id"] in done:
                found.append(Anomaly("refused-but-done", f"{name}: {row['op']} {row['id']} was answered {row['problem']!r}, and was done"))
        for row in story.of("append"):
            there = [value in state["entries"].get(key, []) for key, value in row["entries"].items()]
            if any(there) and not all(there):
                found.append(Anomaly("torn-write", f"{name}: of append {row['id']} only a part is there"))
            if any(there) != (row["id"] in done):
                found.append(Anomaly("torn-write", f"{name}: append {row['id']} and its record do not belong together"))
    return found


# --- reads ------------------------------------------------------------------------------------------------------


def reads_are_prefixes(story: Round) -> list[Anomaly]:
    """Lists only grow: what was read once is the beginning of what is there in the end; and nobody reads the future."""
    found = []
    lists = final(story)["entries"]
    began = {(key, value): row["begin"] for row in story.of("append") for key, value in row["entries"].items()}
    for row in story.of("lists", "ok"):
        for key, values in row["answer"]["lists"].items():
            kept = lists.get(key, [])
            if values != kept[:len(values)]:
                gone = [v for v in values if v not in kept]
                if gone:
                    found.append(Anomaly("read-of-lost-write", f"{row['id']} read {_short(gone)} in {key}, which is not there in the end"))
                else:
                    found.append(Anomaly("read-out-of-order", f"{row['id']} read {key} as {_short(values)}, in the end it is {_short(kept)}"))
            if early := [v for v in values if began.get((key, v), 0) > row["end"]]:
                found.append(Anomaly("read-from-future", f"{row['id']} read {_short(early)} before it was written"))
    return found


def sessions(story: Round) -> list[Anomaly]:
    """A user sees what they wrote and what they saw before: lists no shorter, accounts no older."""
    found = []
    for session in sorted({r["session"] for r in story.history}):
        lengths: dict[str, tuple[int, str]] = defaultdict(lambda: (0, ""))
        versions: dict[str, tuple[int, str]] = defaultdict(lambda: (0, ""))

        def see(known: dict[str, tuple[int, str]], key: str, now: int, row: Row, what: str, session: str = session) -> None:
            least, by = known[key]
            if now < least:
                kind = "stale-read" if row["op"] in ("lists", "accounts") else "stale-write"
                found.append(Anomaly(kind, f"session {session}: {row['id']} saw {what} {key} at {now}, after {by} saw it at {least}"
                                           + (f" (read from a {row['by']})" if "by" in row else "")))
            else:
                known[key] = (now, row["id"])

        for row in sorted((r for r in story.history if r["session"] == session and r["outcome"] == "ok"), key=lambda r: r["begin"]):
            answer = row.get("answer", {})
            for key, position in answer.get("positions", {}).items():
                see(lengths, key, position, row, "list")
            for key, values in answer.get("lists", {}).items():
                see(lengths, key, len(values), row, "list")
            for key, (_, version) in answer.get("accounts", {}).items():
                see(versions, key, version, row, "account")
    return found


# --- money ------------------------------------------------------------------------------------------------------


def money(story: Round) -> list[Anomaly]:
    """Transfers move money and neither make nor destroy any: in every snapshot a user read, and at the end, on every member."""
    found = []
    total = sum(balance for balance, _ in story.before.values())
    for row in story.of("accounts", "ok"):
        seen = row["answer"]["accounts"]
        if seen.keys() == story.before.keys():
            found += _sound(f"the snapshot {row['id']}", seen, total)
        else:
            found.append(Anomaly("money", f"the snapshot {row['id']} has the accounts {sorted(seen)}"))
    for name, state in story.states.items():
        found += _sound(name, state["accounts"], total)
        found += _replay(story, name, state)
    return found


def _sound(where: str, accounts: dict[str, list[int]], total: int) -> list[Anomaly]:
    found = []
    now = sum(balance for balance, _ in accounts.values())
    if now != total:
        found.append(Anomaly("money", f"{where}: {abs(now - total)} {'made' if now > total else 'destroyed'}: {now} instead of {total}"))
    if below := {a: b for a, (b, _) in accounts.items() if b < 0}:
        found.append(Anomaly("money", f"{where}: accounts below zero: {below}"))
    return found


def _replay(story: Round, name: str, state: Row) -> list[Anomaly]:
    """The balances are what the recorded transfers lead to, each made once."""
    done, expected = set(state["requests"]), {a: list(v) for a, v in story.before.items()}
    for row in story.of("transfer"):
        if row["id"] in done:
            for account, amount in ((row["from"], -row["amount"]), (row["to"], row["amount"])):
                if account in expected:
                    expected[account] = [expected[account][0] + amount, expected[account][1] + 1]
    return [Anomaly("money", f"{name}: {account} has balance {has[0]} after {has[1]} transfers, "
                             f"the recorded ones lead to {expected[account][0]} after {expected[account][1]}")
            for account, has in state["accounts"].items() if account in expected and list(has) != expected[account]]


# --- time -------------------------------------------------------------------------------------------------------


def real_time(story: Round) -> list[Anomaly]:
    """A write that began after another was acknowledged comes after it, in lists and in accounts."""
    found = []
    writes: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for row in story.of("append", "ok"):
        for key, position in row["answer"]["positions"].items():
            writes[f"list {key}"].append((position, row))
    for row in story.of("transfer", "ok"):
        for key, (_, version) in row["answer"]["accounts"].items():
            writes[f"account {key}"].append((version, row))
    for key, rows in writes.items():
        taken = Counter(version for version, _ in rows)
        if twice := sorted(v for v, times in taken.items() if times > 1):
            found.append(Anomaly("lost-update", f"{key}: two writes were told the same place: {twice[:5]}"))
        rows.sort(key=lambda item: item[0])
        latest = None  # the write of a lower place that began last
        for version, row in rows:
            if latest is not None and row["end"] < latest["begin"]:
                found.append(Anomaly("real-time", f"{key}: {row['id']} was acknowledged before {latest['id']} began, "
                                                  f"and comes after it, at {version}"))
            if latest is None or row["begin"] > latest["begin"]:
                latest = row
    return found


# --- numbers ----------------------------------------------------------------------------------------------------


def failures(history: list[Row]) -> dict[str, int]:
    """Requests that a user would call failed, by problem."""
    return dict(Counter(r["problem"] for r in history if r["outcome"] in ("failed", "unknown")))


def outages(history: list[Row], since: float, until: float) -> dict[str, float]:
    """Longest time between one success and the next, of writes and of reads, within the window; seconds."""
    result = {}
    for name, ops in (("write", WRITES), ("read", ("lists", "accounts"))):
        ends = sorted(r["end"] for r in history if r["op"] in ops and r["outcome"] in ("ok", "refused"))
        ends = [max(since, t) for t in ends if t <= since][-1:] + [t for t in ends if since < t <= until] + [until]
        result[name] = round(max((b - a for a, b in itertools.pairwise(ends)), default=until - since), 3)
    return result
