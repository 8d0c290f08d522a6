import json
import tempfile
import unittest
from pathlib import Path

from lab import report
from lab.scenarios import Outcome

READS = {"requests": 100, "succeeded": 98, "failed": 2, "longest_outage": 0.412}
WRITES = {"requests": 10, "succeeded": 9, "failed": 1, "longest_outage": 7.0}


class Report(unittest.TestCase):
    outcomes = [
        Outcome("primary-dies", 41.0, measured=[{"label": "power off", "reads": READS, "writes": WRITES, "lost": 0}]),
        Outcome("serves", 12.0, error="serves.py:3: failed: no page"),
    ]

    def test_the_table_names_outage_failures_and_losses(self):
        lines = report.table(self.outcomes).splitlines()
        self.assertRegex(lines[2], r"primary-dies +passed +41 s +power off +0.41 s +7.00 s +2 of 100 +9 +0")
        self.assertRegex(lines[3], r"serves +FAILED")

    def test_the_json_carries_the_measurements(self):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder) / "report.json"
            report.write_json(self.outcomes, at)
            said = json.loads(at.read_text())
        self.assertEqual(said["scenarios"][0]["measured"][0]["reads"]["longest_outage"], 0.412)
        self.assertFalse(said["scenarios"][1]["passed"])
