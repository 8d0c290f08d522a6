"""A disk of its own for a node's database: bounded, so that it can fill up, and with a write cache that a power cut loses.

The node's other files lie on the host's file system, whose kernel keeps what was written whatever becomes of the node. This
one is an ext4 in a file. Cutting the power shuts that file system down without flushing its journal or its pages
(FS_IOC_SHUTDOWN, which file system developers test with): what no fsync has made durable, and the kernel has not happened to
write back yet, is gone at the next mount, as after pulling a real plug.
"""

import fcntl
import os
import struct
import time
from pathlib import Path

from lab.errors import LabError
from lab.process import run

# Room for a small test database with its binary and redo logs; sparse, so it costs what is written.
SIZE = "1500M"
MYSQL = "var/lib/mysql"
# linux/fs.h: FS_IOC_SHUTDOWN = _IOR('X', 125, __u32), and its flag FS_SHUTDOWN_FLAGS_NOLOGFLUSH
SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
NO_LOG_FLUSH = 2


class DataDisk:
    """Mounted by the node that has it, in a mount namespace of the node's own: with the node's last process it is unmounted.

    (Mounted where other machines start from, each of them would hold it, and no new mount would begin with an empty cache.)
    """

    def __init__(self, image: Path, at: Path):
        self.image, self.at = image, at

    def make(self) -> None:
        run(["truncate", "--size", SIZE, self.image])
        run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", self.image], what=f"making a file system in {self.image}")
        run(["losetup", "--find", self.image], what=f"attaching {self.image}")
        self.at.mkdir(parents=True, exist_ok=True)

    def enter_command(self, argv: list[str]) -> list[str]:
        """The command, with the disk mounted for it. mysqld makes a new database in an empty folder only."""
        device = f"/dev/{self._loop()}"
        script = 'mount "$1" "$2" && { rmdir "$2/lost+found" 2>/dev/null || true; } && shift 2 && exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", device, str(self.at), *argv]

    def cut(self, leader: int) -> None:
        """Everything that is in the cache only is lost from this instant on. `leader`: a process of the node."""
        at = os.open(f"/proc/{leader}/root/{MYSQL}", os.O_RDONLY)
        try:
            fcntl.ioctl(at, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))  # a second time it does nothing
        finally:
            os.close(at)

    def _loop(self) -> str | None:
        """The loop device that the file is on, such as `loop3`."""
        devices = run(["losetup", "--noheadings", "--output", "NAME", "--associated", self.image], check=False).stdout.split()
        return Path(devices[0]).name if devices else None

    def wait_until_unmounted(self) -> None:
        """After the node's last process: the kernel forgets the file system an instant later."""
        loop = self._loop()
        deadline = time.monotonic() + 30
        while loop is not None and Path(f"/sys/fs/ext4/{loop}").exists():
            if time.monotonic() > deadline:
                raise LabError(f"{self.image} is still in use")
            time.sleep(0.02)

    def remove(self) -> None:
        while (loop := self._loop()) is not None:
            self.wait_until_unmounted()
            run(["losetup", "--detach", f"/dev/{loop}"], what=f"detaching {self.image}")
        self.image.unlink(missing_ok=True)
