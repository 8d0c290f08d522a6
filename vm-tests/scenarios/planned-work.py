# Planned work under writes: the primary moves on command, before its mysqld is restarted, and before its node reboots; nothing
# acknowledged is lost, and what is stopped is no longer the primary by then.

cluster_up()


def switched_by_itself(node, since):
    """The hand-over before a stop is in the journal of its unit."""
    return "is the primary now" in node.succeed(f"journalctl --unit=trivet-handover --since=@{since} --output=cat")


def seconds(node):
    return node.succeed("date +%s").strip()


with subtest("on command, from a node that is not concerned"):
    old = primary()
    target, third = others(old)
    start_probe("command", reads=20, writes=10)
    client.sleep(3)
    said = third.succeed(f"trivet switchover {target.name}")
    assert said.startswith(f"{target.name} is the primary now, after {old.name}"), said
    assert primary() is target
    acknowledged_since("command", len(probe_so_far("command")["acknowledged"]))
    client.sleep(2)
    seen = stop_probe("command")
    measured("switchover", seen, lost=nothing_lost(seen))

with subtest("what cannot be is refused, and nothing moves"):
    assert "is no member" in third.fail("trivet switchover node9 2>&1")
    assert primary() is target

with subtest("the primary's mysqld is restarted"):
    old = primary()
    since = seconds(old)
    start_probe("restart", reads=20, writes=10)
    client.sleep(3)
    old.succeed("systemctl restart mysql", timeout=120)
    assert switched_by_itself(old, since)
    assert primary() is not old
    wait_for_members(NODES)
    acknowledged_since("restart", len(probe_so_far("restart")["acknowledged"]))
    client.sleep(2)
    seen = stop_probe("restart")
    assert seen["writes"]["outage_over"] and seen["reads"]["outage_over"]
    measured("mysqld restarted", seen, lost=nothing_lost(seen))

with subtest("a keeper that is restarted moves nothing"):
    old = primary()
    old.succeed("systemctl restart trivet-keeper")
    old.wait_for_unit("trivet-keeper")
    wait_for_members(NODES)
    assert primary() is old

with subtest("the primary's node reboots"):
    old = primary()
    start_probe("reboot", reads=20, writes=10)
    client.sleep(3)
    old.shutdown()
    new = primary(others(old))
    acknowledged_since("reboot", len(probe_so_far("reboot")["acknowledged"]))
    old.start()
    wait_for_members(NODES, timeout=BOOT)
    assert primary() is new, "the role moved once, and not back"
    client.sleep(2)
    seen = stop_probe("reboot")
    assert seen["writes"]["outage_over"] and seen["reads"]["outage_over"]
    measured("primary's node rebooted", seen, lost=nothing_lost(seen))
    same_history()
