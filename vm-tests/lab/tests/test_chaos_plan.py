"""The schedule comes from the seed alone; the table says what the rounds were; apps are found where scenarios ask for them."""

import itertools
import unittest

from chaos import schedule, table
from chaos.faults import FAULTS
from lab import apps, broken
from lab.scenarios import FOLDER


def first(seed, count, names=None):
    return list(itertools.islice(schedule.plan(seed, names or list(FAULTS)), count))


class Schedule(unittest.TestCase):
    def test_the_same_seed_gives_the_same_faults(self):
        self.assertEqual(first(4, 60), first(4, 60))
        self.assertEqual(first("4", 60), first(4, 60))

    def test_another_seed_gives_others(self):
        self.assertNotEqual(first(4, 60), first(5, 60))

    def test_every_fault_comes_before_one_comes_again(self):
        self.assertEqual({s.fault for s in first(9, len(FAULTS))}, set(FAULTS))

    def test_only_the_named_faults_come(self):
        self.assertEqual({s.fault for s in first(9, 20, ["kill", "cut"])}, {"kill", "cut"})

    def test_a_step_keeps_to_what_its_fault_allows(self):
        for step in first(1, 500):
            fault = FAULTS[step.fault]
            self.assertIn(step.role, fault.roles)
            self.assertTrue(fault.seconds[0] <= step.seconds <= fault.seconds[1], step)
            self.assertEqual(step.options.keys(), fault.options.keys())

    def test_every_fault_says_what_it_is(self):
        self.assertEqual([name for name, fault in FAULTS.items() if not fault.about], [])


def result(fault, passed=True, write=1.0, failed=0, lost=0):
    return {"fault": fault, "passed": passed, "requests": 100, "failed": {"x": failed} if failed else {}, "lost": lost,
            "outage": {"write": write, "read": 0.1}, "whole_after": 5.0}


class Table(unittest.TestCase):
    def test_percentiles_are_values_that_were_seen(self):
        values = [float(v) for v in range(1, 21)]
        self.assertEqual(table.percentile(values, 0.5), 10.0)
        self.assertEqual(table.percentile(values, 0.95), 19.0)
        self.assertEqual(table.percentile([3.0], 0.95), 3.0)
        self.assertIsNone(table.percentile([], 0.5))

    def test_a_row_for_each_fault_in_the_order_of_the_faults(self):
        rows = table.rows([result("cut", write=9.0, failed=2), result("kill", write=6.0), result("kill", passed=False, write=8.0, lost=1)])
        self.assertEqual([r[0] for r in rows], ["kill", "cut"])
        kill = dict(zip(table.HEADINGS, rows[0], strict=True))
        self.assertEqual((kill["runs"], kill["passed"], kill["lost writes"], kill["longest"]), ("2", "1", "1", "8.00 s"))
        self.assertEqual(dict(zip(table.HEADINGS, rows[1], strict=True))["failed requests"], "2")

    def test_a_round_that_broke_off_is_counted_and_has_no_times(self):
        broke = result("kill", passed=False) | {"outage": {}, "whole_after": None, "requests": 0}
        self.assertEqual(table.rows([broke])[0][1:3], ["1", "0"])
        self.assertIn("–", table.rows([broke])[0])

    def test_markdown_has_as_many_cells_in_every_row(self):
        lines = table.markdown([result("kill"), result("cut")]).splitlines()
        self.assertEqual({line.count("|") for line in lines}, {len(table.HEADINGS) + 1})


class Apps(unittest.TestCase):
    def test_the_chaos_scenario_asks_for_the_ledger_and_serves_for_none(self):
        self.assertEqual(apps.wanted(FOLDER / "chaos.py"), "ledger")
        self.assertIsNone(apps.wanted(FOLDER / "serves.py"))

    def test_what_is_broken_on_purpose_names_faults_that_there_are(self):
        for name, how in broken.BROKEN.items():
            self.assertLessEqual(set(how.faults), set(FAULTS), name)
            self.assertTrue(how.expected, name)


if __name__ == "__main__":
    unittest.main()
