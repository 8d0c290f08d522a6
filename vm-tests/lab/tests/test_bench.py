"""The benchmark's reading of numbers."""

import json
import math
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from lab import servers
from lab.bench import backend, cases, load, plan, proc, report, scale, stats
from lab.errors import LabError


class Parsing(unittest.TestCase):
    def test_cpu_time_is_utime_and_stime_whatever_the_program_is_called(self) -> None:
        stat = "42 (a) b) c) S 1 1 1 0 -1 4194560 10 20 30 40 700 50 9 9 20 0 1 0 12345 0 0"
        self.assertEqual(proc.cpu_ticks(stat), (700, 50))
        self.assertEqual(proc.Cpu(7, 2) - proc.Cpu(4, 1), proc.Cpu(3, 1))

    def test_memory_is_read_in_kib(self) -> None:
        rollup = "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:    2048 kB\nPss:    1024 kB\nPss_Anon:  5 kB\n"
        self.assertEqual(proc.memory_kib(rollup), {"Rss": 2048, "Pss": 1024})

    def test_h2loads_log_gives_what_ended_within_a_time(self) -> None:
        text = "1000000\t200\t500000\n1100000\t503\t100000\n2000000\t200\t400000\n2100000\t200\t900000\n1200000\t-1\t1\n"
        rows = load.parse_log(text)
        counted = load.count(rows, 1.0, 2.5)
        # The last but one ended later; a 503 and one without an answer are bad.
        self.assertEqual((counted.good, counted.bad), (2, 2))
        self.assertAlmostEqual(counted.rate, 2 / 1.5)


class Statistics(unittest.TestCase):
    def test_percentiles_are_nearest_rank(self) -> None:
        values = [float(n) for n in range(1, 101)]
        self.assertEqual([stats.percentile(values, p) for p in (50, 99, 100)], [50, 99, 100])
        self.assertEqual(stats.percentile([7.0], 99), 7)
        self.assertTrue(math.isnan(stats.percentile([], 50)))

    def test_ratios_are_taken_round_by_round(self) -> None:
        # A machine that slows down in the middle disturbs the medians, not the ratios.
        summary = stats.summary({"haproxy": [100, 50, 10], "trivet": [200, 100, 20]}, "haproxy")
        self.assertEqual(summary["trivet"], {"median": 100, "ratio": 2, "lowest": 2, "highest": 2})

    def test_latency_leaves_out_the_beginning_and_what_failed(self) -> None:
        rows = [(0, 200, 9_000_000), (1_000_000, 200, 2000), (1_500_000, 503, 1), (2_000_000, 200, 1000)]
        self.assertEqual(stats.steady(rows, 1_000_000), [1.0, 2.0])
        self.assertEqual(stats.steady([], 1), [])


class Planning(unittest.TestCase):
    def test_at_a_constant_rate_no_connection_sends_two_requests_at_once(self) -> None:
        for rate in (1.0, 89.0, 9001.0, 40_000.0):
            with self.subTest(rate):
                # h2load's ticks are 10 ms apart at the least.
                self.assertLess(rate / load.spread(rate) * 0.01, 1)

    def test_the_server_shares_its_core_with_nobody(self) -> None:
        for available in ({0, 1}, {2, 5, 7}, set(range(8))):
            with self.subTest(available):
                c = plan.cores(available)
                self.assertEqual(len(c.server), 1)
                self.assertFalse(set(c.server) & (set(c.load) | set(c.backend)))
        with self.assertRaisesRegex(LabError, "two cores"):
            plan.cores({0})

    def test_cases_are_chosen_by_name_and_pattern_and_a_wrong_name_says_so(self) -> None:
        chosen, memory = cases.choose(["h1-tls-1*", "memory"])
        self.assertTrue(memory)
        self.assertEqual({c.name for c in chosen} >= {"h1-tls-1k", "h1-tls-10m", "h1-tls-100k"}, True)
        self.assertEqual(cases.choose([]), (cases.CASES, True))
        with self.assertRaisesRegex(LabError, "no case is called h3"):
            cases.choose(["h3"])


class Report(unittest.TestCase):
    def test_losses_are_shown(self) -> None:
        self.assertEqual([report.verdict(1.2, 1.1), report.verdict(1.05, 1.1), report.verdict(0.99, None), report.verdict(1.0, None)],
                         ["aim met", "below 1.10", "loss", ""])
        times = {"user_us": 4.04, "system_us": 11.0, "busy": 0.9}
        ratios = (("haproxy", 1), ("nginx", 1.5), ("trivet", 0.9))
        summary = {name: {"median": 1000.0, "ratio": r, "lowest": r, "highest": r, **times} for name, r in ratios}
        results = {"throughput": {"h1-plain-100k": {"summary": summary}}, "latency": {}, "memory": {}}
        text = report.show(cases.CASES, results)
        self.assertIn("h1-plain-100k", text)
        self.assertRegex(text, r"0\.90–0\.90 +below 1\.15\n")
        self.assertIn("| **below 1.15** |\n", report.markdown(cases.CASES, results))
        self.assertIn("| h1-plain-100k | 4.0 + 11.0 | 4.0 + 11.0 | 4.0 + 11.0 | 90 % |", report.markdown(cases.CASES, results))

    def test_small_answers_are_held_to_nginx_where_it_is_the_faster(self) -> None:
        small, large = (next(c for c in cases.CASES if c.name == f"h1-plain-{s}") for s in ("1k", "100k"))
        self.assertEqual([report.aim(small, 0.9), report.aim(small, 1.1), report.aim(small, 1.4), report.aim(large, 1.4)],
                         [1.5, 1.5, 1.75, 1.15])


