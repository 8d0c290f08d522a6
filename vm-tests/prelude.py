# What every scenario starts with. Both drivers run it before the scenario, with the same symbols: the NixOS test driver
# (default.nix) and the lab (lab/scenarios.py). Only the driver's own methods are used here.

import json
import shlex
import time

SITE = "https://www.foobar.com"
VIRTUAL_ADDRESS = "10.77.0.50"
# An address of the client that the cluster counts as an administrator's.
ADMIN_ADDRESS = "10.77.0.200"
NODES = [node1, node2, node3]
ADDRESSES = {"node1": "10.77.0.11", "node2": "10.77.0.12", "node3": "10.77.0.13"}
USER, PASSWORD = "probe", "correct horse battery staple"

# What the machines are given for things that take seconds when all is well. Nothing is measured by these.
BOOT = 180
RECOVERY = 120


def note(text):
    log.log(text)


def poll(question, what, timeout=RECOVERY, pause=0.2):
    """Ask until the answer is true; the answer. (The driver's own retry pauses for a second.)"""
    began = time.monotonic()
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() - began > timeout:
            raise Exception(f"{what}: not within {timeout} s")
        time.sleep(pause)


# --- the site, as a user sees it ---------------------------------------------------------------------------------


def site_answers(timeout=BOOT):
    poll(lambda: client.execute(f"curl -fsS --max-time 3 -o /dev/null {SITE}/")[0] == 0, "the site answers", timeout)


def cluster_up():
    """All machines on, the site answering, all three members of the database ONLINE, a user who may write."""
    start_all()
    site_answers()
    wait_for_members(NODES)
    make_user()
    settled()


def settled():
    """Every program of every node ready, so that a fault meets a whole cluster and not a starting one."""
    for node in NODES:
        for unit in ("keepalived", "mysql", "trivet-balancer", "trivet-gateway", "trivet-web", "trivet-app", "trivet-keeper"):
            node.wait_for_unit(unit, timeout=RECOVERY)
    poll(lambda: holders(NODES), "a node holds the virtual address")
    # A keeper tells of a member that has just joined a moment after the member itself does, and a balancer after its next check.
    node1.wait_until_succeeds("trivet status", timeout=RECOVERY)


def make_user():
    program = "trivet-app --config /etc/trivet/app.json --env-file /var/lib/trivet/secrets/app.env"
    node1.wait_until_succeeds(f"printf %s {shlex.quote(PASSWORD)} | {program} user add {USER}", timeout=60)


def balancer_status(node):
    """What this node's balancer says of itself."""
    metrics = json.loads(node.succeed("cat /etc/trivet/balancer.json"))["metrics"]["listen"]
    return json.loads(node.succeed(f"curl -fsS http://{metrics}/status"))


def holders(nodes):
    """The nodes that have the virtual address on an interface; on the loopback interface all have it."""
    return [n for n in nodes if n.execute(f"ip -o address show to {VIRTUAL_ADDRESS} | grep -qvw lo")[0] == 0]


def holder(nodes=None):
    """The one node that has the virtual address."""
    return poll(lambda: one(holders(nodes or NODES)), "exactly one node holds the virtual address")


def one(found):
    return found[0] if len(found) == 1 else None


# A whole node is cut at the switch. One pair, or one direction, is cut by a node that drops what comes in: for the network
# that is the same, a packet that was sent and does not arrive. The priority puts it before the node's own firewall.


def deafen(node, *to):
    """The node hears nothing of these others."""
    addresses = ", ".join(ADDRESSES[o.name] for o in to)
    node.succeed(f"nft 'table ip deaf {{ chain hear {{ type filter hook input priority -400; ip saddr {{ {addresses} }} drop; }}; }}'",
                 timeout=30)


def hear_again(node):
    node.execute("nft delete table ip deaf 2>/dev/null", timeout=30)


# --- the database, as its administrator sees it ------------------------------------------------------------------


def sql(node, statement, timeout=60):
    return node.succeed(f"mysql --batch --skip-column-names --execute={shlex.quote(statement)}", timeout=timeout).strip()


def try_sql(node, statement, timeout=15):
    status, out = node.execute(f"mysql --batch --skip-column-names --execute={shlex.quote(statement)} 2>/dev/null", timeout=timeout)
    return out.strip() if status == 0 else None


MEMBERS = "SELECT member_host, member_state, member_role FROM performance_schema.replication_group_members ORDER BY member_host"


def members(node):
    """The group as this member sees it: address → (state, role)."""
    rows = [line.split("\t") for line in (try_sql(node, MEMBERS) or "").splitlines()]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def wait_for_members(nodes, timeout=RECOVERY):
    """Until each of these nodes sees exactly these nodes ONLINE."""
    wanted = {ADDRESSES[n.name] for n in nodes}

    def whole():
        views = [members(n) for n in nodes]
        return all(set(v) == wanted and all(state == "ONLINE" for state, _ in v.values()) for v in views)

    poll(whole, f"{', '.join(n.name for n in nodes)} are ONLINE together", timeout, 0.5)


