# The primary's node loses power under writes: writes come back by themselves, nothing acknowledged is lost on any member, and
# the node rejoins by itself.

cluster_up()

with subtest("the primary's node loses power under writes"):
    dead = primary()
    start_probe("primary", reads=20, writes=10)
    client.sleep(3)
    before = len(probe_so_far("primary")["acknowledged"])
    assert before > 0
    dead.crash()
    client.sleep(1)
    during = len(probe_so_far("primary")["acknowledged"])
    acknowledged_since("primary", during)
    client.sleep(3)

with subtest("the others have a new primary"):
    assert primary(others(dead)) is not dead
    wait_for_members(others(dead))

with subtest("the node comes back and rejoins by itself, under writes"):
    dead.start()
    wait_for_members(NODES, timeout=BOOT)
    client.sleep(2)
    seen = stop_probe("primary")
    assert seen["writes"]["outage_over"] and seen["reads"]["outage_over"]

with subtest("no acknowledged write is missing on any member"):
    measured("primary powered off", seen, lost=nothing_lost(seen))
    same_history()
