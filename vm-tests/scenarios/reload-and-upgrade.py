# Balancer and database gateway are reloaded under load: with the same configuration ten times, with another one, with another
# binary, and with one that cannot serve. Nobody is refused and nothing in flight is cut off.

cluster_up()

node = holder()
FOLDER = "/var/lib/trivet/www"


def main_process(unit="trivet-balancer"):
    return int(node.succeed(f"systemctl show -p MainPID --value {unit}"))


def reloads(unit="trivet-balancer"):
    before = main_process(unit)
    node.succeed(f"systemctl reload {unit}", timeout=60)
    after = main_process(unit)
    assert after != before, f"{unit}: {before} is still the main process"
    assert node.succeed(f"systemctl is-active {unit}").strip() == "active"
    return after


def session_said():
    return node.succeed("journalctl --unit=session --output=cat").splitlines()


def unit_runs(unit, program, config):
    """As a switch to another configuration or package leaves the unit: what runs is another than what the file says."""
    node.succeed(
        f"mkdir -p /run/systemd/system/{unit}.service.d && cat > /run/systemd/system/{unit}.service.d/switched.conf <<'EOF'\n"
        f"[Service]\nExecStart=\nExecStart={program} --config {config}\nExecReload=\nExecReload={program} --config {config} --reload\nEOF\n"
        "systemctl daemon-reload"
    )


with subtest("there is something to download for a while"):
    for machine in NODES:
        machine.succeed(f"mkdir -p {FOLDER} && head -c 20000000 /dev/urandom > {FOLDER}/large.bin && systemctl reload trivet-web")

with subtest("in flight: a download, an upload, a session of the database"):
    start_probe("reload", reads=20, keepalive=4, writes=5)
    client.succeed("rm -f /tmp/downloaded* /tmp/uploaded* /tmp/large /tmp/body")
    download = f"curl -sS --limit-rate 700k -o /tmp/large -w '%{{http_code}} %{{size_download}}' {SITE}/large.bin"
    client.succeed(f"({download} > /tmp/downloaded 2>&1; touch /tmp/downloaded.over) > /dev/null 2>&1 &")
    login = shlex.quote(json.dumps({"name": USER, "password": PASSWORD}))
    token = json.loads(client.succeed(f"curl -fsS {SITE}/api/login --json {login}"))["token"]
    article = shlex.quote(json.dumps({"title": "Slowly", "body": "word " * 8000}))
    client.succeed(f"printf %s {article} > /tmp/body")
    client.succeed(
        f"(curl -sS --limit-rate 2k -o /dev/null -w '%{{http_code}} %{{size_upload}}' -H 'Authorization: Bearer {token}' "
        f"-H 'Expect:' --json @/tmp/body {SITE}/api/articles > /tmp/uploaded 2>&1; touch /tmp/uploaded.over) > /dev/null 2>&1 &"
    )
    # Greeted by mysqld, it says nothing until it is told to. Then mysqld answers, in its way: that was no login.
    session = (
        "exec 3<>/dev/tcp/127.0.0.1/6446\n"
        "read -r -N 1 -u 3 && echo greeted\n"
        "read -r go < /run/session\n"
        "printf '\\1\\0\\0\\1x' >&3\n"
        "read -r -t 20 -N 30 -u 3; read -r -t 20 -N 9 -u 3 && echo answered\n"
    )
    node.succeed(f"rm -f /run/session && mkfifo /run/session && cat > /run/session.sh <<'EOF'\n{session}EOF")
    node.succeed("systemd-run --quiet --unit=session bash /run/session.sh")
    poll(lambda: "greeted" in session_said(), "a session is open")
    first = main_process()

with subtest("ten reloads"):
    for _number in range(10):
        reloads()
        time.sleep(0.3)
    now = balancer_status(node)
    assert now["pid"] == main_process()
    draining = poll(lambda: {one["pid"]: one["connections"] for one in balancer_status(node)["draining"] if one["connections"]}, "they report")
    note(f"after ten reloads: {draining}")
    assert draining.get(first, 0) >= 2, f"download and upload live on in {first}: {draining}"

with subtest("ten reloads of the gateway"):
    for _number in range(10):
        reloads("trivet-gateway")
    node.succeed("echo go > /run/session")
    poll(lambda: "answered" in session_said(), "the session is where it was", 30)

with subtest("another configuration, and another binary"):
    program = node.succeed("readlink -f /proc/$(systemctl show -p MainPID --value trivet-balancer)/exe").strip()
    node.succeed(f"mkdir -p /opt/new && cp {program} /opt/new/trivet-balancer")
    route = '{"path": "/new", "answer": {"content": "new"}}'
    node.succeed(f"jq '.routes = [{route}]' /etc/trivet/balancer.json > /opt/new/balancer.json")
    unit_runs("trivet-balancer", "/opt/new/trivet-balancer", "/opt/new/balancer.json")
    pid = reloads()
    assert node.succeed(f"readlink /proc/{pid}/exe").strip() == "/opt/new/trivet-balancer"
    assert client.succeed(f"curl -fsS {SITE}/new") == "new"

with subtest("one that cannot serve leaves the one that runs alone"):
    node.succeed("echo '{\"no_such_key\": 1}' > /opt/new/broken.json")
    unit_runs("trivet-balancer", "/opt/new/trivet-balancer", "/opt/new/broken.json")
    node.fail("systemctl reload trivet-balancer")
    assert main_process() == pid
    said = node.succeed("journalctl --unit=trivet-balancer --output=cat --lines=30")
    assert "no_such_key" in said and "the process that runs goes on" in said, said
    assert client.succeed(f"curl -fsS {SITE}/new") == "new"
    unit_runs("trivet-balancer", "/opt/new/trivet-balancer", "/opt/new/balancer.json")

with subtest("what was in flight has come to its end, and nothing failed"):
    client.wait_for_file("/tmp/downloaded.over", timeout=120)
    client.wait_for_file("/tmp/uploaded.over", timeout=120)
    downloaded = client.succeed("cat /tmp/downloaded")
    assert downloaded == "200 20000000", downloaded
    uploaded, sent = client.succeed("cat /tmp/uploaded").split()
    assert uploaded == "201" and int(sent) > 40000, f"{uploaded}, {sent} octets"
    seen = stop_probe("reload")
    measured("reloaded", seen, lost=nothing_lost(seen))
    no_failures("reloaded", seen, "reads", "keepalive", "writes")
    assert holder() is node, "the address has not moved"

with subtest("processes do not pile up"):
    poll(lambda: not balancer_status(node)["draining"], "those before have finished", 90)
    processes = node.succeed("systemctl show -p TasksCurrent --value trivet-balancer; pgrep --count -f /opt/new/trivet-balancer").split()
    assert processes[-1] == "1", processes

with subtest("the main process is still systemd's to watch: killed, it is started anew"):
    node.succeed(f"kill -KILL {main_process()}")
    poll(lambda: main_process() not in (0, pid), "another main process", 30)
    poll(lambda: node.execute("curl -fsS -o /dev/null http://127.0.0.1:9611/healthz")[0] == 0, "which serves", 30)
    node.succeed("rm -r /run/systemd/system/trivet-balancer.service.d && systemctl daemon-reload && systemctl restart trivet-balancer")
