"""The Debian root file system that every node is an overlay of: built once by mmdebstrap, then kept."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from lab.errors import LabError
from lab.host import Lock, install_tools
from lab.process import run
from lab.progress import say, step, warn

SUITE = "sid"  # the only suite with mysql-server

# The programs that NixOS' configuration names (lab/farms.py maps them), what a scenario uses in a node, and what Trivet is
# measured and compared with (`./lab bench`, `./lab differential`, the TLS scan); testssl.sh needs hexdump and a resolver.
# Python and PyMySQL carry the ledger (apps/ledger.py), libfaketime a node's own clock (`./lab chaos`), OpenSSH backups. The last line are
# applications' servers, each with its own way with a body that nobody reads (`./lab unread-bodies`).
PACKAGES = [
    "systemd", "systemd-sysv", "dbus", "libnss-systemd", "util-linux", "kmod", "procps", "hostname", "tzdata",
    "keepalived", "mysql-server", "nftables", "iproute2", "openssl", "ca-certificates",
    "prometheus", "prometheus-alertmanager", "prometheus-node-exporter", "prometheus-mysqld-exporter",
    "curl", "jq", "gawk", "netbase", "iputils-ping", "iputils-arping", "netcat-openbsd",
    "haproxy", "nginx-light", "nghttp2-client", "wrk", "testssl.sh", "bsdextrautils", "bind9-host",
    "python3", "python3-pymysql", "libfaketime",
    "openssh-client", "openssh-server",
    "gunicorn", "python3-waitress", "nodejs", "ruby", "ruby-webrick", "libhttp-daemon-perl",
]
# Manuals and translations are of no use in a machine that lives for minutes.
EXCLUDED = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*"]
# Raise when `customise` changes: the cached root is then built anew.
CUSTOMISED = 4
ATTEMPTS = 3


def cache_dir() -> Path:
    return Path(os.environ.get("TRIVET_LAB_CACHE", "/var/cache/trivet-lab"))


def digest() -> str:
    recipe = json.dumps([SUITE, sorted(PACKAGES), EXCLUDED, CUSTOMISED])
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    if given := os.environ.get("TRIVET_LAB_MIRROR"):
        return given
    form = "$(REPO_URI)|$(COMPONENT)|$(LABEL)"
    listed = run(["apt-get", "indextargets", "--format", form, "Identifier: Packages"], what="reading apt's sources")
    return choose_mirror(listed.stdout)


def choose_mirror(index_targets: str) -> str:
    """The first source of Debian itself (not of its security archive, nor of someone else's packages).

    The label is known after `apt-get update` only; before it, the path says enough.
    """
    rows = [line.split("|") for line in index_targets.splitlines() if line.count("|") == 2]
    for uri, component, label in rows:
        plain = uri.rstrip("/")
        if component == "main" and (label == "Debian" or (not label and plain.endswith("/debian"))):
            return plain
    raise LabError("apt's sources name no Debian mirror: set TRIVET_LAB_MIRROR to the address of one")


def _apt_options() -> list[str]:
    """How the host's apt reaches its mirror (proxies, certificates), for the apt inside mmdebstrap."""
    dump = run(["apt-config", "dump"], check=False).stdout.splitlines()
    reach = [line.rstrip(";") for line in dump if line.startswith(("Acquire::http", "Acquire::https"))]
    # sid's release file may be past its Valid-Until on a mirror that lags; signatures stay checked.
    return ['APT::Install-Recommends "false"', 'Acquire::Check-Valid-Until "false"', 'Acquire::Retries "3"', *reach]


def _build(into: Path, source: str) -> None:
    argv = ["mmdebstrap", "--variant=minbase", "--format=directory", f"--include={','.join(PACKAGES)}"]
    argv += [f"--aptopt={option}" for option in _apt_options()]
    argv += [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED] + ["--dpkgopt=force-unsafe-io"]
    argv += [SUITE, str(into), source]
    said: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace") as child:
        assert child.stderr is not None
        try:
            for line in child.stderr:
                said.append(line.rstrip())
                if line.startswith("I: ") and line.rstrip().endswith("..."):
                    say(f"  {line[3:].rstrip()}")
        except BaseException:
            child.terminate()
            raise
    if child.returncode != 0:
        wrong = [line for line in said if line.startswith("E:")] or said[-3:]
        raise LabError(f"building the Debian root file system failed: {' / '.join(wrong)}")


def customise(root: Path) -> None:
    """Take away what Debian's packages set up by themselves; the snapshots bring what shall run."""
    for path in ("var/lib/mysql", "etc/mysql", "etc/prometheus", "etc/haproxy", "etc/nginx/sites-enabled"):
        shutil.rmtree(root / path, ignore_errors=True)  # the data directory would give all nodes one server UUID
    for own in (root / "etc/machine-id", root / "var/lib/dbus/machine-id", root / "etc/hostname"):
        own.unlink(missing_ok=True)
    units = root / "etc/systemd/system"
    for wants in [*units.glob("*.wants"), *units.glob("*.requires")]:
        shutil.rmtree(wants)
    # Nothing of these is wanted in a machine without a console and without a disk of its own; HAProxy and nginx run only
    # where a command starts them.
    for unit in ("console-getty.service", "getty.target", "systemd-networkd.service", "systemd-resolved.service",
                 "systemd-timesyncd.service", "systemd-pstore.service", "e2scrub_reap.service", "systemd-firstboot.service",
                 "haproxy.service", "nginx.service"):
        link = units / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    default = units / "default.target"
    default.unlink(missing_ok=True)
    default.symlink_to("/usr/lib/systemd/system/multi-user.target")
    (root / "nix/store").mkdir(parents=True, exist_ok=True)


def _prune(cache: Path, keep: Path) -> None:
    """Remove roots of earlier recipes, except one that a running lab still stands on."""
    mounts = Path("/proc/mounts").read_text()
    for old in cache.glob("rootfs-*"):
        if old != keep and f"{old}" not in mounts:
            shutil.rmtree(old, ignore_errors=True)


def ensure() -> Path:
    """The path of a complete root file system; built when there is none."""
    cache = cache_dir()
    done = cache / f"rootfs-{digest()}"
    if done.is_dir():
        return done
    install_tools({"mmdebstrap": "mmdebstrap"})
    with Lock(cache / "lock", f"another command is building the root file system in {cache}: wait for it"):
        source = mirror()
        # Never at the final name: an interrupted build must not look like a finished one.
        building = cache / f"rootfs-{digest()}.building"
        with step("building the Debian root file system (once; about 2 minutes)"):
            for attempt in range(1, ATTEMPTS + 1):
                shutil.rmtree(building, ignore_errors=True)
                try:
                    _build(building, source)
                    break
                except LabError as e:
                    if attempt == ATTEMPTS:
                        raise LabError(f"{e} (tried {ATTEMPTS} times; is the mirror of /etc/apt reachable?)") from None
                    warn(f"{e}; trying again ({attempt + 1} of {ATTEMPTS})")
                    time.sleep(5 * attempt)
            customise(building)
            building.rename(done)
        _prune(cache, done)
    return done
