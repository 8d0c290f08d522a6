"""A node: a systemd-nspawn machine on an overlay of the Debian root, with power that can be cut."""

import json
import shutil
import subprocess
import time
from pathlib import Path

from lab.cgroup import Cgroup
from lab.commands import Commands
from lab.disk import MYSQL, DataDisk
from lab.errors import LabError
from lab.log import Log
from lab.mounts import unmount
from lab.network import Network
from lab.process import children, clean_environment, run, start_time

BOOT_TIMEOUT = 60
SHUTDOWN_TIMEOUT = 120
# keepalived and nftables need the network, raw sockets carry VRRP and gratuitous ARP, mysqld and keepalived set priorities.
CAPABILITIES = "CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_NICE"


class Node(Commands):
    def __init__(self, lab: str, name: str, addresses: list[str], folder: Path, network: Network, cgroup: Cgroup,
                 log_to: Log, out_dir: Path):
        self.lab, self.name, self.addresses = lab, name, addresses
        self.folder = folder  # keeps the disk (upper), and what is known of the running machine
        self.network, self.cgroup = network, cgroup
        self.log_to, self.out_dir = log_to, out_dir
        self._spawned: subprocess.Popen[bytes] | None = None
        self._leader: int | None = None
        # A lab that another command made may have it, too.
        self.data_disk = DataDisk(self._image, self.root / MYSQL) if self._image.exists() else None

    # --- disk -------------------------------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def console_log(self) -> Path:
        return self.folder / "console.log"

    def make_disk(self, lower: list[Path]) -> None:
        """An empty disk over the given roots (first one on top)."""
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        options = (f"lowerdir={':'.join(map(str, lower))},upperdir={self.folder / 'upper'},"
                   f"workdir={self.folder / 'work'}")
        run(["mount", "-t", "overlay", "overlay", "-o", options, self.root], what=f"mounting the disk of {self.name}")

    @property
    def _image(self) -> Path:
        return self.folder / "data.img"

    def use_data_disk(self) -> None:
        """The database on a disk of its own, which can be full and whose cache is lost with the power; before `start`."""
        self.data_disk = DataDisk(self._image, self.root / MYSQL)
        self.data_disk.make()

    def remove_disk(self) -> None:
        if self.data_disk is not None:
            self.data_disk.remove()
        unmount(self.root)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- power ------------------------------------------------------------------------------------------------

    def _recorded(self) -> int | None:
        """The systemd-nspawn process that an earlier command started, if it still lives."""
        try:
            known = json.loads((self.folder / "nspawn.json").read_text())
        except FileNotFoundError:
            return None
        return known["pid"] if start_time(known["pid"]) == known["start"] else None

    def _supervisor(self) -> int | None:
        if self._spawned is not None:
            return self._spawned.pid if self._spawned.poll() is None else None
        return self._recorded()

    def is_up(self) -> bool:
        return self._supervisor() is not None

    booted = property(is_up)

    def start(self, allow_reboot: bool = False) -> None:
        """Switch on; does not wait for the machine to finish booting."""
        if self.is_up():
            return
        self.log("starting")
        self._power_is_off()
        self.network.plug(self.name, self.addresses)
        self.cgroup.make()
        argv = [
            "systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit", f"--machine={self.lab}-{self.name}",
            f"--hostname={self.name}", f"--directory={self.root}",
            f"--network-namespace-path=/run/netns/{self.network.namespace(self.name)}", "--resolv-conf=off",
            "--timezone=off", "--link-journal=no", "--console=pipe", f"--capability={CAPABILITIES}",
            "--kill-signal=SIGRTMIN+3",
        ]
        if self.data_disk is not None:
            argv = self.data_disk.enter_command(argv)
        # The machine mounts cgroup v2 as its own whatever the host has, and may write its own network's sysctls.
        env = clean_environment(SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1", SYSTEMD_NSPAWN_API_VFS_WRITABLE="network")
        with self.console_log.open("ab") as console:
            self._spawned = subprocess.Popen(self.cgroup.enter_command(argv), stdin=subprocess.DEVNULL, stdout=console,
                                             stderr=console, env=env, start_new_session=True)
        known = {"pid": self._spawned.pid, "start": start_time(self._spawned.pid)}
        (self.folder / "nspawn.json").write_text(json.dumps(known))

    def leader(self) -> int:
        """The machine's process 1, as the host numbers it; waits until the machine takes commands."""
        supervisor = self._supervisor()
        if supervisor is None:
            raise LabError(f"{self.name} is not running; its console: {self.console_log}")
        if self._leader is not None and start_time(self._leader) is not None:
            return self._leader
        deadline = time.monotonic() + BOOT_TIMEOUT
        while time.monotonic() < deadline:
            if self._supervisor() is None:
                raise LabError(f"{self.name} stopped while booting; its console: {self.console_log}: {self._console_tail()}")
            for child in children(supervisor):
                if _is_init(child) and self._takes_commands(child):
                    self._leader = child
                    return child
            time.sleep(0.05)
        raise LabError(f"{self.name} did not boot within {BOOT_TIMEOUT} s; its console: {self.console_log}")

    def _takes_commands(self, leader: int) -> bool:
        done = subprocess.run([*_enter(leader), "systemctl", "is-system-running"], capture_output=True, text=True,
                              env=clean_environment())
        return done.stdout.strip() in ("starting", "running", "degraded", "maintenance")

    def _console_tail(self) -> str:
        try:
            return " / ".join(self.console_log.read_text(errors="replace").strip().splitlines()[-3:])
        except FileNotFoundError:
            return "(empty)"

    def _power_is_off(self) -> None:
        """Clean up after the machine's processes, however they ended."""
        self.cgroup.kill()
        self.cgroup.remove()
        if self._spawned is not None:
            self._spawned.wait()
        self._spawned = self._leader = None
        if self.data_disk is not None:
            self.data_disk.wait_until_unmounted()
        (self.folder / "nspawn.json").unlink(missing_ok=True)
        self.network.forget(self.name)
        # systemd-nspawn's own litter, when it was killed
        shutil.rmtree(f"/run/systemd/nspawn/propagate/{self.lab}-{self.name}", ignore_errors=True)
        if self.root.exists():
            at = self.root.stat()
            Path(f"/run/systemd/nspawn/locks/inode-{at.st_dev}:{at.st_ino}").unlink(missing_ok=True)

    def pull(self) -> None:
        """The instant of a power failure: nothing leaves the node any more, nothing reaches its database's disk."""
        if not self.is_up():
            return
        self.log("power is cut")
        self.network.unplug(self.name)
        if self.data_disk is not None:
            self.data_disk.cut(self.leader())

    def crash(self) -> None:
        """A sudden power failure: off the network first, so that no dying socket says good-bye to its peer."""
        if not self.is_up():
            return
        self.log("forced crash")
        self.pull()
        self._power_is_off()

    def shutdown(self) -> None:
        """An orderly power-off; waits for it."""
        if not self.is_up():
            return
        with self.nested("shutting down"):
            subprocess.run([*_enter(self.leader()), "systemctl", "poweroff", "--no-block"], env=clean_environment(),
                           capture_output=True)
            self.wait_for_shutdown()

    def wait_for_shutdown(self) -> None:
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT
        while self.is_up():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} did not shut down within {SHUTDOWN_TIMEOUT} s")
            time.sleep(0.05)
        self._power_is_off()

    def reboot(self) -> None:
        self.shutdown()
        self.start()

    def release(self) -> None:
        """Off, whatever state it is in."""
        self.network.unplug(self.name)
        self._power_is_off()

    # --- network cable ----------------------------------------------------------------------------------------

    def block(self) -> None:
        """Cut from the others, silently."""
        self.log("blocked")
        self.network.cut(self.name)

    def unblock(self) -> None:
        self.log("unblocked")
        self.network.heal(self.name)

    # --- commands ---------------------------------------------------------------------------------------------

    def enter_command(self, argv: list[str]) -> list[str]:
        return [*_enter(self.leader()), *argv]

    def _execute(self, command: str, timeout: float | None) -> tuple[int, str, str]:
        self.start()  # as NixOS' driver: the first command switches a machine on
        limit = [] if timeout is None else ["timeout", str(timeout)]
        done = subprocess.run(self.enter_command([*limit, "bash", "-c", f"set -euo pipefail; {command}"]),
                              capture_output=True, text=True, errors="replace", env=clean_environment(HOME="/root"))
        return done.returncode, done.stdout, done.stderr

    def copy_from_host(self, source: str, target: str) -> None:
        argv = self.enter_command(["sh", "-c", 'mkdir -p "$1" && tar -x --no-same-owner -C "$1" && mv -T "$1/$2" "$3"',
                                   "sh", f"{target}.part", Path(source).name, target])
        packed = subprocess.Popen(["tar", "-c", "-C", str(Path(source).parent), Path(source).name], stdout=subprocess.PIPE)
        done = subprocess.run(argv, stdin=packed.stdout, capture_output=True, text=True, env=clean_environment())
        if packed.wait() != 0 or done.returncode != 0:
            raise LabError(f"copying {source} to {target} on {self.name}: {done.stderr.strip()}")
        self.succeed(f"rmdir {target}.part")

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        into = self.out_dir / target_dir
        into.mkdir(parents=True, exist_ok=True)
        at = Path(source)
        packed = subprocess.Popen(self.enter_command(["tar", "-c", "-C", str(at.parent), at.name]),
                                  stdout=subprocess.PIPE, env=clean_environment())
        done = subprocess.run(["tar", "-x", "--no-same-owner", "-C", str(into)], stdin=packed.stdout, capture_output=True)
        if packed.wait() != 0 or done.returncode != 0:
            raise LabError(f"copying {source} from {self.name} failed")

    def journal(self) -> str:
        """The journal on the disk, read by the machine's own journalctl, whether the machine runs or not."""
        read = 'mount -t proc proc "$1/proc" && exec chroot "$1" journalctl --no-pager -o short-precise -D /var/log/journal'
        done = subprocess.run(["unshare", "--mount", "sh", "-c", read, "sh", str(self.root)], capture_output=True,
                              text=True, errors="replace")
        return done.stdout


def _enter(leader: int) -> list[str]:
    return ["nsenter", f"--target={leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]


def _is_init(pid: int) -> bool:
    """Whether the process is number 1 in a process namespace of its own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    return len(numbers) > 1 and numbers[-1] == "1"
