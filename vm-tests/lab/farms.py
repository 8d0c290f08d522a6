"""Package paths of the Nix store, as farms of links to the programs of the matching Debian packages.

The table is explicit on purpose: a package that is not in it, or a program that Debian's package lacks, is an error. What
the snapshots name must be what runs, never something near it.
"""

import os
import re
from pathlib import Path

from lab.errors import LabError

# Name of the Nix package (without version) → Debian packages that hold its programs.
DEBIAN = {
    "bash": ["bash"],
    "bash-interactive": ["bash"],
    "cacert": ["ca-certificates"],
    "coreutils": ["coreutils"],
    "coreutils-full": ["coreutils"],
    "curl": ["curl"],
    "dbus": ["dbus", "dbus-bin", "dbus-daemon"],
    "diffutils": ["diffutils"],
    "findutils": ["findutils"],
    "gawk": ["gawk"],
    "getent": ["libc-bin"],
    "glibc": ["libc-bin"],
    "glibc-locales": [],
    "gnugrep": ["grep"],
    "gnused": ["sed"],
    "hostname": ["hostname"],
    "hostname-debian": ["hostname"],
    "iproute2": ["iproute2"],
    "iputils": ["iputils-ping", "iputils-arping"],
    "jq": ["jq"],
    "keepalived": ["keepalived"],
    "kmod": ["kmod"],
    "mysql": ["mysql-server", "mysql-server-core", "mysql-client", "mysql-client-core"],
    "mysqld_exporter": ["prometheus-mysqld-exporter"],
    "nftables": ["nftables"],
    "node_exporter": ["prometheus-node-exporter"],
    "openssl": ["openssl"],
    "procps": ["procps"],
    "prometheus": ["prometheus"],
    "alertmanager": ["prometheus-alertmanager"],
    "systemd": ["systemd", "systemd-sysv"],
    "tzdata": ["tzdata"],
    "util-linux": ["util-linux", "bsdutils", "mount", "login"],
}
# Programs that Debian ships under another name: (Nix package, name there) → Debian's name.
RENAMED = {
    ("mysqld_exporter", "mysqld_exporter"): "prometheus-mysqld-exporter",
    ("node_exporter", "node_exporter"): "prometheus-node-exporter",
    ("alertmanager", "alertmanager"): "prometheus-alertmanager",
    ("bash", "sh"): "bash",
    ("bash-interactive", "sh"): "bash",
}
# Programs that Debian keeps in another package than their own sources do.
ELSEWHERE = {
    ("coreutils", "kill"): "procps",
}
# Named by a script that first looks whether it is there (MariaDB's), and `..` of a path; no programs that run.
NOT_PROGRAMS = {("mysql", "galera_recovery"), ("mysql", "..")}
OURS = "trivet"
# Where the cargo build lies in a machine (a layer below the node's disk).
OUR_PROGRAMS = "/usr/local/lib/trivet/bin"


def package_name(store_path: str) -> str:
    """`/nix/store/<hash>-mysql-8.4.6` → `mysql`; as Nix itself splits: the version begins at the first dash before a digit."""
    base = store_path.removeprefix("/nix/store/").split("/")[0][33:]
    return re.split(r"-(?=\d)", base, maxsplit=1)[0]


def programs_of(root: Path, debian_package: str) -> dict[str, str] | None:
    """Programs of an installed Debian package, by name; None when the package is not installed."""
    info = root / "var/lib/dpkg/info"
    lists = [*info.glob(f"{debian_package}.list"), *info.glob(f"{debian_package}:*.list")]
    if not lists:
        return None
    found: dict[str, str] = {}
    for line in lists[0].read_text().splitlines():
        if match := re.fullmatch(r"(?:/usr)?/s?bin/([^/]+)", line):
            at = f"/usr/bin/{match[1]}" if "/bin/" in line else f"/usr/sbin/{match[1]}"
            if os.path.lexists(root / at.lstrip("/")):
                found[match[1]] = at
    return found


def farm(root: Path, name: str) -> dict[str, str]:
    """Link name → target, for the `bin` of a Nix package of this name."""
    if name == OURS:
        return {p.name: f"{OUR_PROGRAMS}/{p.name}" for p in (root / OUR_PROGRAMS.lstrip("/")).iterdir()}
    if name not in DEBIAN:
        raise LabError(f"the snapshots name the package {name!r}, which lab/farms.py does not map to Debian's")
    links: dict[str, str] = {}
    for debian_package in DEBIAN[name]:
        programs = programs_of(root, debian_package)
        if programs is None:
            raise LabError(f"package {name!r}: Debian's {debian_package!r} is not in the root file system")
        links |= programs
    for (package, program), debians in RENAMED.items():
        if package == name and debians in links:
            links[program] = links[debians]
    for (package, program), debian_package in ELSEWHERE.items():
        if package == name:
            links[program] = (programs_of(root, debian_package) or {})[program]
    return links


def lay(root: Path, store_path: str, wanted: list[str]) -> None:
    """Make the farm of one package path, and see that it holds every program that the snapshots use."""
    name = package_name(store_path)
    links = farm(root, name)
    missing = sorted(p for p in wanted if p not in links and (name, p) not in NOT_PROGRAMS)
    if missing:
        raise LabError(f"{store_path}: no program {', '.join(missing)} in Debian's packages for {name!r}")
    at = root / store_path.lstrip("/")
    (at / "bin").mkdir(parents=True)
    (at / "sbin").symlink_to("bin")
    for program, target in links.items():
        (at / "bin" / program).symlink_to(target)
    for data in ("share", "lib", "libexec"):
        (at / data).symlink_to(f"/usr/{data}")
