"""A sealed place to run servers against one another: own network, own process ids, own mounts; all gone with its first process."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab import build, host, rootfs
from lab.errors import LabError
from lab.process import run
from lab.running import REPOSITORY

_INSIDE = "TRIVET_LAB_ARENA"
# 10,000 idle connections, and what is kept to back ends.
DESCRIPTORS = 16384


def inside() -> bool:
    return os.environ.get(_INSIDE) == "1"


def prepare(balancer: Path | None, profile: str) -> Path:
    """What is needed from outside: tools, the Debian root, and the balancer to be tried, which is built when none is given."""
    host.require_host()
    host.install_tools(host.LAB_TOOLS)
    rootfs.ensure()
    return (balancer or build.build_one(REPOSITORY, profile, "trivet-balancer")).resolve()


def enter(arguments: Sequence[str], seconds: int) -> int:
    """Run this program again with `arguments` in fresh namespaces, at most `seconds`.

    The kernel ends every process of a process-id namespace with its first one, and a network namespace with its last process:
    nothing can be left behind, however this ends.
    """
    argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--",
            sys.executable, "-m", "lab", *arguments]
    child = subprocess.Popen(argv, env=dict(os.environ, **{_INSIDE: "1"}))
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise LabError(f"gave up after {seconds} s") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def settle() -> None:
    """The first process's duties: loopback, many ports and descriptors, and a death that takes the rest along."""
    run(["ip", "link", "set", "lo", "up"])
    for key, value in {"net/ipv4/ip_local_port_range": "10000 65000", "net/core/somaxconn": "16384",
                       "net/ipv4/tcp_max_syn_backlog": "16384"}.items():
        Path(f"/proc/sys/{key}").write_text(value)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise LabError(f"{DESCRIPTORS} file descriptors are needed; this user may have {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536, hard))


def debian(root: Path, program: str) -> list[str]:
    """How to start a program of the lab's Debian root from outside: by its own loader, with its own libraries.

    No chroot: it sees this machine's files, so that configuration and logs need no mounts.
    """
    path = next((root / folder / program for folder in ("usr/sbin", "usr/bin") if (root / folder / program).exists()), None)
    if path is None:
        raise LabError(f"there is no {program} in {root}")
    loaders = sorted(root.glob("usr/lib*/ld-linux-*.so.*")) or sorted(root.glob("usr/lib/*/ld-linux-*.so.*"))
    if not loaders:
        raise LabError(f"there is no loader in {root}")
    libraries = sorted(str(p) for p in (root / "usr/lib").glob("*-linux-gnu"))
    return [str(loaders[0]), "--library-path", ":".join(libraries), str(path)]


class Processes:
    """What was started, each with its log; stopped in order, by process id."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, name: str, argv: Sequence[str | Path], cores: Sequence[int] | None = None,
              env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *argv] if cores else list(argv)
        # Appending, so that a log can be emptied while it is written.
        with self.log(name).open("ab") as log:
            child = subprocess.Popen([str(a) for a in pinned], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env=None if env is None else dict(os.environ, **env))
        self.running[name] = child
        return child

    def wait_for_port(self, name: str, port: int, seconds: float = 20) -> None:
        """Until it listens; a server that ended instead is an error that quotes its log."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.running[name].poll() is not None:
                raise LabError(f"{name} ended at start: {self.last_words(name)}")
            if _listens(port):
                return
            time.sleep(0.02)
        raise LabError(f"{name} does not listen on port {port} after {seconds} s: {self.last_words(name)}")

    def last_words(self, name: str, lines: int = 4) -> str:
        return " / ".join(self.log(name).read_text(errors="replace").strip().splitlines()[-lines:]) or "(it said nothing)"

    def stop(self, name: str) -> None:
        child = self.running.pop(name)
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=3)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def stop_all(self) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)


def _listens(port: int) -> bool:
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[1].endswith(wanted):
                return True
    return False


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
