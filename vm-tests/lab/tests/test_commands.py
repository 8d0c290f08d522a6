"""The driver's methods mean what they mean in NixOS' test driver."""

import subprocess
import time
import unittest

from lab import commands
from lab.errors import ScenarioFailed
from lab.log import Log


class Here(commands.Commands):
    """A machine that is this one."""

    name = "here"
    log_to = Log()

    def _execute(self, command, timeout):
        done = subprocess.run(["timeout", str(timeout or 60), "bash", "-c", f"set -euo pipefail; {command}"],
                              capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr


class Methods(unittest.TestCase):
    def setUp(self):
        self.here = Here()

    def test_succeed_returns_the_output_of_all_commands(self):
        self.assertEqual(self.here.succeed("echo a", "echo b"), "a\nb\n")

    def test_succeed_fails_with_what_the_command_said(self):
        with self.assertRaisesRegex(ScenarioFailed, "exit code 3.*why"):
            self.here.succeed("echo why >&2; exit 3")

    def test_a_failing_part_of_a_pipe_fails_the_command(self):
        with self.assertRaises(ScenarioFailed):
            self.here.succeed("false | cat")

    def test_fail_wants_failure(self):
        self.assertEqual(self.here.fail("echo out; false"), "out\n")
        with self.assertRaisesRegex(ScenarioFailed, "unexpectedly succeeded"):
            self.here.fail("true")

    def test_execute_gives_code_and_output(self):
        self.assertEqual(self.here.execute("echo x; exit 7"), (7, "x\n"))

    def test_a_command_has_a_time_limit(self):
        began = time.monotonic()
        self.assertEqual(self.here.execute("sleep 30", timeout=1)[0], 124)
        self.assertLess(time.monotonic() - began, 10)

    def test_wait_until_succeeds_gives_up_and_quotes_the_last_words(self):
        with self.assertRaisesRegex(ScenarioFailed, "timed out.*not yet"):
            self.here.wait_until_succeeds("echo not yet; false", timeout=1)

    def test_wait_until_fails(self):
        self.here.wait_until_fails("false", timeout=5)

    def test_ports(self):
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            self.here.wait_for_open_port(port, "127.0.0.1", timeout=5)
        self.here.wait_for_closed_port(port, "127.0.0.1", timeout=5)
