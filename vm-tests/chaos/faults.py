"""The faults: what is done to which node, and how it is undone. Only the test driver's methods and a node's own programs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from chaos.schedule import Step

# What prelude.py defines, as one object: NODES, ADDRESSES, client, primary(), sql(), poll(), …
Site = SimpleNamespace


class Machine(Protocol):
    """What is asked of a node: the test driver's methods, and no more."""

    name: str

    def succeed(self, *commands: str, timeout: int | None = None) -> str: ...
    def execute(self, command: str, *, timeout: int | None = 900) -> tuple[int, str]: ...
    def start(self) -> None: ...
    def crash(self) -> None: ...
    def block(self) -> None: ...
    def unblock(self) -> None: ...


# Site, node, step. Faults that meet all nodes (role "any") are given no node, and ask for none.
Act = Callable[[Site, Any, "Step"], None]

HUNG = 300  # seconds after which a fault's own command counts as hung
FILLER = "/var/lib/mysql/.filler"
# A lab's nodes share one kernel and its clock; there the programs' clock is moved, by libfaketime, through this file.
LAB_CLOCK = "/etc/trivet-lab/clock"


@dataclass(frozen=True)
class Fault:
    """`inject` does it and returns once it is in place; `heal` undoes it. Both get the site, the node, the step."""

    inject: Act
    heal: Act
    roles: tuple[str, ...] = ("primary", "primary", "replica")
    seconds: tuple[float, float] = (0.0, 0.0)
    options: dict[str, Any] = field(default_factory=dict)
    about: str = ""


def target(site: Site, step: "Step") -> Machine | None:
    """The node that has the role now."""
    if step.role == "any":
        return None
    if step.role == "holder":
        holder: Machine = site.holder()
        return holder
    first: Machine = site.primary()
    if step.role == "primary":
        return first
    if step.role == "primary-elsewhere":  # not the node that holds the virtual address, whose loss cuts users' connections
        if first is site.holder():
            first.succeed("systemctl restart keepalived", timeout=60)
            site.poll(lambda: site.holder() is not first, "the virtual address moves to another node")
        return first
    rest: list[Machine] = site.others(first)
    return rest[step.pick % len(rest)]


def nothing(_site: Site, _node: Machine, _step: "Step") -> None:
    return


def _kill(unit: str, signal: str) -> Act:
    def inject(_site: Site, node: Machine, _step: "Step") -> None:
        node.succeed(f"systemctl kill --kill-whom=main --signal={signal} {unit}", timeout=30)

    return inject


# --- power ------------------------------------------------------------------------------------------------------


def _power_off(_site: Site, node: Machine, _step: "Step") -> None:
    node.crash()


def _power_on(_site: Site, node: Machine, _step: "Step") -> None:
    node.start()


def _all_off(site: Site, _node: Machine, _step: "Step") -> None:
    # In one instant where the driver can: a node that lives for a second longer may still write what the others lose.
    for node in site.NODES:
        if hasattr(node, "pull"):
            node.pull()
    for node in site.NODES:
        node.crash()


def _all_on(site: Site, _node: Machine, step: "Step") -> None:
    order = list(site.NODES)
    for turn in range(len(order)):
        order[(turn + step.pick) % len(order)].start()
        time.sleep(1)


# --- network ----------------------------------------------------------------------------------------------------


def _hears(site: Site, _node: Machine, _step: "Step") -> None:
    for node in site.NODES:
        site.hear_again(node)


def _cut(_site: Site, node: Machine, _step: "Step") -> None:
    node.block()


def _healed(_site: Site, node: Machine, _step: "Step") -> None:
    node.unblock()


def _cut_pair(site: Site, node: Machine, step: "Step") -> None:
    rest = site.others(node)
    other = rest[step.pick % len(rest)]
    site.deafen(node, other)
    site.deafen(other, node)


def _cut_one_way(site: Site, node: Machine, step: "Step") -> None:
    if step.options["direction"] == "in":
        site.deafen(node, *site.others(node))
    else:
        for other in site.others(node):
            site.deafen(other, node)


def _flap(_site: Site, node: Machine, step: "Step") -> None:
    ends = time.monotonic() + step.seconds
    turn = 0
    while time.monotonic() < ends:
        node.block()
        time.sleep(0.4 + (step.pick >> turn % 8) % 4 * 0.7)
        node.unblock()
        time.sleep(0.4 + (step.pick >> (turn + 4) % 8) % 4 * 0.7)
        turn += 1


# --- disk, clock, locks -----------------------------------------------------------------------------------------


