#!/usr/bin/env python3
"""The ledger: a small app on the contract of docs/app.md, made so that a checker can judge what the database kept.

    POST /ledger/setup     {"accounts": 8, "balance": 1000}       the accounts, once
    POST /ledger/append    {"entries": {LIST: VALUE, …}}          → {"positions": {LIST: 1-based, …}}; all lists or none
    GET  /ledger/lists?name=A&name=B                              → {"lists": {A: [VALUE, …], …}}, one snapshot
    POST /ledger/transfer  {"from": A, "to": B, "amount": N}      → {"accounts": {A: [BALANCE, VERSION], B: …}}, 409 without cover
    GET  /ledger/accounts                                         → {"accounts": {NAME: [BALANCE, VERSION], …}}, one snapshot

Writes carry an Idempotency-Key. Its record is in the same transaction as the write, so a write whose commit was not answered is
simply sent again, to whichever primary there is, until WRITE_PATIENCE is over: a user sees a slow answer instead of an error.
Answers carry `Trivet-Gtid`, what a later read must have seen; the client sends it back. A read waits for that on a replica,
briefly, and else asks the primary. Reads hand out a set, too, so that a session never goes backwards between two replicas.

Status 503 with the code `unavailable` says that certainly nothing was changed, `outcome_unknown` that it may have been.

LEDGER_GTID_WAIT=off leaves the wait out, LEDGER_READS=primary reads from the write address alone, where no wait is needed. They
are there to see what the checker notices.
Python's standard library and PyMySQL.
"""

import json
import os
import re
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor

# Reads or writes with a cursor, and gives what is to be answered.
Query = Callable[[Cursor], dict[str, Any]]

# Below the web tier's patience with an app, and above the longest unplanned failover.
WRITE_PATIENCE = 22.0
READ_PATIENCE = 12.0
GTID_WAIT = 0.5
RETRY_PAUSE = 0.1
POOL_PATIENCE = 5.0
POOL_SIZE = 16
# A set longer than this does not travel; the client then reads from the primary.
LONGEST_SET = 2000
PRIMARY = "primary"

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS ledger_lists (name VARCHAR(64) PRIMARY KEY, length INT NOT NULL)",
    # No unique key on the value: an append that was done twice shall be seen, not prevented here.
    "CREATE TABLE IF NOT EXISTS ledger_entries (list VARCHAR(64), position INT, value VARCHAR(64) NOT NULL, PRIMARY KEY (list, position))",
    "CREATE TABLE IF NOT EXISTS ledger_accounts (name VARCHAR(64) PRIMARY KEY, balance BIGINT NOT NULL, version INT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger_requests (id VARCHAR(64) PRIMARY KEY, kind VARCHAR(16) NOT NULL, answer JSON NOT NULL)",
)


