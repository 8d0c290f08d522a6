#!/usr/bin/env python3
"""A guestbook that keeps the contract of docs/app.md: a small site of your own in place of the reference site.

    GET  /             the page, with a form
    POST /entries      name=…&text=…   (a form, or JSON); 303 for a form, 201 for JSON
    GET  /entries      JSON, newest first
    GET  /healthz      200 while readers can be served

It shows what an app on Trivet has to do, and nothing else: Python's standard library and PyMySQL, the driver as Debian,
nixpkgs and PyPI have it. The parts that any app needs are marked (1) to (5), as in docs/app.md.
"""

import html
import json
import os
import random
import secrets
import signal
import ssl
import threading
import time
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql

# Below the web tier's response_timeout (30 s), above an unplanned failover (8 s).
WRITE_PATIENCE, READ_PATIENCE = 20.0, 12.0
GTID_WAIT = 0.5
LARGEST_BODY = 16 * 1024
# Everything that a failover says: read-only, offline, shutting down, no server, gone, lost; and what another transaction
# says: deadlock, lock wait, rolled back during COMMIT.
TRY_AGAIN = {1290, 1836, 3032, 3098, 4094, 1053, 1040, 1180, 3100, 1317, 3168, 3169, 4031, 2002, 2003, 2006, 2013,
             2055, 1205, 1213, 3101, 3797, 3798}

SCHEMA = (
    # InnoDB and a primary key in every table: Group Replication takes no others.
    "CREATE TABLE IF NOT EXISTS guestbook (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, name VARCHAR(60) NOT NULL,"
    " text VARCHAR(2000) NOT NULL, written_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE IF NOT EXISTS guestbook_keys (id VARCHAR(200) PRIMARY KEY, entry BIGINT UNSIGNED NOT NULL)",
)


class Unavailable(Exception):
    """No database answered in time."""


class Database:
    """One of the two addresses. A connection per request: the gateway is on this machine, so that costs a millisecond or two."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        # (1) Verified: the certificate is of this authority and carries the address 127.0.0.1.
        context = ssl.create_default_context(cafile=os.environ["DATABASE_CA_FILE"])
        self.options = {"host": parts.hostname, "port": parts.port or 3306, "user": unquote(parts.username or ""),
                        "password": unquote(parts.password or ""), "database": parts.path.lstrip("/"),
                        "ssl": context, "connect_timeout": 16, "charset": "utf8mb4"}

    def run(self, patience: float, work):
        """(2) Call `work` with a connection until it succeeds; what a failover or a deadlock says is tried again."""
        give_up, pause = time.monotonic() + patience, 0.05
        while True:
            try:
                left = max(0.1, give_up - time.monotonic())
                with pymysql.connect(**self.options, read_timeout=left, write_timeout=5) as connection:
                    with connection.cursor() as cursor:
                        answer = work(cursor)
                    connection.commit()
                    return answer
            except (pymysql.MySQLError, OSError) as e:
                number = e.args[0] if e.args else None
                if isinstance(e, pymysql.MySQLError) and number not in TRY_AGAIN and not isinstance(e, pymysql.InterfaceError):
                    raise
                if time.monotonic() + pause >= give_up:
                    raise Unavailable(str(e)) from e
                # Not all at once: longer each time, and by chance.
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, 1.0)


WRITE, READ = Database(os.environ["DATABASE_WRITE_URL"]), Database(os.environ["DATABASE_READ_URL"])


def add(key: str, name: str, text: str) -> tuple[int, str]:
    """(3) At most once per key, also when a commit was not answered: the key is in the same transaction as the entry."""
    def work(cursor) -> tuple[int, str]:
        cursor.execute("SELECT entry FROM guestbook_keys WHERE id = %s FOR UPDATE", (key,))
        if (row := cursor.fetchone()) is None:
            cursor.execute("INSERT INTO guestbook (name, text) VALUES (%s, %s)", (name, text))
            row = (cursor.lastrowid,)
            cursor.execute("INSERT INTO guestbook_keys (id, entry) VALUES (%s, %s)", (key, row[0]))
        cursor.connection.commit()
        # (4) What a later read must have seen, to see this.
        cursor.execute("SELECT @@global.gtid_executed")
        return row[0], "".join(cursor.fetchone()[0].split())

    return WRITE.run(WRITE_PATIENCE, work)


def entries(seen: str) -> list[dict]:
    """From a replica that has what this reader wrote, or else from the primary."""
    def query(cursor) -> list[dict]:
        cursor.execute("SELECT id, name, text, DATE_FORMAT(written_at, '%%Y-%%m-%%dT%%H:%%i:%%sZ') FROM guestbook "
                       "ORDER BY id DESC LIMIT %s", (100,))
        return [dict(zip(("id", "name", "text", "written_at"), row, strict=True)) for row in cursor.fetchall()]

    def fresh(cursor) -> list[dict] | None:
        if seen:
            cursor.execute("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", (seen, GTID_WAIT))
            if cursor.fetchone()[0] != 0:
                return None
        return query(cursor)

    try:
        found = READ.run(3.0, fresh)
    except Unavailable:
        found = None
    return found if found is not None else WRITE.run(READ_PATIENCE, query)


class Health:
    """Whether a database could be read lately. A moment's failure does not count: all nodes would see it at once."""

    def __init__(self):
        self.stopping, self.last_good = False, 0.0
        self.busy, self.lock = 0, threading.Lock()

    def count(self, change: int) -> None:
        """Requests being worked on."""
        with self.lock:
            self.busy += change

    def watch(self) -> None:
        made = False
        while True:
            try:
                if not made:
                    WRITE.run(1.0, lambda cursor: [cursor.execute(statement) for statement in SCHEMA])
                    made = True
                READ.run(1.0, lambda cursor: cursor.execute("SELECT 1 FROM guestbook LIMIT 1"))
                self.last_good = time.monotonic()
            except (Unavailable, pymysql.MySQLError):
                pass
            time.sleep(0.5)

    def good(self) -> bool:
        return not self.stopping and time.monotonic() - self.last_good < 5


