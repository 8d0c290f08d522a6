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
