# The primary's node is cut off silently: the minority refuses writes, the majority takes over, healing repairs without help.

cluster_up()

INSERT = "INSERT INTO trivet.comments (article_id, author_id, body) SELECT id, author_id, 'written by a minority' FROM trivet.articles LIMIT 1"

with subtest("the primary's node is cut off under writes; the majority goes on"):
    lonely = primary()
    start_probe("cut", reads=20, writes=10)
    client.sleep(3)
    lonely.block()
    client.sleep(1)
    during = len(probe_so_far("cut")["acknowledged"])
    acknowledged_since("cut", during)
    assert primary(others(lonely)) is not lonely

with subtest("the minority refuses writes"):
    poll(lambda: try_sql(lonely, "SELECT @@super_read_only") == "1", "the minority is read-only", 60)
    lonely.fail(f"mysql --execute={shlex.quote(INSERT)}", timeout=60)

with subtest("nobody but the majority serves the address to the client"):
    served_since("cut")
    assert holders(others(lonely)), "the majority has no holder of the virtual address"

with subtest("healing repairs without help"):
    lonely.unblock()
    wait_for_members(NODES, timeout=BOOT)
    holder()
    served_since("cut")
    client.sleep(2)
    seen = stop_probe("cut")
    assert seen["writes"]["outage_over"] and seen["reads"]["outage_over"]

with subtest("a holder that hears no other node loses the address to one that does"):
    deaf = holder()
    start_probe("deaf", reads=20)
    deafen(deaf, *others(deaf))
    poll(lambda: holders(others(deaf)), "another node takes the address")
    served_since("deaf")

with subtest("healing leaves one holder, and it is not the one that was deaf"):
    hear_again(deaf)
    assert holder() is not deaf
    served_since("deaf")
    measured("holder deaf", stop_probe("deaf"))
    wait_for_members(NODES, timeout=BOOT)

with subtest("nothing acknowledged is lost, and nothing was written by the minority"):
    measured("primary cut off", seen, lost=nothing_lost(seen))
    same_history()
    for node in NODES:
        assert sql(node, "SELECT COUNT(*) FROM trivet.comments WHERE body = 'written by a minority'") == "0"
