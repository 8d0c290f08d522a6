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


# --- backups, set up by hand as on a machine without NixOS (docs/backup.md) --------------------------------------

BACKUP_UNIT, BACKUP_CREDENTIALS = "trivet-backup", "/run/credentials/trivet-backup.service"
SECRETS = "/var/lib/trivet/secrets"


def keepers_make_the_backup_account():
    """Each keeper is told of it, and the primary's makes it, with the table of leases."""
    for node in NODES:
        unit = node.succeed("systemctl cat trivet-keeper")
        program, config = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).split("--config ")
        known = json.loads(node.succeed(f"cat {config}"))
        known["mysql"] |= {"backup_user": "trivet_backup", "backup_password_file": "/run/credentials/trivet-keeper.service/backup-password"}
        start = f"ExecStart=\nExecStart={program.removeprefix('ExecStart=')}--config /etc/trivet/keeper-backup.json"
        drop_in = f"[Service]\nLoadCredential=backup-password:{SECRETS}/backup-password\n{start}\n"
        node.succeed(
            f"echo {shlex.quote(json.dumps(known))} > /etc/trivet/keeper-backup.json; mkdir -p /etc/systemd/system/trivet-keeper.service.d; "
            f"printf %s {shlex.quote(drop_in)} > /etc/systemd/system/trivet-keeper.service.d/backup.conf; "
            "systemctl daemon-reload; systemctl restart trivet-keeper"
        )
    poll(lambda: try_sql(primary(), "SELECT COUNT(*) FROM trivet_cluster.lease") is not None, "the keeper has made the lease's table")


def vault_on(vault, *users):
    """A folder of this node's that these reach over SFTP, with a key: a repository elsewhere."""
    vault.succeed(
        "install -d -m 0700 /root/.ssh /srv/vault; test -e /root/.ssh/vault || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/vault; "
        "cat /root/.ssh/vault.pub >> /root/.ssh/authorized_keys; systemctl start ssh"
    )
    key = vault.succeed("cat /root/.ssh/vault").strip()
    host_key = vault.succeed("cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    for node in users:
        # Administrators alone may sign in; these nodes are some for the moment.
        vault.succeed(f"nft insert rule inet trivet input ip saddr {ADDRESSES[node.name]} tcp dport 22 accept")
        node.succeed(
            f"umask 077; echo {shlex.quote(key)} > {SECRETS}/vault.key; umask 022; "
            f"echo {ADDRESSES[vault.name]} {host_key[0]} {host_key[1]} >> /etc/ssh/ssh_known_hosts"
        )


def vault_repository(vault, path="/srv/vault"):
    """The repository there, as the configuration names it."""
    return {"sftp": {"host": ADDRESSES[vault.name], "user": "root", "path": path, "key_file": f"{BACKUP_CREDENTIALS}/vault.key"}}


def start_backups(node, repositories=None, **more):
    """Starts the service as nixos/backup.nix has it: a user of its own, its secrets as credentials, the sandbox. With repositories it is
    configured first."""
    if repositories:
        config = {
            "node": node.name,
            "cluster": sql(primary(), "SELECT @@global.group_replication_group_name"),
            "metrics": {"listen": "127.0.0.1:9606"},
            "mysql": {
                "user": "trivet_backup",
                "password_file": f"{BACKUP_CREDENTIALS}/backup-password",
                "ca": f"{BACKUP_CREDENTIALS}/ca.pem",
                "members": [{"name": name, "address": f"{address}:3306"} for name, address in sorted(ADDRESSES.items())],
            },
            "key": {"identity_file": f"{BACKUP_CREDENTIALS}/backup.key", "recovery_file": f"{BACKUP_CREDENTIALS}/backup-recovery.pub"},
            "repositories": repositories,
            "files": {"paths": ["/var/lib/trivet/www"]},
        } | more
        node.succeed(
            "id trivet-backup >/dev/null 2>&1 || useradd --system --home-dir /var/lib/trivet-backup trivet-backup; "
            f"echo {shlex.quote(json.dumps(config))} > /etc/trivet/backup.json; trivet-backup --check"
        )
    known = json.loads(node.succeed("cat /etc/trivet/backup.json"))["repositories"].values()
    folders = [repository["folder"] for repository in known if "folder" in repository]
    for folder in folders:
        node.succeed(f"install -d -m 0700 -o trivet-backup {folder}")
    # What NixOS denies every unit of Trivet, as the keeper's unit has it; auth_socket of scratch servers asks who they are.
    denied = ("Capability", "Device", "Lock", "Memory", "NoNew", "PrivateDevices", "PrivateTmp", "Proc", "Protect", "RemoveIPC", "Restrict",
              "SystemCall", "UMask")
    sandbox = [line for line in node.succeed("systemctl cat trivet-keeper").splitlines() if line.startswith(denied)]
    assert len(sandbox) > 20, sandbox
    secrets = [name for name in ("ca.pem", "backup.key", "backup-recovery.pub", "backup-password", "vault.key")
               if node.execute(f"test -e {SECRETS}/{name}")[0] == 0]
    properties = [
        *sandbox, "Type=notify", "User=trivet-backup", "Group=trivet-backup", "StateDirectory=trivet-backup", "StateDirectoryMode=0700",
        "Nice=10", *(f"ReadWritePaths={folder}" for folder in folders), *(f"LoadCredential={name}:{SECRETS}/{name}" for name in secrets),
    ]
    options = " ".join(f"--property={shlex.quote(p)}" for p in properties)
    node.execute(f"systemctl reset-failed {BACKUP_UNIT} 2>/dev/null")
    node.succeed(f"systemd-run --unit={BACKUP_UNIT} {options} $(readlink -f $(command -v trivet-backup))")


def backup_status(node):
    """What the service says; nothing when it does not."""
    status, out = node.execute("curl -fsS http://127.0.0.1:9606/status")
    return json.loads(out) if status == 0 else {}


def backed_up(node, repository="main"):
    """What this node's service knows of a repository."""
    return backup_status(node).get("state", {}).get("repositories", {}).get(repository, {})


def archived(node, repositories=1, executed=None):
    """These transactions, or else those of the primary, are in all repositories."""
    executed = executed or executed_everywhere(NODES)
    reports = backup_status(node).get("log", {}).values()
    sets = [report["archived"] for report in reports if report["archived"]]
    return len(sets) == repositories and all(sql(node, f"SELECT GTID_SUBSET('{executed}', '{s}')") == "1" for s in sets)
