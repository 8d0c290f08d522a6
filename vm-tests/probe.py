#!/usr/bin/env python3
"""trivet-probe: a client that keeps asking while things break, and tells what a user would have seen.

    trivet-probe start NAME [options]   begin in the background; returns once every stream had its first success
    trivet-probe stop NAME              end, print the summary as JSON
    trivet-probe show NAME              the summary so far, without ending
    trivet-probe ports HOST LIST        which TCP ports answer (LIST: 22,80,9000-9100), as JSON
    trivet-probe raw HOST PROTOCOL      one empty packet of an IP protocol (112: a forged VRRP advert)
    trivet-probe echo PORT              serve WebSockets that send back what they receive; any other request gets 200

Streams, each at its own steady pace, whatever becomes of the requests before (a user does not wait for another
user's answer):

    reads      GET on a connection of its own per request: sees how long nobody can get in
    keepalive  GET on kept connections, as a browser does. A kept connection that is found closed before a byte of the
               answer came is opened anew once, as browsers do; such a retry is counted ("reopened"), not hidden
    writes     POST of a comment with a text of its own; an answer 2xx is an acknowledged write. Never sent twice
    sockets    messages on WebSockets that stay open, to a back end that sends them back. One that ends is a failure

An outage is the time between one success and the next. Only the standard library is used.
"""

import argparse
import base64
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import queue
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

START_PATIENCE = 30.0  # seconds for every stream's first success


def folder(name: str) -> Path:
    return Path(os.environ.get("TRIVET_PROBE_DIR", "/run/trivet-probe")) / name


class Site:
    """The site as a client knows it: its address and its JSON API."""

    def __init__(self, base: str):
        parts = urlsplit(base)
        assert parts.hostname, f"not a URL: {base}"
        self.secure = parts.scheme == "https"
        self.host, self.port = parts.hostname, parts.port or (443 if self.secure else 80)
        self.authority = parts.netloc
        self._tls = ssl.create_default_context() if self.secure else None
        self._session: dict[str, str] = {}
        self._article = ""

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def exchange(self, connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None = None,
                 headers: dict[str, str] | None = None) -> tuple[int, http.client.HTTPMessage, bytes]:
        sent = {"Host": self.authority, "User-Agent": "trivet-probe", **(headers or {})}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection.request(method, path, body=data, headers=sent)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def once(self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None,
             timeout: float = 5.0) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self.connect(timeout)
        try:
            return self.exchange(connection, method, path, body, {"Connection": "close", **(headers or {})})
        finally:
            connection.close()

    def sign_in(self, user: str, password: str) -> None:
        status, _, said = self.once("POST", "/api/login", {"name": user, "password": password}, timeout=15)
        if status not in (200, 201):
            raise RuntimeError(f"signing in as {user}: status {status}: {said[:200]!r}")
        self._session = {"Authorization": f"Bearer {json.loads(said)['token']}"}

    def make_article(self, title: str) -> None:
        """What the writes comment on."""
        status, _, said = self.once("POST", "/api/articles", {"title": title, "body": "Written by the probe."},
                                    headers=self._session, timeout=15)
        if status not in (200, 201):
            raise RuntimeError(f"writing an article: status {status}: {said[:200]!r}")
        self._article = json.loads(said)["slug"]

    def write(self, text: str, timeout: float) -> int:
        path = f"/api/articles/{self._article}/comments"
        # With its own key a write may be sent on twice inside the site, and happens once. The probe itself never repeats it.
        headers = self._session | {"Idempotency-Key": text}
        return self.once("POST", path, {"body": text}, headers=headers, timeout=timeout)[0]


