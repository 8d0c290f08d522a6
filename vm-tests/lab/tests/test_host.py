import unittest
from pathlib import Path

from lab import host
from lab.errors import LabError

HYBRID = """tmpfs /sys/fs/cgroup tmpfs rw,relatime 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
UNIFIED = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n"
ELSEWHERE = "cgroup2 /mnt/cg cgroup2 rw 0 0\n"


class CgroupRoot(unittest.TestCase):
    def test_the_whole_hierarchy_or_the_hybrid_part(self):
        self.assertEqual(host.find_cgroup2(UNIFIED), Path("/sys/fs/cgroup"))
        self.assertEqual(host.find_cgroup2(HYBRID), Path("/sys/fs/cgroup/unified"))

    def test_the_hierarchy_where_nspawn_leaves_its_cgroups_on_a_hybrid_host(self):
        self.assertEqual(host.find_named_hierarchies(HYBRID), [Path("/sys/fs/cgroup/systemd")])
        self.assertEqual(host.find_named_hierarchies(UNIFIED), [])

    def test_a_place_that_nspawn_does_not_look_at_does_not_count(self):
        self.assertIsNone(host.find_cgroup2(ELSEWHERE))

    def test_read_only_is_said(self):
        with self.assertRaisesRegex(LabError, "read-only"):
            host.find_cgroup2(UNIFIED.replace("rw", "ro"))
