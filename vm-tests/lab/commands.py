"""The NixOS test driver's methods that only need a way to run a command in a machine.

Names, arguments, time-outs and failures are those of nixos/lib/test-driver, so that a scenario runs under both.
"""

import re
import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from lab.errors import ScenarioFailed
from lab.log import Log


def retry(fn: Callable[[bool], bool], timeout_seconds: float = 900, pause: float = 1.0) -> None:
    """Call until it returns True; the last call, after the time is over, is told so."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_seconds:
        if fn(False):
            return
        time.sleep(pause)
    if not fn(True):
        raise ScenarioFailed(f"action timed out after {time.monotonic() - began:.2f} seconds (timeout={timeout_seconds})")


class Commands:
    """What nodes and the client have in common."""

    name: str
    log_to: Log
    out_dir: Path

    def _execute(self, command: str, timeout: float | None) -> tuple[int, str, str]:
        """Run in the machine; exit code, standard output, standard error."""
        raise NotImplementedError

    def is_up(self) -> bool:
        raise NotImplementedError

    def log(self, text: str) -> None:
        self.log_to.write(f"{self.name}: {text}")

    def nested(self, text: str) -> AbstractContextManager[None]:
        return self.log_to.nested(f"{self.name}: {text}")

    # --- running commands -------------------------------------------------------------------------------------

    def execute(self, command: str, check_return: bool = True, check_output: bool = True,
                timeout: int | None = 900) -> tuple[int, str]:
        """Exit code and standard output of a shell command (`set -euo pipefail`)."""
        status, out, err = self._execute(command, timeout)
        if err.strip():
            self.log(f"stderr: {err.rstrip()}")
        return (status if check_return else -1, out if check_output else "")

    def succeed(self, *commands: str, timeout: int | None = None) -> str:
        output = ""
        for command in commands:
            with self.nested(f"must succeed: {command}"):
                status, out, err = self._execute(command, timeout)
                if status != 0:
                    self.log(f"output: {out}")
                    raise ScenarioFailed(f"command `{command}` failed on {self.name} (exit code {status}): "
                                         f"{_tail(err) or _tail(out) or 'no output'}")
                output += out
        return output

    def fail(self, *commands: str, timeout: int | None = None) -> str:
        output = ""
        for command in commands:
            with self.nested(f"must fail: {command}"):
                status, out = self.execute(command, timeout=timeout)
                if status == 0:
                    raise ScenarioFailed(f"command `{command}` unexpectedly succeeded on {self.name}: {_tail(out)}")
                output += out
        return output

    def _wait_until(self, command: str, timeout: float, wanted: Callable[[int], bool]) -> str:
        last = (0, "", "")

        def check(_last: bool) -> bool:
            nonlocal last
            last = self._execute(command, timeout)
            return wanted(last[0])

        try:
            retry(check, timeout)
        except ScenarioFailed as e:
            raise ScenarioFailed(f"`{command}` on {self.name}: {e}; it last said: "
                                 f"{_tail(last[2]) or _tail(last[1]) or 'nothing'} (exit code {last[0]})") from None
        return last[1]

    def wait_until_succeeds(self, command: str, timeout: int = 900) -> str:
        with self.nested(f"waiting for success: {command}"):
            return self._wait_until(command, timeout, lambda status: status == 0)

    def wait_until_fails(self, command: str, timeout: int = 900) -> str:
        with self.nested(f"waiting for failure: {command}"):
            return self._wait_until(command, timeout, lambda status: status != 0)

    def sleep(self, secs: int) -> None:
        self.succeed(f"sleep {secs}")

    # --- files and ports --------------------------------------------------------------------------------------

    def wait_for_file(self, filename: str, timeout: int = 900) -> None:
        with self.nested(f"waiting for file {filename!r}"):
            retry(lambda _: self.execute(f"test -e {filename}")[0] == 0, timeout)

    def _port_is_open(self, port: int, addr: str) -> bool:
        # bash's own /dev/tcp: needs no nc, on the node or on the host that lends the client its programs
        return self._execute(f"timeout 5 bash -c ': > /dev/tcp/{addr}/{port}'", 10)[0] == 0

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: int = 900) -> None:
        with self.nested(f"waiting for TCP port {port} on {addr}"):
            retry(lambda _: self._port_is_open(port, addr), timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: int = 900) -> None:
        with self.nested(f"waiting for TCP port {port} on {addr} to be closed"):
            retry(lambda _: not self._port_is_open(port, addr), timeout)

    def wait_for_open_unix_socket(self, addr: str, is_datagram: bool = False, timeout: int = 900) -> None:
        flags = "-uU" if is_datagram else "-U"
        with self.nested(f"waiting for UNIX socket {addr}"):
            retry(lambda _: self.execute(f"nc -z {flags} {addr}")[0] == 0, timeout)

    def copy_from_host(self, source: str, target: str) -> None:
        """Copy a file or folder of the host, with its access rights, owned by root."""
        raise NotImplementedError

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        """Copy a file or folder of the machine below the scenario's output folder."""
        raise NotImplementedError

    def copy_from_vm(self, source: str, target_dir: str = "") -> None:
        self.copy_from_machine(source, target_dir)

    def copy_from_host_via_shell(self, source: str, target: str) -> None:
        self.copy_from_host(source, target)

    # --- units ------------------------------------------------------------------------------------------------

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        if user is not None:
            return self.execute(f"su -l {user} --shell /bin/sh -c "
                                + shlex.quote(f"XDG_RUNTIME_DIR=/run/user/`id -u` systemctl --user {q}"))
        return self.execute(f"systemctl {q}")

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        return self.systemctl(f"start {jobname}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        return self.systemctl(f"stop {jobname}", user)

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        status, lines = self.systemctl(f'--no-pager show "{unit}"', user)
        if status != 0:
            raise ScenarioFailed(f'retrieving systemctl info for unit "{unit}" on {self.name} failed with exit code {status}')
        return {m[1]: m[2] for line in lines.splitlines() if (m := re.match(r"^([^=]+)=(.*)$", line))}

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        status, lines = self.systemctl(f'--no-pager show "{unit}" --property="{property}"', user)
        match = re.match(r"^([^=]+)=(.*)$", lines)
        if status != 0 or match is None or match[1] != property:
            raise ScenarioFailed(f'retrieving property "{property}" of unit "{unit}" on {self.name} failed: {lines!r}')
        return match[2]

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = 900) -> None:
        """Until the unit is active. A unit that failed, or that nothing is going to start, fails at once."""

        def active(_last: bool) -> bool:
            state = self.get_unit_property(unit, "ActiveState", user)
            if state == "failed":
                raise ScenarioFailed(f'unit "{unit}" on {self.name} reached state "{state}"')
            if state == "inactive":
                _, jobs = self.systemctl("list-jobs --full 2>&1", user)
                if "No jobs" in jobs and self.get_unit_property(unit, "ActiveState", user) == state:
                    raise ScenarioFailed(f'unit "{unit}" on {self.name} is inactive and there are no pending jobs')
            return state == "active"

        with self.nested(f"waiting for unit {unit}"):
            retry(active, timeout)

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise ScenarioFailed(f"expected unit {unit!r} on {self.name} to be {require_state!r}, it is {state!r}")


def _tail(text: str, lines: int = 5) -> str:
    return " / ".join(text.strip().splitlines()[-lines:])
