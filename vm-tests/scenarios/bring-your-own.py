# Another app in the reference site's place: a guestbook in Python with its usual MySQL driver, which knows two database addresses
# and nothing of the cluster. It is served, reads its own writes, and waits out a failover like the reference site.
# app: guestbook

import uuid

start_all()
site_answers()
wait_for_members(NODES)
poll(lambda: holders(NODES), "a node holds the virtual address")
for node in NODES:
    node.wait_until_succeeds("curl -fsS http://127.0.0.1:8081/healthz", timeout=RECOVERY)


def write(text, patience=30):
    """Status and the set that the write is in."""
    body = shlex.quote(json.dumps({"name": "visitor", "text": text}))
    said = client.succeed(
        f"curl -sS --max-time {patience} -D - -o /dev/null --json {body} -H 'Idempotency-Key: {uuid.uuid4()}' {SITE}/entries || true",
        timeout=patience + 10,
    )
    lines = said.splitlines()
    seen = next((line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("guestbook-seen:")), "")
    return (int(lines[0].split()[1]) if lines else 0), seen


def texts(seen=""):
    said = client.succeed(f"curl -fsS --max-time 30 -H {shlex.quote('Guestbook-Seen: ' + seen)} {SITE}/entries", timeout=40)
    return [entry["text"] for entry in json.loads(said)["entries"]]


with subtest("a page, a write, and the write on the next read, wherever that is answered"):
    assert "Guestbook" in client.succeed(f"curl -fsS {SITE}/")
    for number in range(10):
        status, seen = write(f"hello {number}")
        assert status == 201, status
        assert f"hello {number}" in texts(seen), f"hello {number} is not to be seen by who wrote it"

with subtest("a key that is sent twice writes once"):
    body = shlex.quote(json.dumps({"name": "visitor", "text": "once"}))
    for _ in range(2):
        client.succeed(f"curl -fsS --json {body} -H 'Idempotency-Key: the-same' {SITE}/entries")
    assert sql(primary(), "SELECT COUNT(*) FROM trivet.guestbook WHERE text = 'once'") == "1"

with subtest("the primary's node loses power under writes: slow answers, none failed, none lost, none twice"):
    if primary() is holder():
        target = others(holder())[0]
        target.succeed(f"trivet switchover {target.name}", timeout=60)
    dead = primary()
    # Four a second for ten seconds, whatever becomes of those before.
    client.succeed(
        "rm -rf /tmp/failover && mkdir /tmp/failover && (for n in $(seq 0 39); do "
        "curl -sS --max-time 40 -o /dev/null -w '%{http_code}' --json '{\"name\": \"visitor\", \"text\": \"failover '$n'\"}' "
        f"-H \"Idempotency-Key: failover-$n\" {SITE}/entries > /tmp/failover/$n 2>&1 & sleep 0.25; done; wait; touch /tmp/failover/done) "
        "> /dev/null 2>&1 &"
    )
    client.sleep(1)
    dead.crash()
    client.wait_for_file("/tmp/failover/done", timeout=90)
    statuses = client.succeed("cd /tmp/failover && for n in $(seq 0 39); do cat $n; echo; done").split()
    assert statuses == ["201"] * 40, f"some writes failed: {statuses}"
    rows = sql(primary(others(dead)), "SELECT text FROM trivet.guestbook WHERE text LIKE 'failover %'").splitlines()
    assert sorted(rows) == sorted(f"failover {n}" for n in range(40)), f"lost or twice: {rows}"

with subtest("it stops in order: what was begun is finished"):
    node = others(dead)[0]
    node.succeed("systemctl restart trivet-app", timeout=60)
    node.wait_until_succeeds("curl -fsS http://127.0.0.1:8081/healthz", timeout=RECOVERY)
    assert node.succeed("systemctl show -p Result --value trivet-app").strip() == "success"
