#!/usr/bin/env python3
"""A throw-away MySQL pair for the tests: a primary and a replica on loopback, real servers with TLS and GTIDs.

    tests/mysql.py run COMMAND...   start both, run COMMAND with the addresses in its environment, stop both
    tests/mysql.py start DIR        start both below DIR, print the environment as `export` lines
    tests/mysql.py stop DIR         stop them and remove DIR

COMMAND sees TRIVET_TEST_MYSQL_URL, TRIVET_TEST_MYSQL_REPLICA_URL and TRIVET_TEST_MYSQL_CA.

mysqld comes from the lab's root file system (TRIVET_LAB_CACHE, /var/cache/trivet-lab; TRIVET_TEST_MYSQL_ROOT names
another root) and runs from there through that root's own dynamic loader, so nothing is installed, mounted or
changed; without such a root a mysqld on PATH serves.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ACCOUNT = "trivet_test"
START_SECONDS = 60
STOP_SECONDS = 20


class Trouble(Exception):
    """Something the person who runs the tests can mend; its text says how."""


class Program:
    """How to run mysqld: from a root file system of its own, or the host's."""

    def __init__(self) -> None:
        root = self._root()
        self.root = root
        if root is not None:
            libraries = root / "usr/lib/x86_64-linux-gnu"
            self.command = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries),
                            str(root / "usr/sbin/mysqld")]
            self.options = [f"--basedir={root}/usr", f"--lc-messages-dir={root}/usr/share/mysql",
                            f"--character-sets-dir={root}/usr/share/mysql/charsets",
                            f"--plugin-dir={root}/usr/lib/mysql/plugin"]
            return
        mysqld = shutil.which("mysqld")
        if mysqld is None:
            raise Trouble("no mysqld: build the lab's root file system (./lab install) or put a mysqld 8.4+ on PATH")
        self.command, self.options = [mysqld], []

    @staticmethod
    def _root() -> Path | None:
        named = os.environ.get("TRIVET_TEST_MYSQL_ROOT")
        if named:
            root = Path(named)
            if not (root / "usr/sbin/mysqld").exists():
                raise Trouble(f"TRIVET_TEST_MYSQL_ROOT: {root} has no usr/sbin/mysqld")
            return root
        cache = Path(os.environ.get("TRIVET_LAB_CACHE", "/var/cache/trivet-lab"))
        whole = [p for p in cache.glob("rootfs-*") if p.suffix == "" and (p / "usr/sbin/mysqld").exists()]
        return max(whole, key=lambda p: p.stat().st_mtime, default=None)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def make_certificates(directory: Path) -> None:
    """A CA, and one certificate for 127.0.0.1: the clients verify identity, as they do in the cluster."""
    def openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Trouble(f"openssl {arguments[0]} failed: {done.stderr.strip()}")

    directory.mkdir()
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2")
    (directory / "extensions").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "server.pem", "-days", "2", "-extfile", "extensions")


