# Balancer and database gateway are reloaded under load: with the same configuration ten times, with another one, with another
# binary, and with one that cannot serve. Nobody is refused and nothing in flight is cut off: requests of HTTP/1.1 and HTTP/2,
# WebSockets, downloads, uploads, sessions of the database.

cluster_up()

node = holder()
FOLDER = "/var/lib/trivet/www"
# The app has no WebSockets: these go to a back end on the client.
ECHO = {"backends": [{"name": "echo", "address": "10.77.0.100:9900"}], "health": {"path": "/"}}
TO_ECHO = {"path": "/socket", "pool": "echo"}


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


def transfers(version):
    """A download, and an upload to the app, each on a connection of its own and slow enough to outlast ten reloads: 40 s."""
    article = shlex.quote(json.dumps({"title": f"Slowly over {version}", "body": "word " * 8000}))
    client.succeed(f"printf %s {article} > /tmp/body.{version}")
    curl = f"curl -sS --{version} -w '%{{http_version}} %{{http_code}}"
    download = f"{curl} %{{size_download}}' --limit-rate 500k -o /tmp/large.{version} {SITE}/large.bin"
    upload = (
        f"{curl} %{{size_upload}}' --limit-rate 1k -o /dev/null -H 'Authorization: Bearer {token}' -H 'Expect:' "
        f"--json @/tmp/body.{version} {SITE}/api/articles"
    )
    for name, command in ((f"downloaded.{version}", download), (f"uploaded.{version}", upload)):
        client.succeed(f"({command} > /tmp/{name} 2>&1; touch /tmp/{name}.over) > /dev/null 2>&1 &")


def came_to_its_end(name):
    client.wait_for_file(f"/tmp/{name}.over", timeout=180)
    return client.succeed(f"cat /tmp/{name}")


def balancer_config(*routes):
    """Writes /opt/new/balancer.json: the node's own, with a pool of WebSockets, and these routes."""
    added = json.dumps({"routes": list(routes), "pools": {"echo": ECHO}})
    node.succeed(f"jq {shlex.quote(f'. * {added}')} /etc/trivet/balancer.json > /opt/new/balancer.json")


def program_of(unit):
    return node.succeed(f"readlink /proc/{main_process(unit)}/exe").strip()


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

with subtest("WebSockets have a back end"):
    client.succeed("(trivet-probe echo 9900 > /dev/null 2>&1 &)")
    client.wait_until_succeeds("curl -fsS -o /dev/null http://127.0.0.1:9900/", timeout=30)
    program = program_of("trivet-balancer")
    node.succeed("mkdir -p /opt/new")
    balancer_config(TO_ECHO)
    unit_runs("trivet-balancer", program, "/opt/new/balancer.json")
    reloads()

with subtest("in flight: requests, WebSockets, downloads, uploads, sessions of the database"):
    client.succeed("rm -f /tmp/downloaded* /tmp/uploaded* /tmp/large* /tmp/body* /tmp/http2*")
    start_probe("reload", reads=20, keepalive=4, writes=5, sockets=2)
    # A connection for 200 requests one after the other, or until it is told GOAWAY.
    http2 = f"curl -sS --http2 --rate 20/s -o /dev/null -w '%{{http_version}} %{{http_code}} %{{num_connects}}\\n' '{SITE}/?n=[1-200]'"
    client.succeed(
        f"(while [ ! -e /tmp/http2.stop ]; do {http2} >> /tmp/http2 2>> /tmp/http2.problems || true; done; touch /tmp/http2.over) "
        "> /dev/null 2>&1 &"
    )
    login = shlex.quote(json.dumps({"name": USER, "password": PASSWORD}))
    token = json.loads(client.succeed(f"curl -fsS {SITE}/api/login --json {login}"))["token"]
    transfers("http1.1")
    transfers("http2")
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
    # A session that asks all the time, and one new session after the other.
    sessions = (
        "exec 2> /run/sessions.problems\n"
        "set -a; . /var/lib/trivet/secrets/app.env; url=${DATABASE_WRITE_URL#mysql://}; MYSQL_PWD=${url#*:}; MYSQL_PWD=${MYSQL_PWD%@*}\n"
        "ask() { mysql --host=127.0.0.1 --port=6446 --user=${url%%:*} --batch --skip-column-names; }\n"
        "(while [ ! -e /run/sessions.stop ]; do echo 'SELECT CONNECTION_ID();'; sleep 0.2; done | ask > /run/sessions.kept\n"
        " echo $? >> /run/sessions.kept) &\n"
        "while [ ! -e /run/sessions.stop ]; do echo 'SELECT 1;' | ask || echo failed; sleep 0.2; done > /run/sessions.new\n"
        "wait\n"
    )
    node.succeed(f"rm -f /run/sessions.* && cat > /run/sessions.sh <<'EOF'\n{sessions}EOF")
    node.succeed('systemd-run --quiet --unit=sessions --setenv=PATH="$PATH" bash /run/sessions.sh')
    poll(lambda: node.execute("grep -qx 1 /run/sessions.new")[0] == 0, "sessions of the database are served")
    first = main_process()

