# Every web tier is gone: the address stays, and whoever comes is told so, in the site's name and over TLS.

cluster_up()

with subtest("with every web tier stopped the address stays where it is"):
    node = holder()
    for machine in NODES:
        machine.succeed("systemctl stop trivet-web", timeout=60)
    poll(lambda: all(n.execute("curl -fsS -o /dev/null http://127.0.0.1:9611/healthz/backends")[0] != 0 for n in NODES), "no balancer has a web tier")
    for _second in range(12):
        client.sleep(1)
        assert holders(NODES) == [node], "the address has moved or vanished"

with subtest("visitors get a page, over TLS, and plain HTTP still sends them there"):
    answer = client.succeed(f"curl -sS -D - {SITE}/anything")
    head, _, page = answer.replace("\r", "").partition("\n\n")
    assert head.splitlines()[0].split()[1] == "503", head
    fields = {line.split(":", 1)[0].lower() for line in head.splitlines()[1:]}
    assert "retry-after" in fields and "<html" in page.lower(), answer
    assert client.succeed("curl -sS -o /dev/null -w '%{http_code}' http://www.foobar.com/").startswith("30")

with subtest("the first web tier that is back serves everyone"):
    last = others(node)[1]
    last.succeed("systemctl start trivet-web", timeout=60)
    poll(lambda: client.execute(f"curl -fsS -o /dev/null {SITE}/")[0] == 0, "the site is served", 30)
    for machine in NODES:
        machine.succeed("systemctl start trivet-web", timeout=60)
    for machine in NODES:
        machine.wait_until_succeeds("curl -fsS http://127.0.0.1:9611/healthz/backends", timeout=RECOVERY)
    poll(lambda: len(holders(NODES)) == 1, "one holder")
