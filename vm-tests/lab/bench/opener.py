"""Opens connections: one request on each and a new one (`burst`), or many that stay idle (`hold`).

Runs as a program of its own, on the load generators' cores: several processes, plain blocking sockets, Python's OpenSSL.
"""

import argparse
import json
import multiprocessing
import os
import socket
import ssl
import sys
import time

from lab.servers import SITE


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    # Checking the chain is the client's work, and not what is measured.
    made.verify_mode = ssl.CERT_NONE
    made.set_ecdh_curve("X25519")
    made.set_alpn_protocols(["http/1.1"])
    return made


def request(path: str, close: bool) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {SITE}\r\n{'Connection: close' if close else 'Accept: */*'}\r\n\r\n".encode()


def read_all(stream: socket.socket) -> bytes:
    parts = []
    while True:
        try:
            part = stream.recv(65536)
        except (ssl.SSLEOFError, ConnectionResetError):
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def _burst(options: argparse.Namespace, until: float, results: "multiprocessing.SimpleQueue[tuple[int, int, int]]") -> None:
    tls = context()
    session: ssl.SSLSession | None = None
    wanted = request(options.path, close=True)
    good = bad = resumed = 0
    while time.monotonic() < until:
        try:
            stream = socket.create_connection(("127.0.0.1", options.port), timeout=10)
            if options.tls:
                stream = tls.wrap_socket(stream, server_hostname=SITE, session=session if options.resume else None)
                resumed += bool(stream.session_reused)
            stream.sendall(wanted)
            answer = read_all(stream)
            if options.resume and isinstance(stream, ssl.SSLSocket):
                session = stream.session  # with the ticket that came beside the answer
            stream.close()
            if answer.startswith(b"HTTP/1.1 200 "):
                good += 1
            else:
                bad += 1
        except OSError:
            bad += 1
    results.put((good, bad, resumed))


def burst(options: argparse.Namespace) -> None:
    results: multiprocessing.SimpleQueue[tuple[int, int, int]] = multiprocessing.SimpleQueue()
    began = time.monotonic()
    workers = [multiprocessing.Process(target=_burst, args=(options, began + options.seconds, results)) for _ in range(options.processes)]
    for worker in workers:
        worker.start()
    counts = [results.get() for _ in workers]
    took = time.monotonic() - began
    for worker in workers:
        worker.join()
    good, bad, resumed = (sum(c[i] for c in counts) for i in range(3))
    print(json.dumps({"good": good, "bad": bad, "seconds": took, "resumed": resumed}))


def _hold(options: argparse.Namespace, count: int, ready: "multiprocessing.SimpleQueue[int]", over: "multiprocessing.synchronize.Event") -> None:
    tls = context()
    wanted = request(options.path, close=False)
    held = []
    for _ in range(count):
        try:
            stream = tls.wrap_socket(socket.create_connection(("127.0.0.1", options.port), timeout=30), server_hostname=SITE)
            stream.sendall(wanted)
            answer = stream.recv(65536)
            while len(answer) < 1024:
                if not (part := stream.recv(65536)):
                    break
                answer += part
        except OSError:
            continue
        if answer.startswith(b"HTTP/1.1 200 "):
            held.append(stream)
    ready.put(len(held))
    over.wait()
    # A connection that the server has closed meanwhile was not held.
    alive = 0
    for stream in held:
        stream.setblocking(False)
        try:
            alive += bool(stream.recv(1))
        except ssl.SSLWantReadError:
            alive += 1
        except OSError:
            pass
    ready.put(alive)


def hold(options: argparse.Namespace) -> None:
    """Prints how many are open, waits for a line, prints how many still are."""
    ready: multiprocessing.SimpleQueue[int] = multiprocessing.SimpleQueue()
    over = multiprocessing.Event()
    shares = [options.connections // options.processes] * options.processes
    workers = [multiprocessing.Process(target=_hold, args=(options, share, ready, over)) for share in shares]
    for worker in workers:
        worker.start()
    print(sum(ready.get() for _ in workers), flush=True)
    sys.stdin.readline()
    over.set()
    print(sum(ready.get() for _ in workers), flush=True)
    # Ten thousand farewells are of no use to anybody.
    for worker in workers:
        worker.kill()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["burst", "hold"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/1k")
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    (burst if options.what == "burst" else hold)(options)


if __name__ == "__main__":
    main()
