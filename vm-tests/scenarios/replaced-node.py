# A node comes back with an empty disk, as a new machine in its place would: its member is cloned and joins without a hand, while
# the site goes on writing.

cluster_up()

with subtest("a replica's node loses its disk"):
    replaced = others(primary())[0]
    start_probe("replaced", reads=20, writes=10)
    client.sleep(2)
    replaced.succeed(
        "systemctl stop mysql trivet-keeper && "
        "find /var/lib/mysql /var/lib/trivet-keeper -mindepth 1 -delete && sync",
        timeout=120,
    )
    replaced.crash()
    acknowledged_since("replaced", len(probe_so_far("replaced")["acknowledged"]))

with subtest("it is cloned and joins by itself"):
    replaced.start()
    wait_for_members(NODES, timeout=BOOT)
    client.sleep(2)
    seen = stop_probe("replaced")
    assert seen["writes"]["outage_over"] and seen["reads"]["outage_over"]
    measured("node replaced", seen, lost=nothing_lost(seen))
    same_history()
    assert try_sql(replaced, "SELECT COUNT(*) FROM performance_schema.clone_status WHERE state = 'Completed'") == "1"
