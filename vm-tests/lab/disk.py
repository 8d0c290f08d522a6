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
    def __init__(self, image: Path, at: Path):
        self.image, self.at = image, at

    def make(self) -> None:
        run(["truncate", "--size", SIZE, self.image])
        run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", self.image], what=f"making a file system in {self.image}")

    def mount(self) -> None:
        self.at.mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(self.at):
            run(["mount", "-o", "loop", self.image, self.at], what=f"mounting {self.image}")
            if (self.at / "lost+found").exists():
                (self.at / "lost+found").rmdir()  # mysqld makes a database in an empty folder only

    def cut(self) -> None:
        """Everything that is in the cache only is lost from this instant on."""
        if not os.path.ismount(self.at):
            return
        at = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(at, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(at)

    def unmount(self) -> None:
        if os.path.ismount(self.at):
            run(["umount", self.at], what=f"unmounting {self.image}")
        # The machine's own mount of it ends with its last process, an instant later. A new mount before that would find
        # the old file system, cache and all.
        deadline = time.monotonic() + 20
        while run(["losetup", "--associated", self.image], check=False).stdout.strip():
            if time.monotonic() > deadline:
                raise LabError(f"{self.image} is still in use")
            time.sleep(0.05)
