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

with subtest("a gateway that is restarted refuses nobody"):
    node = NODES[0]
    # Each waits for the first octet of MySQL's greeting: it was let in, and served.
    connects = (
        "until [ -e /run/connects.over ]; do\n"
        "  (exec 3<>/dev/tcp/127.0.0.1/6446 && read -r -t 20 -N 1 -u 3) && echo served || echo refused\n"
        "  sleep 0.02\n"
        "done\n"
    )
    node.succeed(f"rm -f /run/connects.over && cat > /run/connects <<'EOF'\n{connects}EOF")
    node.succeed("systemd-run --quiet --unit=connects bash /run/connects")
    for _ in range(3):
        client.sleep(1)
        node.succeed("systemctl restart trivet-gateway", timeout=60)
    client.sleep(1)
    node.succeed("touch /run/connects.over")
    poll(lambda: node.execute("systemctl is-active --quiet connects")[0] != 0, "the last has connected")
    said = node.succeed("journalctl --unit=connects --output=cat")
    note(f"a gateway restarted three times: {said.count('served')} connections, {said.count('refused')} refused")
    assert "served" in said and "refused" not in said, said
    # Stopped on purpose it is by its sockets.
    node.succeed("systemctl stop trivet-gateway.socket")
    node.fail("systemctl is-active trivet-gateway.service")
    node.succeed("systemctl start trivet-gateway.service")
    node.wait_for_unit("trivet-gateway.socket")

with subtest("another configuration of keepalived moves no address"):
    first = holder()
    since = seconds(first)
    file = "/etc/keepalived/keepalived.conf"
    start_probe("keepalived", reads=20)
    # As a switch leaves it: another file under the same name.
    first.succeed(f"sed 's/vrrp_garp_master_refresh 10/vrrp_garp_master_refresh 11/' {file} > /run/keepalived.conf")
    first.succeed(f"! cmp -s /run/keepalived.conf {file} && cp --remove-destination /run/keepalived.conf {file}")
    pid = first.succeed("systemctl show -p MainPID --value keepalived")
    first.succeed("systemctl reload keepalived")
    journal = f"journalctl --unit=keepalived --since=@{since} --output=cat"
    poll(lambda: "Reloading" in first.succeed(journal), "keepalived has read it", 30)
    client.sleep(5)
    assert holder() is first, "the address stays"
    assert first.succeed("systemctl show -p MainPID --value keepalived") == pid
    said = first.succeed(journal)
    assert "BACKUP STATE" not in said and "FAULT STATE" not in said, said
    seen = stop_probe("keepalived")
    measured("keepalived reloaded", seen)
    no_failures("keepalived reloaded", seen, "reads")

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
