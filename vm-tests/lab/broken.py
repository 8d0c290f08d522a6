"""Clusters that break a promise on purpose, to see that the checker objects."""

import os
from dataclasses import dataclass, field

from lab import apps
from lab.machine import Node


@dataclass(frozen=True)
class Broken:
    about: str
    faults: tuple[str, ...]
    expected: tuple[str, ...]  # kinds of anomaly, of which one must be found
    environment: dict[str, str] = field(default_factory=dict)  # of the app
    my_cnf: tuple[str, ...] = ()
    gateway: str | None = None  # a program in the gateway's place

    def lay(self, node: Node) -> None:
        if self.my_cnf:
            at = node.root / "etc/my.cnf"
            names = {line.split("=")[0] for line in self.my_cnf}
            text = node.root / os.readlink(at).lstrip("/") if at.is_symlink() else at
            kept = [line for line in text.read_text().splitlines() if line.split("=")[0] not in names]
            at.unlink()
            at.write_text("\n".join([*kept, *self.my_cnf]) + "\n")
        if self.gateway is not None:
            program = apps.copy(node, self.gateway)
            apps.drop_in(node, "trivet-gateway", "broken", f"[Service]\nType=exec\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/python3 {program}\n")


BROKEN = {
    "durability": Broken(
        "commits are acknowledged long before they are on a disk (sync_binlog=0, innodb_flush_log_at_trx_commit=0), and all nodes lose power",
        ("power-off-all",), ("lost-write",),
        # Without the last, InnoDB flushes once a second whatever the others say, and only that second would be lost.
        my_cnf=("sync_binlog=0", "innodb_flush_log_at_trx_commit=0", "innodb_flush_log_at_timeout=2700")),
    "gtid-wait": Broken(
        "the app reads from replicas without waiting for what the user has seen, and a replica lags",
        ("lag",), ("stale-read",), environment={"LEDGER_GTID_WAIT": "off"}),
    "roles": Broken(
        "the gateway takes any member for the primary, where users read, and a replica lags",
        ("lag",), ("stale-read", "stale-write", "lost-write", "members-differ"), environment={"LEDGER_READS": "primary"}, gateway="blind_gateway"),
}
