"""Three machines on one: the test cluster as systemd-nspawn machines on a Debian root file system.

The machines run the very files that NixOS would install (vm-tests/snapshots), and the scenarios
(vm-tests/scenarios) drive them through the methods of the NixOS test driver. See docs/lab.md.
"""