class Scale(unittest.TestCase):
    """./lab bench-scale: what is compared is alike but for what it is compared for."""

    def setUp(self) -> None:
        self.place = servers.Place(Path("/place"), 1, 2, 3, scale.BACKEND)
        self.certificates = servers.Certificates(*(Path("/c") for _ in range(5)))

    def made(self, name):
        return json.loads(scale.MADE[name](self.place, self.certificates))

    def test_large_has_what_it_is_called_for_and_each_back_end_an_address_of_its_own(self) -> None:
        large, spread = self.made("large"), self.made("spread")
        self.assertEqual([len(large["web"]["backends"]), len(spread["web"]["backends"])], [300, 300])
        self.assertEqual(1 + len(large["sites"]), 50)
        self.assertEqual(len(large["routes"]) + sum(len(site["routes"]) for site in large["sites"].values()), 1000)
        for config in (large, spread):
            addresses = {b["address"] for b in config["web"]["backends"]}
            self.assertEqual(len(addresses), 300)
            # One server is all of them: none is slower than another.
            self.assertEqual({address.rsplit(":", 1)[1] for address in addresses}, {str(scale.BACKEND)})

    def test_only_the_large_one_sees_back_ends_that_flap(self) -> None:
        flapping = {f"{scale._flapping(n)}:{scale.BACKEND}" for n in range(scale.FLAPPING)}
        for name, number in (("plain", 0), ("spread", 0), ("large", scale.FLAPPING)):
            self.assertEqual(len(flapping & {b["address"] for b in self.made(name)["web"]["backends"]}), number, name)
        self.assertEqual(self.made("plain"), self.made("again"))

    def test_an_unwell_back_end_says_so_to_checks_alone(self) -> None:
        config = backend.config(Path("/b"), {"plain": 1, "tls": 2, "h2": 3}, self.certificates)
        self.assertEqual(config.count("return 503"), 1)
        check = config[config.index("location = /healthz {"):]
        self.assertIn("if (-f /b/unwell/$server_addr) { return 503; }", check[:check.index("return 200")])

    def test_back_ends_are_unwell_by_turns_until_it_is_over(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            churn = object.__new__(scale.Churn)
            churn.unwell, churn.over, turns = Path(folder), mock.Mock(), []

            def wait(_):
                turns.append({mark.name for mark in Path(folder).iterdir()})
                return len(turns) == 3

            churn.over.wait.side_effect = wait
            churn._flap()
        self.assertEqual(turns[0], turns[2])
        self.assertFalse(turns[0] & turns[1])
        self.assertEqual(turns[0] | turns[1], {scale._flapping(n) for n in range(scale.FLAPPING)})

    def test_a_benchmark_whose_changes_have_ended_early_fails(self) -> None:
        churn = scale.Churn(Path("/no/such/socket"), Path("/no/such/folder"))
        with self.assertRaisesRegex(LabError, "the changes ended before"):
            churn.stop()

    def test_every_server_has_every_place_in_a_round_once(self) -> None:
        names = list(scale.MADE)
        orders = [scale.turned(names, n) for n in range(len(names))]
        for place in range(len(names)):
            self.assertEqual(sorted(order[place] for order in orders), sorted(names))

    def test_what_checks_take_is_not_part_of_a_request(self) -> None:
        # 2.4 % of a core for two seconds, and 10 µs for each request.
        one = scale.Round(good=100_000, seconds=2, cpu=1.048)
        self.assertAlmostEqual(one.per_request(0.024) * 1e6, 10)

    def test_a_report_has_medians_with_their_spread_and_says_which_aims_are_missed(self) -> None:
        def measured(large):
            ratios = {f"{a} ÷ {b}": [0.5, 1.0, 7.0] for a, b in scale.COSTS} | {"large ÷ plain": [0.9, large, 1.3]}
            cost = {name: [10.0, 12.0, 11.0] for name in scale.MADE}
            return {"idle": dict.fromkeys(scale.MADE, 0.024), "idle_with_changes": 0.03, "orders": 5, "transitions": 6,
                    "cases": {"h1": {"cpu_us": cost, "ratios": ratios, "memory_kib": [1, 100, 104]}}}
        good, bad = scale.report(measured(1.04)), scale.report(measured(1.06))
        self.assertIn("11.00 (10.00–12.00)", good)
        self.assertIn("1.040 (0.900–1.300)", good)
        self.assertIn("2.40", good)
        self.assertEqual([text.count("missed") for text in (good, bad)], [0, 1])

    def test_changes_of_health_are_counted(self) -> None:
        text = """# TYPE trivet_backend_transitions_total counter
trivet_backend_transitions_total{pool="web",backend="f0",to="down"} 3
trivet_backend_transitions_total{pool="web",backend="f1",to="up"} 4
trivet_backend_checks_total{pool="web",backend="f1",result="good"} 9
"""
        self.assertEqual(scale.transitions(text), 7)
        self.assertEqual(scale.transitions(""), 0)
