import os
import tempfile
import threading
import unittest
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

from lab import bring_up, mounts, report, scenarios
from lab.errors import LabError
from lab.network import Network
from lab.process import run


@unittest.skipUnless(os.geteuid() == 0, "mounts need root")
class Unmounting(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.at = Path(folder.name)
        run(["mount", "-t", "tmpfs", "none", self.at])
        self.addCleanup(lambda: run(["umount", "--lazy", self.at], check=False))

    def test_a_mount_that_is_in_use_for_a_while_goes_when_it_is_free(self):
        file = (self.at / "open").open("w")
        threading.Timer(0.3, file.close).start()
        said = StringIO()
        with redirect_stderr(said):
            mounts.unmount(self.at)
        self.assertFalse(os.path.ismount(self.at))
        self.assertEqual(said.getvalue(), "")

    def test_a_mount_that_stays_in_use_goes_all_the_same_and_it_is_said(self):
        said = StringIO()
        with (self.at / "open").open("w"), redirect_stderr(said):
            mounts.unmount(self.at, patience=0)
            self.assertEqual(mounts.below(self.at), [])
        self.assertIn(f"{self.at} is still in use", said.getvalue())

    def test_mounts_on_top_of_one_another_all_go(self):
        run(["mount", "-t", "tmpfs", "none", self.at])
        mounts.unmount(self.at)
        self.assertEqual(mounts.below(self.at), [])


class FakeLab:
    """A lab whose machines cannot be taken away."""

    def __init__(self, name, _snapshots, log_to, out_dir):
        self.name, self.log_to, self.out_dir = name, log_to, out_dir
        self.folder = out_dir
        self.nodes = {}

    def remove(self):
        raise LabError("unmounting the disk of node2: target is busy")


class Scenarios(unittest.TestCase):
    def test_what_one_scenario_leaves_behind_costs_the_others_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            for name in ("first", "second"):
                (at / f"{name}.py").write_text("pass\n")
            (at / "prelude.py").write_text("")
            said = StringIO()
            with (
                mock.patch.multiple(scenarios, FOLDER=at, PRELUDE=at / "prelude.py", Lab=FakeLab),
                mock.patch.object(scenarios.Driver, "symbols", lambda _: {}),
                mock.patch.object(bring_up, "prepare"),
                mock.patch.object(bring_up, "create"),
                mock.patch.object(bring_up, "save_logs"),
                redirect_stdout(said),
            ):
                outcomes = scenarios.run(["first", "second"], "x", at, at / "results", "lab", keep=False)
                report.show(outcomes, at / "report.json")
        self.assertEqual([o.error for o in outcomes], [None, None])
        self.assertIn("second: note: unmounting the disk of node2: target is busy", said.getvalue())
        self.assertEqual(said.getvalue().splitlines()[-1], "2 passed, 0 failed")


class Names(unittest.TestCase):
    def test_a_lab_does_not_take_another_whose_name_begins_alike_for_its_own(self):
        self.assertFalse(Network("trivet-test").namespace("node1").startswith(Network("trivet").namespace("")))
