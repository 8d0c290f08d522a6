"""Bad input gets one line that says what is wrong."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from lab import cluster, farms, host, rootfs
from lab.errors import LabError
from lab.log import Log
from lab.running import VM_TESTS, Lab

REPOSITORY = Path(__file__).resolve().parents[3]


def lab(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([REPOSITORY / "lab", *argv], capture_output=True, text=True, env=dict(os.environ, **env))


class BadInput(unittest.TestCase):
    def assert_one_line(self, text: str, *words: str) -> None:
        self.assertEqual(len(text.strip().splitlines()), 1, text)
        for word in words:
            self.assertIn(word, text)

    def test_without_root_says_so(self):
        with self.assertRaises(LabError) as caught:
            host.require_root(1000)
        self.assert_one_line(str(caught.exception), "must run as root")

    @unittest.skipIf(os.geteuid() != 0, "needs root to drop it")
    def test_the_command_without_root_says_so_in_one_line(self):
        # As nobody, in a copy that nobody may read.
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            subprocess.run(["cp", "-r", REPOSITORY / "lab", REPOSITORY / "vm-tests", folder], check=True)
            for words in (["up"], ["test"], ["down"], ["status"], ["client", "--", "true"]):
                done = subprocess.run(["python3", "-m", "lab", *words], capture_output=True, text=True, user=65534, group=65534,
                                      env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}/vm-tests"}, cwd=folder)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assert_one_line(done.stderr, "must run as root")

    def test_an_unsupported_system_is_named(self):
        with self.assertRaises(LabError) as caught:
            host.require_supported({"ID": "fedora", "PRETTY_NAME": "Fedora Linux 43"}, has_apt=False)
        self.assert_one_line(str(caught.exception), "unsupported system: Fedora Linux 43", "Debian")

    def test_debian_and_what_is_made_of_it_are_supported(self):
        host.require_supported({"ID": "debian"}, has_apt=True)
        host.require_supported({"ID": "devuan", "ID_LIKE": "debian"}, has_apt=True)

    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_a_taken_name_is_said_in_one_line(self):
        with tempfile.TemporaryDirectory() as state:
            (Path(state) / "taken").mkdir()
            done = lab("up", "--name", "taken", TRIVET_LAB_STATE=state)
            self.assertEqual(done.returncode, 1)
            self.assert_one_line(done.stderr, "'taken'", "./lab down --name taken")

    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_an_unknown_scenario_is_said_before_anything_is_built(self):
        done = lab("test", "no-such-thing")
        self.assertEqual(done.returncode, 1)
        self.assert_one_line(done.stderr, "no-such-thing", "there are:")

    @unittest.skipIf(os.geteuid() != 0, "needs root")
    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_what_a_killed_command_left_is_removed_and_what_a_user_keeps_is_not(self):
        for kept in (False, True):
            with tempfile.TemporaryDirectory() as state, mock.patch.dict(os.environ, TRIVET_LAB_STATE=state):
                left = Lab("left", VM_TESTS / "snapshots", Log(), Path(state))
                left.folder.mkdir()
                left.describe(temporary=True)
                if kept:
                    left.keep()
                    self.assertRaisesRegex(LabError, "./lab down --name left", left.make_room)
                else:
                    left.make_room()
                self.assertEqual(left.folder.exists(), kept)

    def test_an_impossible_name_is_refused(self):
        done = lab("up", "--name", "No Name")
        self.assert_one_line(done.stderr, "letters")

    def test_a_node_outside_the_network_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder) / "cluster.json"
            at.write_text('{"domain": "d", "virtual_addresses": [], "nodes": [{"name": "n", "address": "192.0.2.1"}]}')
            with self.assertRaises(LabError) as caught:
                cluster.load(at)
        self.assert_one_line(str(caught.exception), "192.0.2.1", "outside")

    def test_no_debian_mirror_in_the_sources_is_said(self):
        with self.assertRaises(LabError) as caught:
            rootfs.choose_mirror("http://example.test/tools|main|Tools\n")
        self.assert_one_line(str(caught.exception), "no Debian mirror")

    def test_an_unmapped_package_is_an_error(self):
        with self.assertRaises(LabError) as caught:
            farms.farm(Path("/nowhere"), "haproxy")
        self.assert_one_line(str(caught.exception), "'haproxy'", "does not map")