def _fill(_site: Site, node: Machine, _step: "Step") -> None:
    node.execute(f"fallocate --length $(df --output=avail --block-size=1 /var/lib/mysql | tail -1) {FILLER} || true; "
                 f"dd if=/dev/zero bs=4k of={FILLER}.rest 2>/dev/null || true", timeout=120)


def _clean(_site: Site, node: Machine, _step: "Step") -> None:
    node.succeed(f"rm -f {FILLER} {FILLER}.rest", timeout=60)


def _jump(node: Machine, seconds: int) -> None:
    if node.execute(f"test -e {LAB_CLOCK}", timeout=30)[0] == 0:
        node.succeed(f"echo {seconds:+d} > {LAB_CLOCK}.new && mv {LAB_CLOCK}.new {LAB_CLOCK}", timeout=30)
    else:
        node.succeed(f"date --set @$(( $(date +%s) + {seconds} ))", timeout=30)


def _clock(_site: Site, node: Machine, step: "Step") -> None:
    _jump(node, step.options["by"])


def _clock_back(_site: Site, node: Machine, step: "Step") -> None:
    lab = node.execute(f"test -e {LAB_CLOCK}", timeout=30)[0] == 0
    _jump(node, 0 if lab else -step.options["by"])


def _lag(_site: Site, node: Machine, step: "Step") -> None:
    """Holds back what the member applies, as a long backup or a busy disk would."""
    hold = f"FLUSH TABLES WITH READ LOCK; SELECT SLEEP({step.seconds:.0f})"
    node.succeed(f"systemd-run --quiet --collect --unit=chaos-lag mysql --execute='{hold}'", timeout=30)


def _caught_up(_site: Site, node: Machine, _step: "Step") -> None:
    node.execute("systemctl stop chaos-lag 2>/dev/null", timeout=30)


# --- planned work -----------------------------------------------------------------------------------------------


def _switchover(site: Site, node: Machine, _step: "Step") -> None:
    """By the operator's command."""
    before = site.primary()
    node.succeed("trivet switchover", timeout=HUNG)
    after = site.primary()
    if after is before:
        raise Exception(f"trivet switchover succeeded, and {after.name} is still the primary")


def _rolling(site: Site, _node: Machine, step: "Step") -> None:
    order = list(site.NODES)
    for turn in range(len(order)):
        node = order[(turn + step.pick) % len(order)]
        node.succeed("systemctl restart mysql", timeout=HUNG)
        site.wait_for_members(site.NODES)


FAULTS = {
    "kill": Fault(_kill("mysql", "KILL"), nothing, about="mysqld is killed (SIGKILL)"),
    "freeze": Fault(_kill("mysql", "STOP"), _kill("mysql", "CONT"), seconds=(3, 25), about="mysqld is frozen (SIGSTOP), and thawed"),
    "power-off": Fault(_power_off, _power_on, roles=("primary", "primary", "replica", "holder"), seconds=(2, 15),
                       about="a node loses power; what no fsync made durable is lost"),
    "power-off-all": Fault(_all_off, _all_on, roles=("any",), seconds=(1, 4), about="all nodes lose power in the same instant"),
    "cut": Fault(_cut, _healed, roles=("primary", "primary", "replica", "holder"), seconds=(5, 25), about="a node's network is silently cut"),
    "cut-pair": Fault(_cut_pair, _hears, seconds=(5, 25), about="two nodes do not hear one another; the third hears both"),
    "cut-one-way": Fault(_cut_one_way, _hears, seconds=(5, 25), options={"direction": ("in", "out")},
                         about="a node hears none of the others but is heard, or is not heard but hears"),
    "flap": Fault(_flap, _healed, seconds=(8, 20), about="a node's link comes and goes every second or two"),
    "disk-full": Fault(_fill, _clean, seconds=(8, 20), about="the disk of the database is full"),
    "clock": Fault(_clock, _clock_back, seconds=(5, 15), options={"by": (-1800, -60, 60, 1800, 86400)},
                   about="a node's clock jumps, and jumps back"),
    "keeper": Fault(_kill("trivet-keeper", "KILL"), nothing, about="the keeper is killed"),
    "lag": Fault(_lag, _caught_up, roles=("replica",), seconds=(5, 12), about="a replica applies nothing for a while"),
    "switchover": Fault(_switchover, nothing, roles=("primary", "replica"), about="`trivet switchover`"),
    "rolling-restart": Fault(_rolling, nothing, roles=("any",), about="mysqld of every node is restarted in order, one after the other"),
}
