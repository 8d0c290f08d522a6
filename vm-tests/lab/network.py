"""The lab's network: one bridge in a namespace of its own, one namespace per machine. Nothing touches the host's."""

from pathlib import Path

from lab.errors import LabError
from lab.process import run

# Frames of a cut machine vanish inside the switch: its link stays up and nobody gets an answer, as with a dead
# switch port. (A link taken down would tell the machine.)
SWITCH_RULES = """
table bridge lab {
  set cut { type ifname; }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname @cut drop
    oifname @cut drop
  }
}
"""
# Addresses must be usable at once (no duplicate detection), and no machine may answer for another's address.
NODE_SYSCTLS = {
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
}


class Network:
    def __init__(self, lab: str, prefix_length: int = 24):
        self.lab = lab
        self.prefix_length = prefix_length
        self.switch = self.namespace("switch")

    def namespace(self, machine: str) -> str:
        """A dot, which no lab's name has: the lab `trivet` would take those of `trivet-test` for its own."""
        return f"{self.lab}.{machine}"

    def existing(self) -> list[str]:
        """This lab's namespaces."""
        folder = Path("/run/netns")
        return sorted(p.name for p in folder.iterdir() if p.name.startswith(self.namespace(""))) if folder.is_dir() else []

    def _ip(self, namespace: str, *words: str) -> None:
        run(["ip", "-n", namespace, *words])

    def up(self) -> None:
        run(["ip", "netns", "add", self.switch])
        self._ip(self.switch, "link", "set", "lo", "up")
        self._ip(self.switch, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0",
                 "mcast_snooping", "0")
        self._ip(self.switch, "link", "set", "br0", "up")
        try:
            run(["ip", "netns", "exec", self.switch, "nft", "-f", "-"], input=SWITCH_RULES)
        except LabError as e:
            raise LabError(f"this kernel cannot filter in a bridge (nftables, family bridge): {e}") from None

    def plug(self, machine: str, addresses: list[str]) -> None:
        """A fresh network namespace for a machine that is being switched on, with its addresses on eth0."""
        ns = self.namespace(machine)
        run(["ip", "netns", "add", ns])
        # MACs from the name's port would repeat across labs harmlessly; the kernel's random ones do too.
        self._ip(self.switch, "link", "add", f"p-{machine}", "type", "veth", "peer", "name", "eth0", "netns", ns)
        self._ip(self.switch, "link", "set", f"p-{machine}", "master", "br0", "up")
        for key, value in NODE_SYSCTLS.items():
            run(["ip", "netns", "exec", ns, "sysctl", "-qw", f"{key}={value}"])
        self._ip(ns, "link", "set", "lo", "up")
        self._ip(ns, "link", "set", "eth0", "up")
        for address in addresses:
            self._ip(ns, "addr", "add", address, "dev", "eth0")

    def unplug(self, machine: str) -> None:
        """The machine loses power: its port goes. (Its namespace goes when its processes are gone, see `forget`.)"""
        run(["ip", "-n", self.switch, "link", "del", f"p-{machine}"], check=False)

    def forget(self, machine: str) -> None:
        """Addresses and packet filter rules outlive the processes in a named namespace: power off means gone."""
        self.unplug(machine)
        if (Path("/run/netns") / self.namespace(machine)).exists():
            run(["ip", "netns", "del", self.namespace(machine)])

    def cut(self, machine: str) -> None:
        self._set("add", machine)

    def heal(self, machine: str) -> None:
        run(self._nft("delete", machine), check=False)  # not cut: nothing to heal

    def _set(self, verb: str, machine: str) -> None:
        run(self._nft(verb, machine))

    def _nft(self, verb: str, machine: str) -> list[str]:
        return ["ip", "netns", "exec", self.switch, "nft", f"{verb} element bridge lab cut {{ p-{machine} }}"]

    def down(self) -> None:
        for ns in self.existing():
            run(["ip", "netns", "del", ns], check=False)