class Server:
    """One mysqld below `directory/name`."""

    def __init__(self, program: Program, directory: Path, name: str, number: int, password: str) -> None:
        self.program, self.home, self.number, self.password = program, directory / name, number, password
        self.tls = directory / "tls"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mysql://{ACCOUNT}:{self.password}@127.0.0.1:{self.port}/mysql"

    def _base(self) -> list[str]:
        base = [*self.program.command, "--no-defaults", *self.program.options, f"--datadir={self.home / 'data'}"]
        return [*base, "--user=root"] if os.geteuid() == 0 else base

    def initialize(self, copy_of: "Server | None" = None) -> None:
        """An empty data directory; copying one is several seconds faster than making one."""
        self.home.mkdir()
        if copy_of is not None:
            shutil.copytree(copy_of.home / "data", self.home / "data")
            # The server's UUID; two servers that share it do not replicate.
            (self.home / "data/auto.cnf").unlink(missing_ok=True)
            return
        with (self.home / "log").open("wb") as log:
            made = subprocess.run([*self._base(), "--initialize-insecure", "--secure-file-priv=NULL"],
                                  stdout=log, stderr=log, check=False)
        if made.returncode != 0:
            raise Trouble(f"mysqld --initialize-insecure failed:\n{(self.home / 'log').read_text(errors='replace')}")

    def start(self, source: "Server | None" = None) -> None:
        base = self._base()
        with (self.home / "log").open("ab") as log:
            init = self.home / "init.sql"
            init.write_text("\n".join(self._first_statements(source)) + "\n")
            command = [
                *base, f"--init-file={init}", "--bind-address=127.0.0.1", f"--port={self.port}",
                f"--socket={self.home / 's'}", f"--pid-file={self.home / 'pid'}", "--mysqlx=OFF",
                "--secure-file-priv=NULL",
                f"--server-id={self.number}", "--gtid-mode=ON", "--enforce-gtid-consistency=ON",
                f"--ssl-ca={self.tls / 'ca.pem'}", f"--ssl-cert={self.tls / 'server.pem'}",
                f"--ssl-key={self.tls / 'server.key'}", "--require-secure-transport=ON", "--skip-name-resolve",
                "--innodb-buffer-pool-size=64M", "--performance-schema=OFF", "--max-connections=200",
                # Durability is not what these tests are about, and disks of test machines are slow.
                "--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0", "--innodb-doublewrite=OFF",
            ]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _first_statements(self, source: "Server | None") -> Iterator[str]:
        yield "SET SQL_LOG_BIN=0;"
        yield f"CREATE USER {ACCOUNT}@'%' IDENTIFIED BY '{self.password}' REQUIRE SSL;"
        yield f"GRANT ALL ON *.* TO {ACCOUNT}@'%' WITH GRANT OPTION;"
        if source is not None:
            yield ("CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', "
                   f"SOURCE_PORT={source.port}, SOURCE_USER='{ACCOUNT}', SOURCE_PASSWORD='{source.password}', "
                   f"SOURCE_SSL=1, SOURCE_SSL_CA='{self.tls / 'ca.pem'}', SOURCE_AUTO_POSITION=1, "
                   "SOURCE_CONNECT_RETRY=1;")
            yield "START REPLICA;"
            yield "SET GLOBAL super_read_only=ON;"

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                break
            # The port opens only after the init file is through.
            with socket.socket() as s:
                s.settimeout(1)
                if s.connect_ex(("127.0.0.1", self.port)) == 0 and s.recv(5):
                    return
            time.sleep(0.1)
        tail = (self.home / "log").read_text(errors="replace").splitlines()[-15:]
        raise Trouble("mysqld did not come up; the end of its log:\n" + "\n".join(tail))


class Pair:
    """A primary and its replica."""

    def __init__(self, directory: Path) -> None:
        program = Program()
        directory.mkdir(parents=True, exist_ok=True)
        make_certificates(directory / "tls")
        password = secrets.token_hex(12)
        self.directory = directory
        self.primary = Server(program, directory, "primary", 1, password)
        self.replica = Server(program, directory, "replica", 2, password)

    def start(self) -> None:
        self.primary.initialize()
        self.replica.initialize(copy_of=self.primary)
        self.primary.start()
        self.replica.start(source=self.primary)
        self.primary.wait()
        self.replica.wait()

    def stop(self) -> None:
        for server in (self.primary, self.replica):
            # Killed before it wrote its pid file, it has nothing to lose either.
            if server.process and server.process.poll() is None and not (server.home / "pid").exists():
                server.process.kill()
        stop(self.directory)

    def environment(self) -> dict[str, str]:
        return {"TRIVET_TEST_MYSQL_URL": self.primary.url, "TRIVET_TEST_MYSQL_REPLICA_URL": self.replica.url,
                "TRIVET_TEST_MYSQL_CA": str(self.directory / "tls/ca.pem")}


def stop(directory: Path) -> None:
    """Ends the two servers whose pid files stand below `directory`, and removes it."""
    pids = []
    for name in ("replica", "primary"):
        try:
            pids.append(int((directory / name / "pid").read_text()))
        except (OSError, ValueError):
            continue
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in pids:
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def run(command: list[str]) -> int:
    directory = Path(tempfile.mkdtemp(prefix="trivet-mysql-"))
    # SIGTERM must stop the servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pair = None
    try:
        pair = Pair(directory)
        pair.start()
        return subprocess.run(command, env={**os.environ, **pair.environment()}, check=False).returncode
    finally:
        if pair is not None:
            pair.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run", *command] if command:
            return run(command)
        case ["start", directory]:
            pair = Pair(Path(directory).resolve())
            try:
                pair.start()
            except BaseException:
                pair.stop()
                raise
            for name, value in pair.environment().items():
                print(f"export {name}={value}")
            return 0
        case ["stop", directory]:
            stop(Path(directory).resolve())
            return 0
    print(__doc__.strip(), file=sys.stderr)
    return 64


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Trouble as trouble:
        print(f"tests/mysql.py: {trouble}", file=sys.stderr)
        sys.exit(1)
