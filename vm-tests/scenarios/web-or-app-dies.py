# Web, then app, dies on one node under load: no request fails, whichever node it is. Web dies on all of them: visitors are told.

cluster_up()


def under_load(label, act):
    start_probe("load", reads=20, keepalive=6, writes=5, paths=["/", "/robots.txt"])
    client.sleep(1)
    act()
    client.sleep(4)
    seen = stop_probe("load")
    measured(label, seen, lost=nothing_lost(seen))
    no_failures(label, seen, "reads", "keepalive", "writes")


def killed(node, unit):
    node.succeed(f"systemctl kill --kill-whom=main --signal=KILL {unit}")
    node.wait_for_unit(unit, timeout=RECOVERY)


def stopped(node, unit):
    node.succeed(f"systemctl stop {unit}")
    client.sleep(3)
    node.succeed(f"systemctl start {unit}")
    node.wait_for_unit(unit, timeout=RECOVERY)


active = holder()
passive = others(active)[0]

for node, where in ((passive, "a passive node"), (active, "the active node")):
    for unit, tier in (("trivet-web", "web"), ("trivet-app", "app")):
        with subtest(f"{tier} is killed on {where}"):
            under_load(f"{tier} killed on {where}", lambda node=node, unit=unit: killed(node, unit))

with subtest("web is stopped for a while, in order"):
    under_load("web stopped for 3 s", lambda: stopped(passive, "trivet-web"))

with subtest("app is stopped for a while, in order"):
    under_load("app stopped for 3 s", lambda: stopped(passive, "trivet-app"))

with subtest("web is stopped on all nodes: the address stays where it is, and visitors are told"):
    before = holder()
    for node in NODES:
        node.succeed("systemctl stop --no-block trivet-web")
    # Until every keepalived has found out, and the holder's has believed it.
    noticed = "read -r bad _ < /run/trivet-failover/has-backends && test $bad -gt 4"
    poll(lambda: all(node.execute(noticed)[0] == 0 for node in NODES), "every keepalived has noticed", 30)
    for _ in range(10):
        head = client.succeed(f"curl -sS --max-time 5 -D - -o /dev/null {SITE}/")
        assert " 503" in head.splitlines()[0] and "retry-after:" in head.lower(), head
    assert holder() is before, f"{holder().name} holds the address, not {before.name}"

with subtest("web runs again: visitors are served, by the same node"):
    for node in NODES:
        node.succeed("systemctl start --no-block trivet-web")
    site_answers(RECOVERY)
    assert holder() is before, f"{holder().name} holds the address, not {before.name}"
