#!/usr/bin/env python3
"""trivet-ledger: concurrent users of the ledger (apps/ledger.py), who write down everything they did and saw.

    trivet-ledger start NAME [options]   begin in the background; returns once every session had a first success
    trivet-ledger show NAME              when reads and writes last succeeded, as JSON
    trivet-ledger stop NAME              send nothing more, wait for the answers, print the path of the history

Each session is one user: one request at a time, each on a connection of its own, at a steady pace while answers come quickly.
Every third only reads, so that reads are seen while all writers wait. It appends values of its own to lists (often to two at
once), moves money between accounts, and reads lists and accounts back.
It carries `Trivet-Gtid` from answer to request as a browser carries a cookie, and never sends a request twice.

The history has one JSON object per request: session, op, what was asked, when it was sent and answered (seconds since the
epoch), what came of it:

    ok        answered 2xx; `answer` is the body
    refused   the app said no for a reason of its own (no cover); nothing was changed
    failed    the app said that it could not, and that nothing was changed
    unknown   anything else: an error of the connection, a time-out, a status that promises nothing

Only the standard library is used.
"""

import argparse
import http.client
import json
import os
import random
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

START_PATIENCE = 40.0  # seconds for every session's first success
# A list is left alone after so many turns of the clock, so that reads stay small.
LIST_SECONDS = 5
LISTS = 4


def folder(name: str) -> Path:
    return Path(os.environ.get("TRIVET_PROBE_DIR", "/run/trivet-probe")) / f"ledger-{name}"


class History:
    def __init__(self, path: Path):
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()
        self.last = {"read": 0.0, "write": 0.0}
        self.count: dict[str, int] = {}

    def add(self, row: dict[str, Any]) -> None:
        with self._lock:
            self.count[row["outcome"]] = self.count.get(row["outcome"], 0) + 1
            if row["outcome"] in ("ok", "refused"):
                kind = "write" if row["op"] in ("append", "transfer") else "read"
                self.last[kind] = max(self.last[kind], row["end"])
            self._file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def shown(self) -> dict[str, Any]:
        with self._lock:
            return {"now": time.time(), "last_read": self.last["read"], "last_write": self.last["write"], "count": dict(self.count)}

    def close(self) -> None:
        self._file.close()


class Session:
    """One user."""

    def __init__(self, number: int, options: argparse.Namespace, history: History, tls: ssl.SSLContext | None):
        self.name = f"s{number}"
        self.options, self.history, self.tls = options, history, tls
        self.random = random.Random(f"{options.seed}/{number}")
        at = urlsplit(options.base)
        self.host, self.port, self.authority = at.hostname or "", at.port or (443 if tls else 80), at.netloc
        self.reads_only = number % 3 == 2
        self.seen = ""
        self.turn = 0
        self.first = threading.Event()

    def run(self, stopping: threading.Event) -> None:
        due = time.monotonic() + self.random.random() / self.options.rate
        while not stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - 1 / self.options.rate) + 1 / self.options.rate
            self.one()

    def one(self) -> None:
        self.turn += 1
        pick = self.random.random() if not self.reads_only else self.random.uniform(0.60, 1.0)
        if pick < 0.35:
            self.append()
        elif pick < 0.60:
            self.transfer()
        elif pick < 0.82:
            self.read_lists()
        else:
            self.ask({"op": "accounts"}, "GET", "/ledger/accounts")

    def _lists(self) -> list[str]:
        epoch = int(time.time()) // LIST_SECONDS
        return [f"{self.options.name}.{epoch}.{n}" for n in self.random.sample(range(LISTS), 2)]

    def append(self) -> None:
        names = self._lists()[: self.random.choice((1, 2, 2))]
        entries = {name: f"{self.options.name}.{self.name}.{self.turn}.{n}" for n, name in enumerate(names)}
        self.ask({"op": "append", "entries": entries}, "POST", "/ledger/append", {"entries": entries})

    def transfer(self) -> None:
        a, b = self.random.sample(range(self.options.accounts), 2)
        body = {"from": f"account-{a}", "to": f"account-{b}", "amount": self.random.randint(1, 20)}
        self.ask({"op": "transfer", **body}, "POST", "/ledger/transfer", body)

    def read_lists(self) -> None:
        names = self._lists()
        self.ask({"op": "lists", "names": names}, "GET", "/ledger/lists?" + "&".join(f"name={quote(n)}" for n in names))

    def ask(self, row: dict[str, Any], method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        key = f"{self.options.name}.{self.name}.{self.turn}"
        row = {"id": key, "session": self.name, **row, "begin": time.time()}
        try:
            row |= self._exchange(method, path, body, key)
        except Exception as e:
            row |= {"outcome": "unknown", "problem": problem_of(e)}
        row["end"] = time.time()
        self.history.add(row)
        if row["outcome"] == "ok":
            self.first.set()
        return row

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None, key: str) -> dict[str, Any]:
        headers = {"Host": self.authority, "User-Agent": "trivet-ledger", "Connection": "close"}
        if self.seen:
            headers["Trivet-Gtid"] = self.seen
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers |= {"Content-Type": "application/json", "Idempotency-Key": key}
        connection: http.client.HTTPConnection
        if self.tls is not None:
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=self.options.timeout, context=self.tls)
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=self.options.timeout)
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        return self._judge(answer, said)

    def _judge(self, answer: http.client.HTTPResponse, said: bytes) -> dict[str, Any]:
        try:
            told = json.loads(said)
        except ValueError:
            told = {}
        if 200 <= answer.status < 300:
            self.seen = answer.headers.get("Trivet-Gtid", self.seen)
            more = {"by": answer.headers["Read-By"]} if "Read-By" in answer.headers else {}
            return {"outcome": "ok", "answer": told, **more}
        code = told.get("code") if isinstance(told, dict) else None
        if 400 <= answer.status < 500 and code == "refused":
            return {"outcome": "refused", "problem": f"status {answer.status}"}
        if answer.status == 503 and code == "unavailable":
            return {"outcome": "failed", "problem": f"status 503: unavailable: {told.get('message', '')[:120]}"}
        return {"outcome": "unknown", "problem": f"status {answer.status}: {code or said[:80].decode(errors='replace')}"}


