"""The client: outside the nodes, in a network namespace, with the host's programs and files.

Its /etc is an overlay of the host's, in a mount namespace of its own: there www.foobar.com has the virtual address and
the cluster's CA is trusted, so that curl, wget, Python and Chromium need no flag. The host's /etc is not touched.
"""

import base64
import json
import os
import shutil
import ssl
import subprocess
import time
from pathlib import Path

from lab.cgroup import Cgroup
from lab.commands import Commands
from lab.errors import LabError
from lab.log import Log
from lab.network import Network
from lab.process import children, clean_environment, run, start_time

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# Programs that bring a bundle of their own are told by environment.
TRUST = dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), BUNDLE)
CHROMIUM_POLICIES = ("etc/chromium/policies/managed", "etc/opt/chrome/policies/managed")

# Process 1 of the client: makes its /etc, tells that it is ready, reaps what is orphaned.
HOLDER = """
set -e
mount -t tmpfs -o mode=0755 trivet-lab "$1"
mkdir "$1/upper" "$1/work"
cp -a "$2/." "$1/upper/"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
touch "$3"
trap : TERM INT HUP
while :; do sleep 3600 & wait $! || :; done
"""


class Client(Commands):
    def __init__(self, lab: str, addresses: list[str], folder: Path, network: Network, cgroup: Cgroup, log_to: Log,
                 out_dir: Path, tools: Path):
        self.lab, self.name, self.addresses = lab, "client", addresses
        self.folder, self.network, self.cgroup = folder, network, cgroup
        self.log_to, self.out_dir = log_to, out_dir
        self.tools = tools  # holds trivet-probe and trivet-ledger
        self.names: dict[str, str] = {}
        self.ca: Path | None = None
        self._spawned: subprocess.Popen[bytes] | None = None

    def know(self, names: dict[str, str], ca: Path | None) -> None:
        """What the client shall resolve and trust; before `start`."""
        self.names, self.ca = names, ca

    # --- power ------------------------------------------------------------------------------------------------

    def _holder(self) -> int | None:
        try:
            known = json.loads((self.folder / "holder.json").read_text())
        except FileNotFoundError:
            return None
        return known["pid"] if start_time(known["pid"]) == known["start"] else None

    def is_up(self) -> bool:
        return self._holder() is not None

    def start(self) -> None:
        if self.is_up():
            return
        self._off()
        self.network.plug(self.name, self.addresses)
        self.cgroup.make()
        for part in ("etc", "etc-overlay", "bin"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self._write_etc(self.folder / "etc")
        for tool, source in (("trivet-probe", "probe.py"), ("trivet-ledger", "ledger_client.py")):
            at = self.folder / "bin" / tool
            at.unlink(missing_ok=True)
            shutil.copy(self.tools / source, at)
            at.chmod(0o755)
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        argv = ["nsenter", f"--net=/run/netns/{self.network.namespace(self.name)}", "unshare", "--mount", "--pid",
                "--fork", "--kill-child", "--mount-proc", "bash", "-c", HOLDER, "trivet-client",
                str(self.folder / "etc-overlay"), str(self.folder / "etc"), str(ready)]
        with (self.folder / "console.log").open("ab") as console:
            self._spawned = subprocess.Popen(self.cgroup.enter_command(argv), stdin=subprocess.DEVNULL, stdout=console,
                                             stderr=console, env=clean_environment(), start_new_session=True)
        deadline = time.monotonic() + 10
        while not ready.exists():
            if self._spawned.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "console.log").read_text(errors="replace").strip().splitlines()[-2:]
                raise LabError(f"the client's namespaces could not be made: {' / '.join(said) or 'no answer'}")
            time.sleep(0.01)
        holder = children(self._spawned.pid)[0]
        (self.folder / "holder.json").write_text(json.dumps({"pid": holder, "start": start_time(holder)}))

    def _write_etc(self, etc: Path) -> None:
        """The files that differ from the host's /etc."""
        hosts = Path("/etc/hosts").read_text() if Path("/etc/hosts").exists() else ""
        hosts += "\n# the lab's site\n" + "".join(f"{address} {name}\n" for name, address in self.names.items())
        (etc / "hosts").write_text(hosts)
        if self.ca is None:
            return
        own = self.ca.read_text()
        bundle = Path(BUNDLE).read_text() if Path(BUNDLE).exists() else ""
        (etc / "ssl/certs").mkdir(parents=True, exist_ok=True)
        (etc / "ssl/certs/ca-certificates.crt").write_text(bundle + own)
        hashed = run(["openssl", "x509", "-noout", "-subject_hash", "-in", self.ca]).stdout.strip()
        (etc / f"ssl/certs/{hashed}.0").write_text(own)
        policy = {"CACertificates": [base64.b64encode(ssl.PEM_cert_to_DER_cert(own)).decode()]}
        for folder in CHROMIUM_POLICIES:
            at = etc.parent / folder
            at.mkdir(parents=True, exist_ok=True)
            (at / "trivet-lab.json").write_text(json.dumps(policy))

    def _off(self) -> None:
        self.cgroup.kill()
        self.cgroup.remove()
        if self._spawned is not None:
            self._spawned.wait()
            self._spawned = None
        (self.folder / "holder.json").unlink(missing_ok=True)
        self.network.forget(self.name)

    def release(self) -> None:
        self._off()

    crash = shutdown = release

    def wait_for_shutdown(self) -> None:
        return

    def block(self) -> None:
        self.network.cut(self.name)

    def unblock(self) -> None:
        self.network.heal(self.name)

    # --- commands ---------------------------------------------------------------------------------------------

    def enter_command(self, argv: list[str], cwd: str = "/") -> list[str]:
        holder = self._holder()
        if holder is None:
            raise LabError("the client is not running")
        return ["nsenter", f"--target={holder}", "--mount", "--net", "--pid", f"--wdns={cwd}", "--", *argv]

    def environment(self, base: dict[str, str] | None = None) -> dict[str, str]:
        env = clean_environment(HOME="/root") if base is None else dict(base)
        if self.ca is not None:
            env |= TRUST
        env["TRIVET_PROBE_DIR"] = str(self.folder / "probe")  # a client of its own for every lab
        env["PATH"] = f"{self.folder / 'bin'}:{env.get('PATH') or os.defpath}"
        return env

    def _execute(self, command: str, timeout: float | None) -> tuple[int, str, str]:
        self.start()
        limit = [] if timeout is None else ["timeout", str(timeout)]
        done = subprocess.run(self.enter_command([*limit, "bash", "-c", f"set -euo pipefail; {command}"]),
                              capture_output=True, text=True, errors="replace", env=self.environment())
        return done.returncode, done.stdout, done.stderr

    def copy_from_host(self, source: str, target: str) -> None:
        run(["cp", "-r", source, target])  # the same file system

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        into = self.out_dir / target_dir
        into.mkdir(parents=True, exist_ok=True)
        run(["cp", "-r", source, into / Path(source).name])
