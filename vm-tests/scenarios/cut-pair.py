# Two nodes that do not hear one another, while the third hears both: exactly one keeps the virtual address, by the third's word.

cluster_up()


def cut(a, b):
    deafen(a, b)
    deafen(b, a)


def healed():
    for node in NODES:
        hear_again(node)
    return holder()


def one_of(*nodes):
    """Which of these has the address, once exactly one of all has, and has had it for a while."""
    began = time.monotonic()
    while time.monotonic() - began < 3:
        now = holders(NODES)
        if len(now) != 1:
            return None
        time.sleep(0.3)
    return now[0] if now[0] in nodes else None


def comes_to_one(a, b, label):
    start_probe(label, reads=20)
    client.sleep(1)
    began = time.monotonic()
    cut(a, b)
    # For a moment both have it: VRRP lets whoever hears no adverts take the address.
    poll(lambda: len(holders(NODES)) > 1, "the other one takes the address as well", 5, 0.05)
    poll(lambda: len(holders(NODES)) == 1, "one of them lets go", 20, 0.05)
    took = time.monotonic() - began
    kept = poll(lambda: one_of(a, b), "one keeps it", 30)
    note(f"{label}: {kept.name} keeps the address, {took:.1f} s after the cut")
    client.sleep(6)
    assert holders(NODES) == [kept], "and it stays there for as long as the cut lasts"
    served_since(label)
    measured(label, stop_probe(label), one_holder_after=round(took, 2))
    return kept, took


with subtest("the holder does not hear the next one in line"):
    first = holder()
    other = others(first)[0]
    kept, took = comes_to_one(first, other, "holder-and-next")
    assert kept in (first, other)
    # 3.6 s by the timers (docs/nixos.md); the rest is for a busy machine, and for looking.
    assert took < 5, f"{took} s"

with subtest("the one that let go comes back when the other dies, if it must"):
    # The third hears both, and takes the address at once.
    kept.succeed("systemctl stop trivet-balancer", timeout=60)
    poll(lambda: holders(others(kept)), "another node takes the address", 10)
    kept.succeed("systemctl start trivet-balancer", timeout=60)

with subtest("healed, one node has it"):
    healed()
    poll(lambda: one_of(*NODES), "one holder", 30)

with subtest("two that stand by do not hear one another: nothing moves"):
    first = healed()
    cut(*others(first))
    client.sleep(8)
    assert holders(NODES) == [first]
    healed()

with subtest("a node that loses its power is still replaced at once"):
    first = holder()
    start_probe("power", reads=20)
    client.sleep(2)
    first.crash()
    served_since("power")
    seen = stop_probe("power")
    measured("holder without power", seen)
    first.start()
    wait_for_members(NODES, timeout=BOOT)