def problem_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.HTTPException):
        return f"broken answer: {type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"


class Clients:
    def __init__(self, options: argparse.Namespace, at: Path):
        self.options = options
        self.history = History(at / "history.jsonl")
        tls = ssl.create_default_context() if options.base.startswith("https:") else None
        self.sessions = [Session(n, options, self.history, tls) for n in range(options.sessions)]
        self.stopping = threading.Event()

    def run(self, ready: Callable[[str], None]) -> None:
        first = self.sessions[0]
        setup = {"accounts": self.options.accounts, "balance": self.options.balance}
        made = {"outcome": "unknown"}
        for _ in range(3):  # a repeat under the same key does nothing more
            made = first.ask({"op": "setup", **setup}, "POST", "/ledger/setup", setup)
            if made["outcome"] == "ok":
                break
            time.sleep(1)
        else:
            ready(f"the accounts could not be made: {made}")
            return
        threads = [threading.Thread(target=s.run, args=(self.stopping,)) for s in self.sessions]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + START_PATIENCE
        silent = [s.name for s in self.sessions if not s.first.wait(max(0.0, deadline - time.monotonic()))]
        if silent:
            self.stopping.set()
            ready(f"no success within {START_PATIENCE:.0f} s for {', '.join(silent)}; {self.history.shown()}")
        else:
            ready("ready")
        self.stopping.wait()
        for thread in threads:
            thread.join()
        self.history.close()


# --- commands ---------------------------------------------------------------------------------------------------


def put(path: Path, value: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.rename(path)


def start(options: argparse.Namespace) -> int:
    at = folder(options.name)
    at.mkdir(parents=True, exist_ok=True)
    if running(at) is not None:
        print(f"trivet-ledger: {options.name} is already running", file=sys.stderr)
        return 1
    for old in at.iterdir():
        old.unlink()
    reading, writing = os.pipe()
    if os.fork() != 0:
        os.close(writing)
        with os.fdopen(reading) as said:
            answer = said.read().strip()
        if answer != "ready":
            print(f"trivet-ledger: {options.name}: {answer or 'it died'}; {(at / 'log').read_text()[-500:]}", file=sys.stderr)
            return 1
        return 0
    os.close(reading)
    os.setsid()
    log = os.open(at / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, to in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, to)
    (at / "pid").write_text(str(os.getpid()))

    def ready(text: str) -> None:
        os.write(writing, text.encode())
        os.close(writing)

    clients = Clients(options, at)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: clients.stopping.set())

    def tell() -> None:
        while True:
            put(at / "shown.json", clients.history.shown())
            time.sleep(0.1)

    threading.Thread(target=tell, daemon=True).start()
    working = threading.Thread(target=clients.run, args=(ready,))
    working.start()  # in a thread, so that this one is free for signals
    while working.is_alive():
        working.join(0.2)
    put(at / "shown.json", clients.history.shown())
    (at / "pid").unlink()
    return 0


def running(at: Path) -> int | None:
    try:
        pid = int((at / "pid").read_text())
        os.kill(pid, 0)
        return pid
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


def show(options: argparse.Namespace) -> int:
    print((folder(options.name) / "shown.json").read_text())
    return 0


def stop(options: argparse.Namespace) -> int:
    at = folder(options.name)
    pid = running(at)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 120
    while running(at) is not None:
        if time.monotonic() > deadline:
            print(f"trivet-ledger: {options.name} does not end", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print(at / "history.jsonl")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="trivet-ledger", description="Concurrent users of the ledger who write down what they saw.")
    commands = parser.add_subparsers(dest="command", required=True)
    begin = commands.add_parser("start")
    begin.add_argument("--base", required=True)
    begin.add_argument("--sessions", type=int, default=12)
    begin.add_argument("--rate", type=float, default=4.0, help="requests per second of one session, at most")
    begin.add_argument("--accounts", type=int, default=8)
    begin.add_argument("--balance", type=int, default=1000)
    begin.add_argument("--seed", default="0")
    begin.add_argument("--timeout", type=float, default=40.0)
    for command in (begin, commands.add_parser("show"), commands.add_parser("stop")):
        command.add_argument("name")
    options = parser.parse_args()
    return {"start": start, "show": show, "stop": stop}[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
