"""What the lab needs of the machine it runs on: root, Debian, a few programs, cgroup v2."""

import fcntl
import os
import shutil
from pathlib import Path

from lab.errors import LabError
from lab.process import run
from lab.progress import say, step

# program → Debian package
LAB_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "curl": "curl",
    "openssl": "openssl",
}
# What compiling Trivet's dependencies needs beside cargo (aws-lc: a C compiler; libz-ng-sys: cmake).
BUILD_TOOLS = {"cc": "gcc", "c++": "g++", "cmake": "cmake", "make": "make"}


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {k: v.strip('"\'') for k, _, v in (line.partition("=") for line in lines) if v}


def require_root(euid: int | None = None) -> None:
    if (os.geteuid() if euid is None else euid) != 0:
        raise LabError("must run as root: it makes network namespaces and boots machines (try: sudo ./lab …)")


def require_supported(release: dict[str, str], *, has_apt: bool) -> None:
    name = release.get("PRETTY_NAME") or release.get("ID") or "an unknown system"
    if "debian" not in (release.get("ID", ""), *release.get("ID_LIKE", "").split()) or not has_apt:
        raise LabError(f"unsupported system: {name}; the lab needs Debian with apt (with Nix: nix flake check)")


def require_host() -> None:
    require_root()
    require_supported(os_release(), has_apt=shutil.which("apt-get") is not None)


def install_tools(tools: dict[str, str]) -> None:
    """Install what is missing, by apt, saying so."""
    missing = sorted({package for program, package in tools.items() if shutil.which(program) is None})
    if not missing:
        return
    with step(f"installing {', '.join(missing)} (apt-get)"):
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        if run(install, env=env, check=False).returncode != 0:
            # Most often the package lists are absent or old: fetch them and try once more.
            run(["apt-get", "update"], what="apt-get update", env=env)
            run(install, what=f"apt-get install {' '.join(missing)}", env=env)


def require_cargo() -> None:
    if shutil.which("cargo") is None:
        raise LabError("cargo is not installed: install Rust (apt-get install cargo, or rustup), then run this again")


def find_cgroup2(mounts: str) -> Path | None:
    """Where cgroup v2 is mounted, of the places that systemd-nspawn looks at: the host's whole hierarchy, or a hybrid's part."""
    for line in mounts.splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and where in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            if "ro" in options.split(","):
                raise LabError(f"cgroup v2 at {where} is mounted read-only: the lab needs to make cgroups there")
            return Path(where)
    return None


def find_named_hierarchies(mounts: str) -> list[Path]:
    """Where version 1's hierarchy for systemd is mounted: on a hybrid host systemd-nspawn makes every machine's cgroup there too."""
    rows = [line.split() for line in mounts.splitlines()]
    return [Path(where) for _, where, kind, options, *_ in rows if kind == "cgroup" and "name=systemd" in options.split(",")]


def cgroup_root(*, mount: bool = True) -> Path:
    """Where cgroup v2 is mounted; mounted at its usual place when it is nowhere (and left there: the host can use it)."""
    if found := find_cgroup2(Path("/proc/mounts").read_text()):
        return found
    where = Path("/sys/fs/cgroup")
    if where.is_dir() and any(where.iterdir()):
        where = where / "unified"  # version 1 has the usual place
    if mount:
        say(f"mounting cgroup v2 at {where}")
        try:
            where.mkdir(exist_ok=True)
        except OSError as e:
            raise LabError(f"cgroup v2 is not mounted and {where} cannot be made: {e.strerror}") from None
        run(["mount", "-t", "cgroup2", "cgroup2", where], what=f"mounting cgroup v2 at {where}")
    return where


class Lock:
    """One command at a time per lab; the file lasts as long as the command."""

    def __init__(self, path: Path, busy: str):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        while True:
            self._file = path.open("w")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise LabError(busy) from None
            # The last holder removes the file: a lock on a file that is no longer there guards nothing.
            if path.exists() and os.fstat(self._file.fileno()).st_ino == path.stat().st_ino:
                return
            self._file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()
