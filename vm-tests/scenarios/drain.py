# A node is drained for planned work: its requests, its reads of the database and the virtual address go elsewhere, and nothing fails.
# It stays so over a restart, and a balancer that was away learns of it. Then the address is moved to and fro by command.

cluster_up()


def orders(node):
    return [order["about"] for order in balancer_status(node)["orders"]]


def in_use(node, name):
    """Whether this node's balancer and gateway use the back ends of the node of that name."""
    used = {b["name"]: b["usable"] for b in balancer_status(node)["backends"]}
    listen = json.loads(node.succeed("cat /etc/trivet/gateway.json"))["metrics"]["listen"]
    gateway = json.loads(node.succeed(f"curl -fsS http://{listen}/status"))["database"]
    readers = {b["name"]: not b["drained"] for b in gateway["read"]}
    return used[name], readers[name]


drained = holder()
rest = others(drained)
name = drained.name

with subtest("the holder of the address is drained, and nothing fails"):
    start_probe("drained", reads=20, keepalive=4, writes=5)
    client.sleep(2)
    status, said = rest[0].execute(f"trivet drain {name} --wait=60s 2>&1", timeout=90)
    note(said)
    if status != 0:
        for node in NODES:
            note(node.execute("trivet sessions")[1])
    assert status == 0, said
    assert "not told" not in said, said
    assert holder() is not drained or poll(lambda: holder() is not drained, "the address has moved", 15)
    for node in NODES:
        assert in_use(node, name) == (False, False), node.name
    client.sleep(3)
    seen = stop_probe("drained")
    measured("drain of the holder", seen)
    for stream in ("reads", "keepalive"):
        assert seen[stream]["failed"] == 0, seen[stream]

with subtest("what is drained is told, and is no fault"):
    status = json.loads(rest[0].succeed("trivet status --json"))
    assert status["verdict"] == "healthy", status["problems"]
    assert any(f"{name} is drained" in p["what"] for p in status["problems"]), status["problems"]

with subtest("it stays drained over a restart of everything that serves"):
    for node in NODES:
        node.succeed("systemctl restart trivet-balancer trivet-gateway", timeout=60)
    site_answers()
    for node in NODES:
        poll(lambda node=node: in_use(node, name) == (False, False), f"{node.name} knows it still", 30)

with subtest("one that was away learns that it is ready again"):
    away = rest[1]
    away.succeed("systemctl stop trivet-balancer", timeout=60)
    said = rest[0].succeed(f"trivet ready {name}", timeout=30)
    assert f"not told: balancer of {away.name}" in said, said
    away.succeed("systemctl start trivet-balancer", timeout=60)
    poll(lambda: orders(away) == [], "it has learnt of it", 30)
    for node in NODES:
        poll(lambda node=node: in_use(node, name)[0], f"{node.name} uses it", 30)

with subtest("the address moves by command, and nothing fails"):
    settled()
    start_probe("moved", reads=20, keepalive=4)
    client.sleep(1)
    for target in (drained, rest[0], drained):
        if holder() is target:
            continue
        note(rest[1].succeed(f"trivet failover {target.name}", timeout=60))
        assert holder() is target
    note(rest[1].succeed("trivet failover", timeout=60))
    assert holder() is not drained
    client.sleep(2)
    seen = stop_probe("moved")
    measured("failover by command", seen)
    assert seen["reads"]["failed"] == 0, seen["reads"]

with subtest("what is not there changes nothing"):
    status, said = rest[0].execute(f"trivet drain {name}x 2>&1")
    assert status == 1 and f"did you mean {name}?" in said, said
    assert rest[0].execute("trivet failover nowhere 2>/dev/null")[0] == 1
    # Where the address is to be is over by itself.
    assert all(set(orders(node)) <= {"addresses"} for node in NODES)
