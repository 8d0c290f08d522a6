# The primary's node loses power, and the primary moves in order, under a write load: users see slow answers. No write fails, none
# is lost, none is done twice.

cluster_up()

# A request that is inside a balancer which loses its power can be answered by nobody (balancer-dies). So the two are apart here.
with subtest("the primary is not where the virtual address is"):
    if primary() is holder():
        target = others(holder())[0]
        target.succeed(f"trivet switchover {target.name}", timeout=60)
        poll(lambda: primary() is target, "the primary has moved")


def under_load(label, act, settle):
    start_probe(label, reads=20, writes=10, write_timeout=30)
    client.sleep(3)
    act()
    before = len(probe_so_far(label)["acknowledged"])
    acknowledged_since(label, before)
    client.sleep(settle)
    return stop_probe(label)


def done_once(label, seen):
    body = f"LIKE 'probe {label} %'"
    twice = sql(primary(), f"SELECT body FROM trivet.comments WHERE body {body} GROUP BY body HAVING COUNT(*) > 1").splitlines()
    assert not twice, f"{label}: done twice: {twice}"


with subtest("the primary moves in order"):
    before = primary()
    target = one([n for n in others(before) if n is not holder()])
    seen = under_load("planned", lambda: target.succeed(f"trivet switchover {target.name}", timeout=60), 2)
    assert primary() is target
    measured("primary moved in order", seen, lost=nothing_lost(seen))
    no_failures("primary moved in order", seen, "writes", "reads")
    done_once("planned", seen)

with subtest("the primary's node loses power"):
    dead = primary()
    seen = under_load("unplanned", dead.crash, 3)
    assert primary(others(dead)) is not dead
    measured("primary's node powered off", seen, lost=nothing_lost(seen, others(dead)))
    no_failures("primary's node powered off", seen, "writes")

with subtest("the node comes back: everything is there, once"):
    dead.start()
    wait_for_members(NODES, timeout=BOOT)
    nothing_lost(seen)
    done_once("unplanned", seen)
    same_history()