with subtest("ten reloads"):
    for _number in range(10):
        reloads()
        time.sleep(0.3)
    now = balancer_status(node)
    assert now["pid"] == main_process()
    draining = poll(lambda: {one["pid"]: one["connections"] for one in balancer_status(node)["draining"] if one["connections"]}, "they report")
    note(f"after ten reloads: {draining}")
    assert draining.get(first, 0) >= 6, f"downloads, uploads and WebSockets live on in {first}: {draining}"

with subtest("ten reloads of the gateway"):
    for _number in range(10):
        reloads("trivet-gateway")
    node.succeed("echo go > /run/session")
    poll(lambda: "answered" in session_said(), "the session is where it was", 30)

with subtest("another configuration, and another binary"):
    for name in ("trivet-balancer", "trivet-gateway"):
        node.succeed(f"cp {program} /opt/new/{name}")
    balancer_config(TO_ECHO, {"path": "/new", "answer": {"content": "new"}})
    unit_runs("trivet-balancer", "/opt/new/trivet-balancer", "/opt/new/balancer.json")
    pid = reloads()
    assert program_of("trivet-balancer") == "/opt/new/trivet-balancer"
    assert client.succeed(f"curl -fsS {SITE}/new") == "new"
    node.succeed("jq '.drain_timeout = \"50m\"' /etc/trivet/gateway.json > /opt/new/gateway.json")
    unit_runs("trivet-gateway", "/opt/new/trivet-gateway", "/opt/new/gateway.json")
    gateway = reloads("trivet-gateway")
    assert program_of("trivet-gateway") == "/opt/new/trivet-gateway"

with subtest("one that cannot serve leaves the one that runs alone"):
    node.succeed("echo '{\"no_such_key\": 1}' > /opt/new/broken.json")
    unit_runs("trivet-balancer", "/opt/new/trivet-balancer", "/opt/new/broken.json")
    node.fail("systemctl reload trivet-balancer")
    assert main_process() == pid
    said = node.succeed("journalctl --unit=trivet-balancer --output=cat --lines=30")
    assert "no_such_key" in said and "the process that runs goes on" in said, said
    assert client.succeed(f"curl -fsS {SITE}/new") == "new"
    unit_runs("trivet-balancer", "/opt/new/trivet-balancer", "/opt/new/balancer.json")
    unit_runs("trivet-gateway", "/opt/new/trivet-gateway", "/opt/new/broken.json")
    node.fail("systemctl reload trivet-gateway")
    assert main_process("trivet-gateway") == gateway
    unit_runs("trivet-gateway", "/opt/new/trivet-gateway", "/opt/new/gateway.json")

with subtest("what was in flight has come to its end, and nothing failed"):
    for version, number in (("http1.1", "1.1"), ("http2", "2")):
        downloaded = came_to_its_end(f"downloaded.{version}")
        assert downloaded == f"{number} 200 20000000", downloaded
        uploaded = came_to_its_end(f"uploaded.{version}")
        spoken, status, sent = uploaded.split()
        assert (spoken, status) == (number, "201") and int(sent) > 40000, uploaded
    client.succeed("touch /tmp/http2.stop")
    asked = came_to_its_end("http2").splitlines()
    problems = client.succeed("cat /tmp/http2.problems")
    failed = [line for line in asked if not line.startswith("2 200 ")]
    opened = sum(int(line.split()[2]) for line in asked)
    note(f"HTTP/2: {len(failed)} of {len(asked)} requests failed, {opened} connections")
    assert not failed and not problems, f"{failed} {problems}"
    seen = stop_probe("reload")
    measured("reloaded", seen, lost=nothing_lost(seen), http2={"requests": len(asked), "failed": len(failed), "connections": opened})
    no_failures("reloaded", seen, "reads", "keepalive", "writes", "sockets")
    node.succeed("touch /run/sessions.stop")
    poll(lambda: node.execute("systemctl is-active --quiet sessions")[0] != 0, "the sessions end", 30)
    kept, new = (node.succeed(f"cat /run/sessions.{name}").splitlines() for name in ("kept", "new"))
    note(f"sessions of the database: {len(kept) - 1} statements in one, {len(new)} new ones")
    said = node.succeed("cat /run/sessions.problems")
    assert len(set(kept[:-1])) == 1 and kept[-1] == "0", f"one session throughout: {sorted(set(kept))} {said}"
    assert set(new) == {"1"}, f"every new session is served: {sorted(set(new))} {said}"
    assert holder() is node, "the address has not moved"

with subtest("processes do not pile up"):
    poll(lambda: not balancer_status(node)["draining"], "those before have finished", 90)
    processes = node.succeed("systemctl show -p TasksCurrent --value trivet-balancer; pgrep --count -f /opt/new/trivet-balancer").split()
    assert processes[-1] == "1", processes

with subtest("the main process is still systemd's to watch: killed, it is started anew"):
    node.succeed(f"kill -KILL {main_process()}")
    poll(lambda: main_process() not in (0, pid), "another main process", 30)
    poll(lambda: node.execute("curl -fsS -o /dev/null http://127.0.0.1:9611/healthz")[0] == 0, "which serves", 30)
    node.succeed("rm -r /run/systemd/system/trivet-{balancer,gateway}.service.d && systemctl daemon-reload")
    node.succeed("systemctl restart trivet-balancer trivet-gateway")
