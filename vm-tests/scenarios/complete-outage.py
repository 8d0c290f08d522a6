# All three nodes lose power under writes and boot in another order: the group re-forms by itself, nothing acknowledged is lost.

cluster_up()

with subtest("all nodes lose power at once, under writes"):
    start_probe("outage", reads=10, writes=20)
    client.sleep(4)
    for node in NODES:
        node.crash()
    client.sleep(2)
    before = len(probe_so_far("outage")["acknowledged"])
    assert before > 0

with subtest("a node alone does not go on without the others"):
    node3.start()
    node3.wait_for_unit("mysql", timeout=BOOT)
    node3.wait_for_unit("trivet-keeper", timeout=BOOT)
    client.sleep(5)
    assert try_sql(node3, "SELECT @@super_read_only") == "1", "a lone member takes writes"
    assert not members(node3) or members(node3).get(ADDRESSES["node3"], ("OFFLINE",))[0] != "ONLINE", members(node3)

with subtest("the others boot, and the group re-forms by itself"):
    node2.start()
    client.sleep(2)
    node1.start()
    wait_for_members(NODES, timeout=BOOT)
    acknowledged_since("outage", before, timeout=BOOT)
    client.sleep(2)
    seen = stop_probe("outage")
    assert seen["writes"]["outage_over"] and seen["reads"]["outage_over"]

with subtest("no acknowledged write is missing on any member"):
    measured("everything powered off", seen, lost=nothing_lost(seen))
    same_history()