class WebSocket:
    """One side of a WebSocket (RFC 6455), with text messages of at most 125 octets, each in one frame."""

    GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

    def __init__(self, wire: socket.socket, is_client: bool):
        self.wire, self.file, self.is_client = wire, wire.makefile("rb"), is_client

    @classmethod
    def open(cls, site: Site, path: str, timeout: float) -> "WebSocket":
        connection = site.connect(timeout)
        connection.connect()
        opened = cls(connection.sock, is_client=True)
        key = base64.b64encode(os.urandom(16))
        opened.wire.sendall(f"GET {path} HTTP/1.1\r\nHost: {site.authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n".encode())
        status, fields = opened.head()
        if " 101 " not in status or fields.get("sec-websocket-accept") != cls.accept(key):
            raise http.client.HTTPException(f"no WebSocket: {status.strip()}")
        return opened

    @classmethod
    def accept(cls, key: bytes) -> str:
        """`Sec-WebSocket-Accept` (RFC 6455 section 4.2.2)."""
        return base64.b64encode(hashlib.sha1(key + cls.GUID).digest()).decode()

    def head(self) -> tuple[str, dict[str, str]]:
        """First line and fields of a message of HTTP/1.1."""
        first, fields = self.file.readline().decode("latin-1"), {}
        while line := self.file.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        return first, fields

    def send(self, text: bytes) -> None:
        mask = os.urandom(4) if self.is_client else b""
        sent = bytes(octet ^ mask[i % 4] for i, octet in enumerate(text)) if mask else text
        self.wire.sendall(bytes([0x81, len(text) | (0x80 if mask else 0)]) + mask + sent)

    def receive(self) -> bytes:
        """The next message; raises ConnectionResetError at the end of the connection or at a frame that is no such message."""
        head = self.file.read(2)
        if len(head) < 2 or head[0] != 0x81:
            raise ConnectionResetError(f"the WebSocket ended: {head!r}")
        mask = self.file.read(4) if head[1] & 0x80 else bytes(4)
        return bytes(octet ^ mask[i % 4] for i, octet in enumerate(self.file.read(head[1] & 0x7F)))

    def close(self) -> None:
        self.file.close()
        self.wire.close()


class Echo(socketserver.StreamRequestHandler):
    """A back end whose WebSockets send back what they receive."""

    def handle(self) -> None:
        served = WebSocket(self.connection, is_client=False)
        with contextlib.suppress(OSError):
            while True:
                first, fields = served.head()
                if not first:
                    return
                if fields.get("upgrade", "").lower() != "websocket":
                    self.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    continue
                accept = WebSocket.accept(fields["sec-websocket-key"].encode())
                self.connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                                        b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n")
                while True:
                    served.send(served.receive())


class EchoServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class Record:
    """Every request: when it began and ended (seconds since the probe began), which stream, what became of it."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.wall = time.time()
        self._lock = threading.Lock()
        self.rows: list[dict[str, Any]] = []
        self.reopened = 0
        self.ended: float | None = None  # when the last request was sent; answers may come in for a while

    def now(self) -> float:
        return time.monotonic() - self.began

    def add(self, stream: str, begin: float, problem: str | None, **more: object) -> None:
        row = {"stream": stream, "begin": round(begin, 4), "end": round(self.now(), 4), "problem": problem, **more}
        with self._lock:
            self.rows.append(row)

    def count_reopened(self) -> None:
        with self._lock:
            self.reopened += 1

    def snapshot(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self.rows)

    def summary(self, streams: list[str]) -> dict[str, Any]:
        rows, until = self.snapshot(), self.now() if self.ended is None else self.ended
        result: dict[str, Any] = {"began": self.wall, "seconds": round(until, 3), "reopened": self.reopened}
        for stream in streams:
            result[stream] = summarise([r for r in rows if r["stream"] == stream], until)
        result["acknowledged"] = [r["text"] for r in rows if r["stream"] == "writes" and r["problem"] is None]
        return result


def summarise(rows: list[dict[str, Any]], until: float) -> dict[str, Any]:
    """Longest time without a success, failures, and how long answers took."""
    good = sorted((r for r in rows if r["problem"] is None), key=lambda r: r["end"])
    bad = sorted((r for r in rows if r["problem"] is not None), key=lambda r: r["begin"])
    longest, at, over = 0.0, 0.0, True
    for before, after in itertools.pairwise(good):
        if after["end"] - before["end"] > longest:
            longest, at = after["end"] - before["end"], before["end"]
    last = good[-1]["end"] if good else 0.0
    if until - last > longest and bad and bad[-1]["end"] > last:  # still out when the probe was stopped
        longest, at, over = until - last, last, False
    took = sorted(r["end"] - r["begin"] for r in good)
    kinds: dict[str, int] = {}
    for row in bad:
        kinds[row["problem"]] = kinds.get(row["problem"], 0) + 1
    return {
        "requests": len(rows), "succeeded": len(good), "failed": len(bad),
        "longest_outage": round(longest, 3), "outage_began": round(at, 3), "outage_over": over,
        "median": round(took[len(took) // 2], 4) if took else None,
        "p99": round(took[int(len(took) * 0.99)], 4) if took else None,
        "problems": kinds, "first_problems": bad[:20],
    }


def problem_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.HTTPException):
        return f"broken answer: {type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"


class Probe:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.site = Site(options.base)
        self.record = Record()
        self.stopping = threading.Event()
        self.streams = [s for s, on in (("reads", options.reads), ("keepalive", options.keepalive),
                                        ("writes", options.writes), ("sockets", options.sockets)) if on]

    # --- the streams ------------------------------------------------------------------------------------------

    def read_once(self, path: str) -> None:
        begin = self.record.now()
        try:
            status, _, body = self.site.once("GET", path, timeout=self.options.timeout)
            problem = None if status == 200 and body else f"status {status}"
        except Exception as e:
            problem = problem_of(e)
        self.record.add("reads", begin, problem, path=path)

    def write_once(self) -> None:
        text = f"probe {self.options.name} {uuid.uuid4()}"
        begin = self.record.now()
        try:
            status = self.site.write(text, self.options.write_timeout)
            problem = None if 200 <= status < 300 else f"status {status}"
        except Exception as e:
            problem = problem_of(e)
        self.record.add("writes", begin, problem, text=text)

    def keepalive_client(self, pause: float) -> None:
        connection, used, turn = None, False, 0
        while not self.stopping.wait(pause):
            path = self.options.path[turn % len(self.options.path)]
            turn += 1
            begin = self.record.now()
            problem: str | None = None
            for _attempt in (1, 2):
                try:
                    if connection is None:
                        connection, used = self.site.connect(self.options.timeout), False
                    status, headers, body = self.site.exchange(connection, "GET", path)
                    problem = None if status == 200 and body else f"status {status}"
                    used = True
                    if (headers.get("Connection") or "").lower() == "close":
                        connection.close()
                        connection = None
                    break
                except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError) as e:
                    problem = problem_of(e)
                    stale = used
                    if connection is not None:
                        connection.close()
                    connection = None
                    if not stale:
                        break
                    self.record.count_reopened()
                except Exception as e:
                    problem = problem_of(e)
                    if connection is not None:
                        connection.close()
                    connection = None
                    break
            self.record.add("keepalive", begin, problem, path=path)

    def socket_client(self, number: int, pause: float) -> None:
        opened, turn = None, 0
        while not self.stopping.wait(pause):
            begin, problem = self.record.now(), None
            text = f"{number} {turn}".encode()
            turn += 1
            try:
                if opened is None:
                    opened = WebSocket.open(self.site, self.options.socket_path, self.options.timeout)
                opened.send(text)
                if (said := opened.receive()) != text:
                    problem = f"another message came back: {said!r}"
            except Exception as e:
                problem = problem_of(e)
                if opened is not None:
                    opened.close()
                opened = None
            self.record.add("sockets", begin, problem)
        if opened is not None:
            opened.close()

    def paced(self, per_second: float, patience: float, request: Callable[[int], None]) -> None:
        """Start a request at every tick, also while earlier ones hang."""
        tick = 1.0 / per_second
        with ThreadPoolExecutor(max_workers=int(patience * 2 / tick) + 8) as pool:
            due = time.monotonic()
            turn = 0
            while not self.stopping.is_set():
                pool.submit(request, turn)
                turn += 1
                due += tick
                late = due - time.monotonic()
                if late > 0:
                    self.stopping.wait(late)
                else:
                    due = time.monotonic()  # too slow a machine: keep the pace, do not catch up in a burst

    def run(self, ready: Callable[[str], None]) -> None:
        o = self.options
        if o.user:
            self.site.sign_in(o.user, o.password)
        if o.writes:
            self.site.make_article(f"Probe {o.name} {uuid.uuid4().hex[:8]}")
        self.record.began, self.record.wall = time.monotonic(), time.time()
        threads = []
        if o.reads:
            threads.append(threading.Thread(target=self.paced, args=(
                o.reads, o.timeout, lambda turn: self.read_once(o.path[turn % len(o.path)]))))
        if o.writes:
            threads.append(threading.Thread(target=self.paced, args=(o.writes, o.write_timeout, lambda _: self.write_once())))
        threads += [threading.Thread(target=self.keepalive_client, args=(0.05,)) for _ in range(o.keepalive)]
        threads += [threading.Thread(target=self.socket_client, args=(number, 0.1)) for number in range(o.sockets)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + START_PATIENCE
        missing = set(self.streams)
        while missing and time.monotonic() < deadline and not self.stopping.wait(0.05):
            missing -= {r["stream"] for r in self.record.snapshot() if r["problem"] is None}
        if missing:
            ready(f"no success within {START_PATIENCE:.0f} s in: {', '.join(sorted(missing))}; "
                  + json.dumps({s: self.record.summary(self.streams)[s]["problems"] for s in missing}))
            self.stopping.set()
        else:
            ready("ready")
        self.stopping.wait()
        self.record.ended = self.record.now()
        for thread in threads:
            thread.join()


# --- commands ---------------------------------------------------------------------------------------------------


def start(options: argparse.Namespace) -> int:
    at = folder(options.name)
    if is_running(at):
        print(f"trivet-probe: {options.name} is already running", file=sys.stderr)
        return 1
    at.mkdir(parents=True, exist_ok=True)
    for old in at.iterdir():
        old.unlink()
    reading, writing = os.pipe()
    if os.fork() != 0:
        os.close(writing)
        with os.fdopen(reading) as said:
            answer = said.read().strip()
        if answer != "ready":
            (at / "pid").unlink(missing_ok=True)
            print(f"trivet-probe: {options.name}: {answer or 'it died'}", file=sys.stderr)
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

    probe = Probe(options)
    shown: queue.SimpleQueue[None] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: probe.stopping.set())
    signal.signal(signal.SIGUSR1, lambda *_: shown.put(None))

    def show_on_demand() -> None:
        while True:
            shown.get()
            put(at / "shown.json", probe.record.summary(probe.streams))

    threading.Thread(target=show_on_demand, daemon=True).start()
    code = 0
    try:
        # In a thread, so that this one is free for signals.
        failure: list[BaseException] = []

        def body() -> None:
            try:
                probe.run(ready)
            except BaseException as e:
                failure.append(e)

        running = threading.Thread(target=body)
        running.start()
        while running.is_alive():
            running.join(0.2)
        if failure:
            raise failure[0]
        with (at / "requests.jsonl").open("w") as out:
            for row in probe.record.snapshot():
                out.write(json.dumps(row) + "\n")
        (at / "pid").unlink(missing_ok=True)  # before the summary: who has seen that may start anew
        put(at / "summary.json", probe.record.summary(probe.streams))
    except BaseException as e:
        with contextlib.suppress(OSError):
            ready(f"{type(e).__name__}: {e}")
        code = 1
    (at / "pid").unlink(missing_ok=True)
    os._exit(code)


def is_running(at: Path) -> bool:
    """A probe that was killed leaves its process id behind."""
    try:
        os.kill(int((at / "pid").read_text()), 0)
        return True
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False


def put(path: Path, value: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.rename(path)


def signalled(name: str, number: int, produces: str, patience: float) -> int:
    at = folder(name)
    try:
        pid = int((at / "pid").read_text())
        (at / produces).unlink(missing_ok=True)
        os.kill(pid, number)
    except (FileNotFoundError, ProcessLookupError):
        log = (at / "log").read_text() if (at / "log").exists() else ""
        print(f"trivet-probe: {name} is not running {log[-400:]}", file=sys.stderr)
        return 1
    deadline = time.monotonic() + patience
    while not (at / produces).exists():
        if time.monotonic() > deadline:
            print(f"trivet-probe: {name} did not answer within {patience:.0f} s", file=sys.stderr)
            return 1
        time.sleep(0.02)
    print((at / produces).read_text())
    return 0


def ports(host: str, spec: str, timeout: float, source: str | None) -> int:
    wanted: list[int] = []
    for part in spec.split(","):
        first, _, last = part.partition("-")
        wanted += range(int(first), int(last or first) + 1)

    def ask(port: int) -> str:
        try:
            socket.create_connection((host, port), timeout=timeout, source_address=(source, 0) if source else None).close()
            return "open"
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "silent"

    with ThreadPoolExecutor(max_workers=512) as pool:
        answers = dict(zip(wanted, pool.map(ask, wanted), strict=True))
    print(json.dumps({kind: [p for p, a in answers.items() if a == kind] for kind in ("open", "refused", "silent")}))
    return 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="trivet-probe", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    s = commands.add_parser("start", help="begin in the background")
    s.add_argument("name")
    s.add_argument("--base", default="https://www.foobar.com")
    s.add_argument("--path", action="append", help="what to GET; several take turns (default: /)")
    s.add_argument("--reads", type=float, default=0, metavar="PER_SECOND")
    s.add_argument("--keepalive", type=int, default=0, metavar="CLIENTS")
    s.add_argument("--writes", type=float, default=0, metavar="PER_SECOND")
    s.add_argument("--sockets", type=int, default=0, metavar="CLIENTS")
    s.add_argument("--socket-path", default="/socket", help="where WebSockets are opened")
    s.add_argument("--timeout", type=float, default=2.0, help="seconds until a read counts as failed")
    s.add_argument("--write-timeout", type=float, default=5.0)
    s.add_argument("--user")
    s.add_argument("--password", default="")
    for name, text in (("stop", "end, print the summary"), ("show", "print the summary so far")):
        commands.add_parser(name, help=text).add_argument("name")
    p = commands.add_parser("ports", help="which TCP ports answer")
    p.add_argument("host")
    p.add_argument("list")
    p.add_argument("--timeout", type=float, default=0.5)
    p.add_argument("--source", help="the address to ask from")
    r = commands.add_parser("raw", help="send one empty IP packet of a protocol (as root)")
    r.add_argument("host")
    r.add_argument("protocol", type=int)
    e = commands.add_parser("echo", help="serve WebSockets that send back what they receive")
    e.add_argument("port", type=int)
    options = parser.parse_args(argv)
    match options.command:
        case "start":
            options.path = options.path or ["/"]
            if not (options.reads or options.keepalive or options.writes or options.sockets):
                parser.error("start: nothing to do: give --reads, --keepalive, --writes or --sockets")
            return start(options)
        case "stop":
            return signalled(options.name, signal.SIGTERM, "summary.json", 60)
        case "show":
            return signalled(options.name, signal.SIGUSR1, "shown.json", 10)
        case "raw":
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, options.protocol) as raw:
                raw.sendto(bytes(20), (options.host, 0))
            return 0
        case "echo":
            with EchoServer(("", options.port), Echo) as server:
                server.serve_forever()
            return 0
        case _:
            return ports(options.host, options.list, options.timeout, options.source)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
