# The active balancer dies, then its whole node: the virtual address moves, the site answers, and a node that comes back does
# not disturb.

cluster_up()

with subtest("the active balancer's process is killed"):
    first = holder()
    start_probe("kill", reads=40)
    first.succeed("systemctl kill --kill-whom=main --signal=KILL trivet-balancer")
    second = poll(lambda: one(holders(others(first))), "another node takes the address")
    served_since("kill")
    seen = stop_probe("kill")
    measured("balancer killed", seen)
    assert seen["reads"]["outage_over"]

with subtest("the killed balancer runs again, and does not take the address back"):
    first.wait_for_unit("trivet-balancer", timeout=RECOVERY)
    client.sleep(2)
    assert holder() is second, f"{holder().name} holds the address, not {second.name}"



def comes_to_rest(seconds):
    """Who has the address over this time, as a list of changes."""
    changes: list[list[str]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        now = sorted(n.name for n in holders(NODES))
        if not changes or changes[-1] != now:
            changes.append(now)
        time.sleep(0.1)
    return changes


with subtest("the active balancer hangs: the address goes to another, once"):
    hung = holder()
    start_probe("hang", reads=40)
    hung.succeed("systemctl kill --kill-whom=main --signal=STOP trivet-balancer")
    successor = poll(lambda: one(holders(others(hung))), "another node takes the address")
    served_since("hang")
    changes = comes_to_rest(5)
    assert changes == [[successor.name]], changes
    hung.succeed("systemctl kill --kill-whom=main --signal=CONT trivet-balancer")
    changes = comes_to_rest(3)
    assert changes == [[successor.name]], changes
    measured("balancer hangs", stop_probe("hang"))
    hung.wait_for_unit("trivet-balancer", timeout=RECOVERY)

with subtest("the active balancer is starved: the address goes at most once, and the site answers"):
    starved = holder()
    start_probe("starved", reads=40, keepalive=4)
    # A hundredth of a core: less than what the probe asks of it.
    starved.succeed("systemctl set-property --runtime trivet-balancer.service CPUQuota=1%")
    changes = comes_to_rest(12)
    assert len([names for names in changes if len(names) == 1]) <= 2, changes
    served_since("starved")
    starved.succeed("systemctl set-property --runtime trivet-balancer.service CPUQuota=")
    changes = comes_to_rest(3)
    assert len(changes) == 1, changes
    measured("balancer starved", stop_probe("starved"))
    second = holder()

with subtest("the active node loses power"):
    start_probe("power", reads=40)
    second.crash()
    third = holder(others(second))
    served_since("power")
    seen = stop_probe("power")
    measured("node powered off", seen)
    assert seen["reads"]["outage_over"]

with subtest("the node comes back: no second outage"):
    start_probe("back", reads=40)
    second.start()
    second.wait_for_unit("trivet-balancer", timeout=BOOT)
    wait_for_members(NODES)
    client.sleep(3)
    seen = stop_probe("back")
    measured("node returns", seen)
    assert holder() is third, f"{holder().name} holds the address, not {third.name}"
    no_failures("node returns", seen, "reads")

with subtest("keepalived is killed on the active node"):
    start_probe("keepalived", reads=40)
    third.succeed("systemctl kill --kill-whom=main --signal=KILL keepalived")
    holder()
    served_since("keepalived")
    seen = stop_probe("keepalived")
    measured("keepalived killed", seen)
    assert seen["reads"]["outage_over"]

with subtest("the active balancer is stopped in order while requests wait in it: they are answered"):
    before = holder()
    start_probe("slow", writes=5, write_timeout=20)
    client.sleep(1)
    hold = "LOCK TABLES trivet.comments WRITE; DO SLEEP(5)"
    primary().succeed(f"systemd-run --quiet --collect --unit=hold mysql --execute='{hold}'")
    client.sleep(1)
    before.succeed("systemctl stop trivet-balancer")
    after = holder(others(before))
    acknowledged_since("slow", len(probe_so_far("slow")["acknowledged"]))
    seen = stop_probe("slow")
    measured("slow requests, balancer stopped in order", seen)
    assert seen["writes"]["p99"] > 3, "none had to wait"
    # One whose connection was just being opened; see below.
    lost = [r for r in seen["writes"]["first_problems"] if r["end"] - r["begin"] > 1]
    assert not lost and seen["writes"]["failed"] <= 2, seen["writes"]
    before.succeed("systemctl start trivet-balancer")
    before.wait_for_unit("trivet-balancer", timeout=RECOVERY)

# A TCP connection does not move between machines: what comes in on one in the instant in which the address moves is reset,
# and nothing else fails.
with subtest("the active balancer is stopped in order: only what is under way as the address moves can fail"):
    before = holder()
    start_probe("stopped", reads=40, keepalive=4)
    before.succeed("systemctl stop trivet-balancer")
    after = holder(others(before))
    client.sleep(1)
    seen = stop_probe("stopped")
    measured("balancer stopped in order", seen)
    for stream in ("reads", "keepalive"):
        failed = seen[stream]["first_problems"]
        assert len(failed) == seen[stream]["failed"], seen[stream]
        if failed:
            assert max(r["begin"] for r in failed) <= min(r["end"] for r in failed), seen[stream]
        assert seen[stream]["longest_outage"] < 0.5, seen[stream]
    before.succeed("systemctl start trivet-balancer")
    before.wait_for_unit("trivet-balancer", timeout=RECOVERY)