HEALTH = Health()
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Guestbook</title><h1>Guestbook</h1>
<form method="post" action="/entries"><input type="hidden" name="key" value="{key}"><p><label>Name <input name="name" required maxlength="60">
</label><p><label>Text<br><textarea name="text" required maxlength="2000"></textarea></label><p><button>Write</button></form>{entries}"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "guestbook", ""

    def answer(self, status: int, kind: str, body: str, **headers: str) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        if HEALTH.stopping or self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def say(self, status: int, value, **headers: str) -> None:
        self.answer(status, "application/json", json.dumps(value), **headers)

    def seen(self) -> str:
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("seen")
        given = self.headers.get("Guestbook-Seen") or (cookie.value.replace("_", ",") if cookie else "")
        # From a client: nothing but a GTID set. (The reference site signs it as well.)
        return given if len(given) <= 1024 and all(c in "0123456789abcdefABCDEF-:," for c in given) else ""

    def body(self) -> bytes | None:
        """All of the request's body; none when it was refused. What is left unread would be taken for the next request."""
        length = self.headers.get("Content-Length") or "0"
        if self.headers.get("Transfer-Encoding"):
            status, why = 411, "a body needs its Content-Length here"
        elif not (length.isascii() and length.isdigit()):
            status, why = 400, "the Content-Length is no number"
        elif int(length) > LARGEST_BODY:
            status, why = 413, f"a body has {LARGEST_BODY} bytes at most"
        else:
            return self.rfile.read(int(length))
        self.close_connection = True
        self.say(status, {"error": why})
        return None

    def do_GET(self) -> None:
        if self.body() is None:
            return
        try:
            match urlsplit(self.path).path:
                case "/healthz":
                    good = HEALTH.good()
                    self.say(200 if good else 503, {"status": "ok" if good else "not ready"})
                case "/entries":
                    self.say(200, {"entries": entries(self.seen())})
                case "/":
                    rows = "".join(f"<h2>{html.escape(e['name'])}</h2><p>{html.escape(e['text'])}" for e in entries(self.seen()))
                    self.answer(200, "text/html; charset=utf-8", PAGE.format(key=secrets.token_hex(16), entries=rows))
                case _:
                    self.say(404, {"error": "nothing here"})
        except Unavailable as e:
            self.say(503, {"error": str(e)}, Retry_After="2")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.body()
        if body is None:
            return
        if urlsplit(self.path).path != "/entries":
            return self.say(404, {"error": "nothing here"})
        program = self.headers.get("Content-Type", "").startswith("application/json")
        try:
            given = json.loads(body) if program else {k: v[0] for k, v in parse_qs(body.decode()).items()}
            name, text = str(given["name"]).strip()[:60], str(given["text"]).strip()[:2000]
        except (ValueError, KeyError, TypeError):
            return self.say(422, {"error": "name and text are needed"})
        # The balancer repeats requests with this header when a node dies; a form has its key in a hidden field.
        key = self.headers.get("Idempotency-Key") or str(given.get("key") or secrets.token_hex(16))
        try:
            entry, seen = add(key[:200], name, text)
        except Unavailable as e:
            return self.say(503, {"error": str(e)}, Retry_After="2")
        cookie = f"seen={seen.replace(',', '_')}; Path=/; Max-Age=600; HttpOnly; SameSite=Lax"
        if program:
            return self.say(201, {"id": entry}, Guestbook_Seen=seen, Set_Cookie=cookie)
        self.answer(303, "text/plain", "", Location="/", Set_Cookie=cookie)

    def parse_request(self) -> bool:
        # The head is here, so a request has begun.
        HEALTH.count(+1)
        self.counted = True
        return super().parse_request()

    def handle_one_request(self) -> None:
        self.counted = False
        try:
            super().handle_one_request()
        finally:
            HEALTH.count(-1 if self.counted else 0)

    def log_message(self, *_: object) -> None:
        """The balancer has an access log."""


def main() -> None:
    host, port = os.environ["LISTEN"].rsplit(":", 1)
    server = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
    server.daemon_threads = True  # idle connections must not hold up the end; requests that were begun are counted

    # (5) Say that we stop, serve until the web tier has noticed, then close.
    def stop(*_: object) -> None:
        HEALTH.stopping = True
        threading.Timer(1.5, server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=HEALTH.watch, daemon=True).start()
    server.serve_forever(poll_interval=0.1)
    end = time.monotonic() + WRITE_PATIENCE
    while HEALTH.busy and time.monotonic() < end:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