def primary(nodes=None):
    """The node that these nodes call their primary, and that takes writes."""
    among = nodes or NODES

    def agreed():
        views = [members(n) for n in among]
        named = {address for v in views for address, (state, role) in v.items() if (state, role) == ("ONLINE", "PRIMARY")}
        found = [n for n in among if ADDRESSES[n.name] in named]
        if len(named) != 1 or not found or not all(views):
            return None
        return found[0] if try_sql(found[0], "SELECT @@super_read_only") == "0" else None

    return poll(agreed, "the members agree on one writable primary")


def others(node):
    return [n for n in NODES if n is not node]


# --- the continuous client ---------------------------------------------------------------------------------------


def start_probe(name, reads=0, keepalive=0, writes=0, sockets=0, paths=("/",), write_timeout=5):
    words = [f"trivet-probe start {name} --base {SITE} --reads {reads} --keepalive {keepalive} --writes {writes} --sockets {sockets}"]
    words.append(f"--write-timeout {write_timeout}")
    words += [f"--path {shlex.quote(p)}" for p in paths]
    if writes:
        words.append(f"--user {USER} --password {shlex.quote(PASSWORD)}")
    client.succeed(" ".join(words), timeout=120)


def probe_so_far(name):
    return json.loads(client.succeed(f"trivet-probe show {name}"))


def acknowledged_since(name, before, timeout=RECOVERY):
    """Until writes are acknowledged again after the number `before`."""
    poll(lambda: len(probe_so_far(name)["acknowledged"]) > before + 3, f"{name}: writes are acknowledged again", timeout, 0.3)


def served_since(name, stream="reads", timeout=RECOVERY):
    """Until requests succeed again, one after the other."""
    before = probe_so_far(name)[stream]

    def again():
        now = probe_so_far(name)[stream]
        return now["succeeded"] >= before["succeeded"] + 20 and now["failed"] == before["failed"]

    def fresh():
        nonlocal before
        if again():
            return True
        before = probe_so_far(name)[stream]
        time.sleep(1)
        return again()

    poll(fresh, f"{name}: requests succeed again", timeout)


def stop_probe(name):
    return json.loads(client.succeed(f"trivet-probe stop {name}"))


_measured: list[dict[str, object]] = []


def measured(label, summary, **more):
    """Goes into the report of `./lab test`, and into the output of the NixOS driver."""
    kept = {k: v for k, v in summary.items() if k != "acknowledged"} | {"label": label} | more
    _measured.append(kept)
    client.out_dir.mkdir(parents=True, exist_ok=True)
    (client.out_dir / f"measured-{len(_measured):02}.json").write_text(json.dumps(kept, indent=1))
    for stream in ("reads", "keepalive", "writes", "sockets"):
        if stream in kept:
            s = kept[stream]
            note(f"{label}: {stream}: longest outage {s['longest_outage']} s, {s['failed']} of {s['requests']} failed {s['problems']}")


def no_failures(label, summary, *streams):
    for stream in streams:
        s = summary[stream]
        assert s["failed"] == 0, f"{label}: {stream}: {s['failed']} of {s['requests']} failed: {s['problems']}"


def lost_writes(summary, nodes=None):
    """Acknowledged writes that a member does not have, by member; read from the members' own disks by SQL."""
    acknowledged = set(summary["acknowledged"])
    assert acknowledged, "nothing was acknowledged, so nothing was tested"
    missing = {}
    for node in nodes or NODES:
        # A member that has just joined may still be applying what it received.
        sql(node, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{executed_everywhere(nodes or NODES)}', 60)", timeout=90)
        has = set(sql(node, "SELECT body FROM trivet.comments WHERE body LIKE 'probe %'").splitlines())
        missing[node.name] = sorted(acknowledged - has)
    return missing


def executed_everywhere(nodes):
    """The transactions of the primary, which is whom the others have to follow."""
    return sql(primary(nodes), "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')")


def nothing_lost(summary, nodes=None):
    missing = lost_writes(summary, nodes)
    assert not any(missing.values()), f"acknowledged writes are missing: { {n: len(m) for n, m in missing.items()} }"
    return sum(len(m) for m in missing.values())


def same_history(nodes=None):
    """No member has a transaction that another lacks."""
    sets = {n.name: sql(n, "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')") for n in (nodes or NODES)}
    for a in sets.values():
        for b in sets.values():
            assert sql((nodes or NODES)[0], f"SELECT GTID_SUBSET('{a}', '{b}')") == "1", f"the members' histories differ: {sets}"
