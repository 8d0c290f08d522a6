# A site in maintenance says so on all balancers at once, over a failover and a restart, to everyone but administrators; then it opens by
# itself. Nothing is told to be down meanwhile.

cluster_up()


def seen(*options):
    """Status, Retry-After and content as a client sees them."""
    words = " ".join(options)
    out = client.succeed(f"curl -sS --max-time 10 {words} -w '\\n%{{http_code}} %header{{retry-after}}' {SITE}/")
    content, _, last = out.rpartition("\n")
    status, _, wait = last.partition(" ")
    return int(status), wait, content


def from_the_office():
    return seen(f"--interface {ADMIN_ADDRESS}")[0]


ordered_at = others(holder())[0]

with subtest("closed for all but administrators"):
    note(ordered_at.succeed(f"trivet maintenance on --until 1h --allow {ADMIN_ADDRESS}", timeout=30))
    status, wait, content = seen()
    assert status == 503, status
    assert 3500 < int(wait) <= 3600, wait
    assert "<html" in content.lower(), content[:200]
    assert from_the_office() == 200
    # Each balancer by itself.
    for address in ADDRESSES.values():
        assert seen(f"--resolve www.foobar.com:443:{address}")[0] == 503

with subtest("nothing is down, and it is told why visitors are turned away"):
    report = json.loads(ordered_at.succeed("trivet status --json"))
    assert report["verdict"] == "healthy", report["problems"]
    assert any("the site main is in maintenance until" in p["what"] for p in report["problems"]), report["problems"]

with subtest("it survives a failover and a restart"):
    dead = holder()
    dead.crash()
    poll(lambda: holders(others(dead)), "another node has the address", 30)
    poll(lambda: client.execute(f"curl -sS --max-time 3 -o /dev/null {SITE}/")[0] == 0, "it answers", 30)
    assert seen()[0] == 503
    assert from_the_office() == 200
    for node in others(dead):
        node.succeed("systemctl restart trivet-balancer", timeout=60)
    poll(lambda: client.execute(f"curl -sS --max-time 3 -o /dev/null {SITE}/")[0] == 0, "it answers", 60)
    assert seen()[0] == 503

with subtest("it ends by itself, also for the one that was off"):
    others(dead)[0].succeed("trivet maintenance on --until 20s", timeout=30)
    assert seen()[0] == 503
    dead.start()
    poll(lambda: seen()[0] == 200, "it is open", 60)
    wait_for_members(NODES)
    settled()
    for node in NODES:
        poll(lambda node=node: balancer_status(node)["orders"] == [], f"{node.name} has no orders left", 60)
    assert dead.execute("trivet maintenance off shop 2>/dev/null")[0] == 1
