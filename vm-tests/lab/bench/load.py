"""The load generators: h2load for kept connections, lab.bench.opener for new ones."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import arena
from lab.bench.cases import Case
from lab.bench.proc import Cpu
from lab.errors import LabError
from lab.servers import SITE, Place

# What all of them offer, so that no server's taste decides: one suite, one group. OpenSSL's and rustls' own first suite.
SUITE, GROUP = "TLS_AES_256_GCM_SHA384", "X25519"
OPENERS = 8
# Seconds before and after the time that counts.
WARM, COOL = 1.0, 0.3
# Requests a second that one connection sends at a constant rate: h2load looks whether one is due every 10 ms at the soonest
# (`start_rps_timer` of h2load.cc), so that a busier connection would send several at once, and how its bursts meet those of others
# would depend on how fast the server took the connections in.
PER_CONNECTION = 90
# Of h2load's log.
Row = tuple[int, int, int]


@dataclass(frozen=True)
class Count:
    """What a closed-loop run did."""

    good: int
    bad: int
    seconds: float
    resumed: int = 0

    @property
    def rate(self) -> float:
        return self.good / self.seconds


def _h2load(case: Case, place: Place, root: Path, cores: list[int], seconds: float, log: Path, connections: int,
            more: list[str]) -> subprocess.Popen[str]:
    log.unlink(missing_ok=True)
    scheme, port = ("https", place.tls) if case.tls else ("http", place.plain)
    argv = ["taskset", "-c", ",".join(map(str, cores)), *arena.debian(root, "h2load"), "-t", "1", "-c", str(connections),
            "-m", str(case.streams), "-D", f"{round(seconds * 1000)}ms", f"--tls13-ciphers={SUITE}", f"--groups={GROUP}",
            f"--connect-to=127.0.0.1:{port}", f"--log-file={log}", *more]
    if not case.http2:
        argv.append("--h1")
    argv.append(f"{scheme}://{SITE}{case.path}")
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _end(case: Case, child: subprocess.Popen[str], log: Path, limit: float) -> list[Row]:
    """Wait for h2load, and read its log."""
    try:
        said, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise LabError(f"{case.name}: h2load did not end within {limit:.0f} s") from None
    if child.returncode != 0:
        raise LabError(f"{case.name}: h2load failed: {said.strip()[-300:]}")
    return parse_log(log.read_text())


def parse_log(text: str) -> list[Row]:
    """h2load's `--log-file`: start (µs since the epoch), status (-1: none came), duration (µs)."""
    return [(int(a), int(b), int(c)) for a, b, c, *_ in (line.split("\t") for line in text.splitlines())]


def count(rows: list[Row], begin: float, end: float) -> Count:
    """The requests that ended between two times (seconds since the epoch)."""
    ended = [status for start, status, took in rows if begin <= (start + took) / 1e6 < end]
    good = sum(200 <= status < 300 for status in ended)
    return Count(good, len(ended) - good, end - begin)


def closed_loop(case: Case, place: Place, root: Path, cores: list[int], seconds: float, cpu: Callable[[], Cpu],
                log: Path) -> tuple[Count, Cpu]:
    """As fast as the answers come, for `seconds`; what was answered, and what `cpu` grew by meanwhile."""
    if case.mode == "keep":
        child = _h2load(case, place, root, cores, WARM + seconds + COOL, log, case.connections, [])
        # Opening the connections is another case's matter.
        time.sleep(WARM)
        begin, before = time.time(), cpu()
        time.sleep(seconds)
        end, after = time.time(), cpu()
        return count(_end(case, child, log, seconds + 30), begin, end), after - before
    argv = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", "lab.bench.opener", "burst", "--port",
            str(place.tls if case.tls else place.plain), "--path", case.path, "--seconds", str(seconds), "--processes", str(OPENERS)]
    argv += ["--tls"] * case.tls + ["--resume"] * (case.mode == "resumed")
    before = cpu()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30)
    if done.returncode != 0:
        raise LabError(f"{case.name}: the opener failed: {done.stderr.strip()[-300:]}")
    return Count(**json.loads(done.stdout)), cpu() - before


def spread(rate: float) -> int:
    """Over how many connections `rate` requests a second go."""
    return math.ceil(rate / PER_CONNECTION)


def constant_rate(case: Case, place: Place, root: Path, cores: list[int], rate: float, seconds: float, log: Path) -> list[Row]:
    """`rate` requests a second whatever becomes of those before, evenly over time; start, status and duration of each."""
    connections = spread(rate)
    child = _h2load(case, place, root, cores, seconds, log, connections, [f"--rps={rate / connections:.3f}"])
    return _end(case, child, log, seconds + 30)
