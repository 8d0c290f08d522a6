"""The probe tells what a user would have seen."""

import http.server
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

PROBE = Path(__file__).resolve().parents[2] / "probe.py"
spec = importlib.util.spec_from_file_location("probe", PROBE)
assert spec and spec.loader
probe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(probe)


def row(begin: float, end: float, problem: str | None = None) -> dict[str, object]:
    return {"stream": "reads", "begin": begin, "end": end, "problem": problem}


class Summary(unittest.TestCase):
    def test_an_outage_is_the_time_between_two_successes(self):
        seen = probe.summarise([row(0, 1), row(1, 2, "status 502"), row(2, 4.5), row(4.5, 5)], until=5)
        self.assertEqual((seen["longest_outage"], seen["outage_began"], seen["failed"]), (3.5, 1, 1))
        self.assertTrue(seen["outage_over"])

    def test_a_slow_answer_does_not_hide_that_others_were_served(self):
        seen = probe.summarise([row(0, 1), row(0.5, 3), row(1.5, 2)], until=3)
        self.assertEqual(seen["longest_outage"], 1)

    def test_an_outage_that_lasts_to_the_end_counts_and_is_said(self):
        seen = probe.summarise([row(0, 1), row(1, 8, "no answer in time")], until=10)
        self.assertEqual((seen["longest_outage"], seen["outage_over"]), (9, False))

    def test_an_answer_awaited_in_vain_after_the_end_is_no_outage_that_lasts(self):
        record = probe.Record()
        record.rows = [row(0, 1), row(1, 4.9, "no answer in time"), row(2.5, 2.9)]
        record.ended = 3.0
        seen = record.summary(["reads"])["reads"]
        self.assertEqual((round(seen["longest_outage"], 3), seen["failed"], seen["outage_over"]), (1.9, 1, True))

    def test_nothing_ever_answered(self):
        seen = probe.summarise([row(0, 1, "Connection refused")], until=4)
        self.assertEqual((seen["longest_outage"], seen["outage_over"], seen["median"]), (4, False, None))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    broken = False

    def do_GET(self):
        body = b"hello"
        self.send_response(502 if Handler.broken else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Live(unittest.TestCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.env = dict(os.environ, TRIVET_PROBE_DIR=folder.name)
        Handler.broken = False

    def probe(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, PROBE, *words], capture_output=True, text=True, env=self.env, timeout=90)

    def test_it_runs_in_the_background_and_reports_failures(self):
        base = f"http://127.0.0.1:{self.server.server_port}"
        started = self.probe("start", "x", "--base", base, "--reads", "50", "--keepalive", "1")
        self.assertEqual(started.returncode, 0, started.stderr)
        time.sleep(0.3)
        Handler.broken = True
        time.sleep(0.4)
        Handler.broken = False
        time.sleep(0.3)
        seen = json.loads(self.probe("stop", "x").stdout)
        for stream in ("reads", "keepalive"):
            self.assertGreater(seen[stream]["failed"], 0)
            self.assertIn("status 502", seen[stream]["problems"])
            self.assertGreater(seen[stream]["longest_outage"], 0.3)
            self.assertTrue(seen[stream]["outage_over"])
        self.assertEqual(self.probe("stop", "x").returncode, 1)  # it has ended

    def test_ports_are_told_apart(self):
        port = self.server.server_port
        seen = json.loads(self.probe("ports", "127.0.0.1", f"{port},1").stdout)
        self.assertEqual(seen, {"open": [port], "refused": [1], "silent": []})