class Refused(Exception):
    """The request cannot be carried out, whatever the database's state; nothing was changed."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Behind(Exception):
    """The replica has not seen what the client has."""


class Unavailable(Exception):
    def __init__(self, why: str, unknown: bool):
        super().__init__(why)
        self.unknown = unknown


class Pool:
    """Connections to one address of the gateway, opened when needed."""

    def __init__(self, url: str, ca: str | None, read_timeout: float, keep: bool = True):
        self.keep = keep
        parts = urlsplit(url)
        self.options: dict[str, Any] = {
            "host": parts.hostname, "port": parts.port or 3306, "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""), "database": parts.path.lstrip("/"), "charset": "utf8mb4",
            "connect_timeout": 16, "read_timeout": read_timeout, "write_timeout": 5,
        }
        if ca:
            self.options["ssl"] = ssl.create_default_context(cafile=ca)  # verifies the name, too
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(POOL_SIZE)

    def run(self, work: Callable[[Connection], Any]) -> Any:
        """Call with a connection that answered a moment ago. One on which anything went wrong is not used again."""
        if not self._room.acquire(timeout=POOL_PATIENCE):
            raise OSError("no free connection in time")
        try:
            connection = self._take()
            try:
                answer = work(connection)
                connection.rollback()  # ends what only read
            except (Behind, Refused):
                connection.rollback()
                self._put(connection)
                raise
            except BaseException:
                connection._force_close()  # type: ignore[attr-defined]
                raise
            self._put(connection)
            return answer
        finally:
            self._room.release()

    def _take(self) -> Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return pymysql.connect(**self.options)
            try:
                connection.ping(reconnect=False)
                return connection
            except (pymysql.MySQLError, OSError):
                connection._force_close()  # type: ignore[attr-defined]  # closed by the gateway while it lay here

    def _put(self, connection: Connection) -> None:
        if not self.keep:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)


class Ledger:
    def __init__(self, environment: dict[str, str]):
        ca = environment.get("DATABASE_CA_FILE")
        self.write_pool = Pool(environment["DATABASE_WRITE_URL"], ca, read_timeout=15)
        self.read_pool = Pool(environment["DATABASE_READ_URL"], ca, read_timeout=2)
        # A read of the primary does not wait as long as a write there. They are rare: each asks anew who the primary is.
        self.fallback_pool = Pool(environment["DATABASE_WRITE_URL"], ca, read_timeout=3, keep=False)
        self.waits = environment.get("LEDGER_GTID_WAIT") != "off"
        self.replicas = environment.get("LEDGER_READS") != "primary"
        self.last_read = 0.0

    # --- reading ----------------------------------------------------------------------------------------------

    def read(self, seen: str, query: Query) -> tuple[dict[str, Any], str, str]:
        """Answer, what it contains (for the next read), and who gave it."""
        deadline = time.monotonic() + READ_PATIENCE
        pools = [("primary", self.fallback_pool)]
        if self.replicas and not (seen == PRIMARY and self.waits):
            pools = [("replica", self.read_pool), ("replica", self.read_pool), *pools]
        while True:
            why, behind = "", False
            for name, pool in pools:
                if name == "replica" and behind:
                    continue
                try:
                    wait = seen if self.waits and name == "replica" and seen != PRIMARY else ""
                    answer, contains = pool.run(partial(self._snapshot, wait=wait, query=query))
                    return answer, contains, name
                except Behind:
                    behind = True
                except (pymysql.MySQLError, OSError) as e:
                    why = str(e)
            if time.monotonic() + RETRY_PAUSE > deadline:
                raise Unavailable(why, unknown=False)
            time.sleep(RETRY_PAUSE)

    def _snapshot(self, connection: Connection, wait: str, query: Query) -> tuple[dict[str, Any], str]:
        with connection.cursor() as cursor:
            if wait:
                cursor.execute("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", (wait, GTID_WAIT))
                if _row(cursor)[0] != 0:
                    raise Behind
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            answer = query(cursor)
            connection.commit()
            # A transaction can be seen an instant before it counts as executed; until then a thread owns its GTID.
            cursor.execute("SELECT @@GLOBAL.gtid_owned, @@GLOBAL.gtid_executed")
            owned, executed = _row(cursor)
            return answer, token(executed, owned)

    def probe(self) -> None:
        """Keeps `last_read`, which /healthz answers from."""
        while True:
            try:
                self.read_pool.run(_select_one)
                self.last_read = time.monotonic()
            except (pymysql.MySQLError, OSError):
                try:
                    self.fallback_pool.run(_select_one)
                    self.last_read = time.monotonic()
                except (pymysql.MySQLError, OSError):
                    pass
            time.sleep(0.5)

    # --- writing ----------------------------------------------------------------------------------------------

    def write(self, key: str, kind: str, change: Query) -> tuple[dict[str, Any], str]:
        """Run `change` in a transaction of its own, exactly once for the key; the answer, and what a read must have seen."""
        deadline = time.monotonic() + WRITE_PATIENCE
        unknown = False
        while True:
            sent = [False]
            try:
                done: tuple[dict[str, Any], str] = self.write_pool.run(
                    partial(self._transact, key=key, kind=kind, change=change, sent=sent))
                return done
            except (pymysql.MySQLError, OSError) as e:
                # Whatever it was: the key makes another attempt harmless. Only the answer must not claim too much.
                unknown = unknown or sent[0]
                if time.monotonic() + RETRY_PAUSE > deadline:
                    raise Unavailable(str(e), unknown) from None
            time.sleep(RETRY_PAUSE)

    def _transact(self, connection: Connection, key: str, kind: str, change: Query,
                  sent: list[bool]) -> tuple[dict[str, Any], str]:
        with connection.cursor() as cursor:
            connection.begin()
            cursor.execute("SELECT kind, answer FROM ledger_requests WHERE id = %s", (key,))
            if (row := cursor.fetchone()) is not None:
                connection.rollback()
                if row[0] != kind:
                    raise Refused(422, "this Idempotency-Key stands for another request")
                answer = json.loads(row[1])
            else:
                answer = change(cursor)
                cursor.execute("INSERT INTO ledger_requests VALUES (%s, %s, %s)", (key, kind, json.dumps(answer)))
                sent[0] = True
                connection.commit()
        return answer, self._executed(connection)

    def _executed(self, connection: Connection) -> str:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT @@GLOBAL.gtid_executed")
                return token(_row(cursor)[0])
        except (pymysql.MySQLError, OSError):
            return PRIMARY  # committed, and the answer must say so

    # --- the operations ---------------------------------------------------------------------------------------

    def setup(self, key: str, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        accounts, balance = int(body["accounts"]), int(body["balance"])
        self._create_tables()

        def change(cursor: Cursor) -> dict[str, Any]:
            for number in range(accounts):
                cursor.execute("INSERT IGNORE INTO ledger_accounts VALUES (%s, %s, 0)", (f"account-{number}", balance))
            return {}

        return self.write(key, "setup", change)

    def _create_tables(self) -> None:
        deadline = time.monotonic() + WRITE_PATIENCE
        while True:
            try:
                self.write_pool.run(_create)
                return
            except (pymysql.MySQLError, OSError) as e:
                if time.monotonic() > deadline:
                    raise Unavailable(str(e), unknown=False) from None
            time.sleep(RETRY_PAUSE)

    def append(self, key: str, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        entries = {str(name): str(value) for name, value in body["entries"].items()}

        def change(cursor: Cursor) -> dict[str, Any]:
            positions = {}
            for name in sorted(entries):  # one order for everybody: no deadlocks
                cursor.execute("INSERT INTO ledger_lists VALUES (%s, 1) ON DUPLICATE KEY UPDATE length = length + 1", (name,))
                cursor.execute("SELECT length FROM ledger_lists WHERE name = %s FOR UPDATE", (name,))
                positions[name] = _row(cursor)[0]
                cursor.execute("INSERT INTO ledger_entries VALUES (%s, %s, %s)", (name, positions[name], entries[name]))
            return {"positions": positions}

        return self.write(key, "append", change)

    def transfer(self, key: str, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        source, target, amount = str(body["from"]), str(body["to"]), int(body["amount"])
        if amount <= 0 or source == target:
            raise Refused(422, "an amount above zero, between two accounts")

        def change(cursor: Cursor) -> dict[str, Any]:
            cursor.execute("SELECT name, balance, version FROM ledger_accounts WHERE name IN (%s, %s) ORDER BY name FOR UPDATE",
                           (source, target))
            found = {name: (balance, version) for name, balance, version in cursor.fetchall()}
            if len(found) != 2:
                raise Refused(404, "no such account")
            if found[source][0] < amount:
                raise Refused(409, "not enough money")
            # Written as values, not as `balance - amount`: a lock that does not hold would show as money made or lost.
            after = {source: [found[source][0] - amount, found[source][1] + 1],
                     target: [found[target][0] + amount, found[target][1] + 1]}
            for name, (balance, version) in after.items():
                cursor.execute("UPDATE ledger_accounts SET balance = %s, version = %s WHERE name = %s", (balance, version, name))
            return {"accounts": after}

        return self.write(key, "transfer", change)


def _create(connection: Connection) -> None:
    with connection.cursor() as cursor:
        for statement in SCHEMA:
            cursor.execute(statement)


def _row(cursor: Cursor) -> tuple[Any, ...]:
    """The row that was asked for, and must be there."""
    row = cursor.fetchone()
    assert row is not None
    return row


def _select_one(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def lists(names: list[str]) -> Query:
    def query(cursor: Cursor) -> dict[str, Any]:
        found: dict[str, list[str]] = {}
        for name in names:
            cursor.execute("SELECT value FROM ledger_entries WHERE list = %s ORDER BY position", (name,))
            found[name] = [row[0] for row in cursor.fetchall()]
        return {"lists": found}

    return query


def accounts(cursor: Cursor) -> dict[str, Any]:
    cursor.execute("SELECT name, balance, version FROM ledger_accounts")
    return {"accounts": {name: [balance, version] for name, balance, version in cursor.fetchall()}}


def token(executed: str, owned: str = "") -> str:
    """What a later read must have seen, as it travels in the header."""
    text = re.sub(r"\s", "", executed)
    if owned := re.sub(r"#\d+|\s", "", owned or ""):
        text += f",{owned}"
    return text if len(text) <= LONGEST_SET else PRIMARY


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 75  # an idle connection of the web tier
    ledger: Ledger
    ready = True
    running = 0
    counting = threading.Lock()

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self._counted(self._get)

    def do_POST(self) -> None:
        self._counted(self._post)

    def _counted(self, serve: Callable[[], None]) -> None:
        with Handler.counting:
            Handler.running += 1
        try:
            serve()
        finally:
            with Handler.counting:
                Handler.running -= 1

    def _get(self) -> None:
        self._body()
        at = urlsplit(self.path)
        if at.path == "/healthz":
            healthy = Handler.ready and time.monotonic() - self.ledger.last_read < 3
            return self._say(200 if healthy else 503, {"healthy": healthy})
        if at.path == "/":
            return self._say(200, {"app": "ledger"})
        if at.path == "/ledger/lists":
            return self._read(lists(parse_qs(at.query).get("name", [])))
        if at.path == "/ledger/accounts":
            return self._read(accounts)
        self._say(404, {"code": "not_found"})

    def _body(self) -> bytes:
        # Also where nobody wants it: what is left would be taken for the next request.
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _read(self, query: Query) -> None:
        try:
            answer, contains, by = self.ledger.read(self._seen(), query)
        except Unavailable as e:
            return self._say(503, {"code": "unavailable", "message": str(e)})
        self._say(200, answer, {"Trivet-Gtid": contains, "Read-By": by})

    def _seen(self) -> str:
        seen = self.headers.get("Trivet-Gtid", "")
        return seen if re.fullmatch(r"[0-9A-Za-z:,-]*", seen) else ""

    def _post(self) -> None:
        body = self._body()
        operations = {"/ledger/setup": self.ledger.setup, "/ledger/append": self.ledger.append, "/ledger/transfer": self.ledger.transfer}
        operation, key = operations.get(urlsplit(self.path).path), self.headers.get("Idempotency-Key", "")
        if operation is None:
            return self._say(404, {"code": "not_found"})
        if not re.fullmatch(r"[0-9A-Za-z._-]{1,64}", key):
            return self._say(422, {"code": "invalid", "message": "an Idempotency-Key of 1 to 64 letters, digits, dots and dashes"})
        try:
            answer, contains = operation(key, json.loads(body))
        except Refused as e:
            return self._say(e.status, {"code": "refused", "message": str(e)})
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            return self._say(422, {"code": "invalid", "message": f"{type(e).__name__}: {e}"})
        except Unavailable as e:
            return self._say(503, {"code": "outcome_unknown" if e.unknown else "unavailable", "message": str(e)})
        self._say(200, answer, {"Trivet-Gtid": contains})

    def _say(self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(text)), "Cache-Control": "no-store"}
                            | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)


def main() -> int:
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:8081").rpartition(":")
    Handler.ledger = Ledger(dict(os.environ))
    threading.Thread(target=Handler.ledger.probe, daemon=True).start()
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    stopping.wait()
    Handler.ready = False  # /healthz fails, and the web tier sends requests elsewhere
    time.sleep(1.5)
    server.shutdown()
    deadline = time.monotonic() + 10
    while Handler.running and time.monotonic() < deadline:
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
