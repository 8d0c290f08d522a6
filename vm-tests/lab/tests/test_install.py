"""A snapshot ends up in the machine byte for byte."""

import json
import os
import tempfile
import unittest
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from lab import farms, install
from lab.errors import LabError
from lab.tests import debian_root

HASH = "0123456789abcdfghijklmnpqrsvwxyz"
STORE = f"/nix/store/{HASH}"
SCRIPT = f"{STORE}-start-script"
COREUTILS = f"{STORE}-coreutils-9.7"


def manifest(**changes: object) -> dict[str, object]:
    whole = {
        "units": {
            "trivet-web.service": {"enable": True, "wantedBy": ["multi-user.target"], "requiredBy": [], "upheldBy": [],
                                   "aliases": ["web.service"], "overrideStrategy": "asDropinIfExists"},
            "systemd-journald.service": {"enable": True, "wantedBy": [], "requiredBy": [], "upheldBy": [], "aliases": [],
                                         "overrideStrategy": "asDropinIfExists"},
            "off.service": {"enable": False, "wantedBy": [], "requiredBy": [], "upheldBy": [], "aliases": [],
                            "overrideStrategy": "asDropinIfExists"},
        },
        "etc": {"trivet/web.json": {"mode": "symlink", "user": "+0", "group": "+0", "kind": "link", "source": SCRIPT},
                "my.cnf": {"mode": "0440", "user": "mysql", "group": "+0", "kind": "file"}},
        "tmpfiles": ["d /var/lib/trivet 0755 root root - -"],
        "users": {"mysql": {"uid": 84, "group": "mysql", "extraGroups": ["adm"], "home": "/var/empty", "description": "db"},
                  "trivet-web": {"uid": None, "group": "trivet-web", "extraGroups": [], "home": "/", "description": ""}},
        "groups": {"mysql": {"gid": 84, "members": []}, "trivet-web": {"gid": None, "members": []}},
        "sysctl": {"net.ipv4.ip_nonlocal_bind": True, "vm.swappiness": 1},
        "packages": {COREUTILS: {"name": "coreutils-9.7", "output": "out", "programs": ["cat"]}},
        "files": {SCRIPT: {"file": "store/start-script", "exec": True, "link": None}},
    }
    return whole | changes


class Install(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = debian_root.make(Path(folder.name) / "root")
        self.snapshot = Path(folder.name) / "node1"
        for kind in ("units", "etc", "store"):
            (self.snapshot / kind).mkdir(parents=True)
        self.unit = f"[Service]\nExecStart={SCRIPT}\n".encode()
        (self.snapshot / "units/trivet-web.service").write_bytes(self.unit)
        (self.snapshot / "units/systemd-journald.service").write_text("[Service]\nRestart=no\n")
        (self.snapshot / "etc/my.cnf").write_text("[mysqld]\n")
        (self.snapshot / "store/start-script").write_text(f"#!/bin/sh\n{COREUTILS}/bin/cat\n")

    def install(self, **changes: object) -> None:
        (self.snapshot / "manifest.json").write_text(json.dumps(manifest(**changes)))
        with ExitStack() as changed:
            if os.geteuid() != 0:  # owners are not what these tests are about
                for name in ("chown", "lchown"):
                    changed.enter_context(mock.patch.object(os, name))
            install.install(install.Snapshot(self.snapshot), self.root, "node1", {"node1": "10.77.0.11"})

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def test_units_are_laid_as_they_are_and_wanted(self):
        self.install()
        units = self.at("/etc/systemd/system")
        self.assertEqual((units / "trivet-web.service").read_bytes(), self.unit)
        self.assertEqual(os.readlink(units / "multi-user.target.wants/trivet-web.service"), "../trivet-web.service")
        self.assertEqual(os.readlink(units / "web.service"), "trivet-web.service")
        self.assertEqual(os.readlink(units / "off.service"), "/dev/null")

    def test_systemds_own_units_are_amended_not_replaced(self):
        self.install()
        self.assertTrue(self.at("/etc/systemd/system/systemd-journald.service.d/overrides.conf").exists())
        self.assertFalse(self.at("/etc/systemd/system/systemd-journald.service").exists())

    def test_store_texts_keep_path_and_mode(self):
        self.install()
        self.assertEqual(self.at(SCRIPT).stat().st_mode & 0o777, 0o555)
        self.assertEqual(os.readlink(self.at("/etc/trivet/web.json")), SCRIPT)
        self.assertEqual(self.at("/etc/my.cnf").stat().st_mode & 0o777, 0o440)

    def test_packages_are_farms_of_links_to_debians_programs(self):
        self.install()
        self.assertEqual(os.readlink(self.at(f"{COREUTILS}/bin/cat")), "/usr/bin/cat")
        self.assertEqual(os.readlink(self.at(f"{COREUTILS}/sbin")), "bin")

    def test_a_program_that_debian_keeps_in_another_package_is_found_there(self):
        self.install()
        self.assertEqual(os.readlink(self.at(f"{COREUTILS}/bin/kill")), "/usr/bin/kill")

    def test_a_program_that_debian_lacks_is_an_error(self):
        with self.assertRaisesRegex(LabError, "no program truncate"):
            self.install(packages={COREUTILS: {"name": "coreutils-9.7", "output": "out", "programs": ["truncate"]}})

    def test_a_store_path_that_nobody_provides_is_an_error(self):
        with self.assertRaisesRegex(LabError, "does not hold"):
            self.install(packages={})

    def test_users_get_the_numbers_of_nixos(self):
        self.install()
        passwd = self.at("/etc/passwd").read_text()
        self.assertIn("mysql:x:84:84:db:/var/empty:", passwd)
        self.assertNotIn(":101:", passwd)
        self.assertIn("adm:x:4:mysql", self.at("/etc/group").read_text())

    def test_only_settings_of_the_machines_own_network_are_set(self):
        self.install()
        self.assertEqual(self.at("/etc/sysctl.d/60-nixos.conf").read_text(), "net.ipv4.ip_nonlocal_bind=1\n")
        self.assertEqual(install.host_sysctls(install.Snapshot(self.snapshot)), ["vm.swappiness"])


class Names(unittest.TestCase):
    def test_a_package_name_ends_where_the_version_begins(self):
        for base, name in {"mysql-8.4.6": "mysql", "util-linux-2.41-bin": "util-linux", "hostname-debian-3.25": "hostname-debian",
                           "bash-interactive-5.3p3": "bash-interactive", "trivet-0.1.0": "trivet"}.items():
            self.assertEqual(farms.package_name(f"/nix/store/{HASH}-{base}"), name)
