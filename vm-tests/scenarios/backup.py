# Backups of a cluster whose primary moves and dies: the log has no gap, and every moment that is asked for comes back exactly. The service is
# set up by hand, as on a machine without NixOS (docs/backup.md).

import datetime
import itertools
import re

cluster_up()

vault = primary()
keeper_of_backups, successor = others(vault)[0], others(vault)[1]
REPOSITORY, CREDENTIALS = "/srv/backup", "/run/credentials/trivet-backup.service"
PASSWORD_OF_BACKUP = "a-password-of-the-test"


def on_primary(statement):
    return sql(primary(), statement)


def utc(microseconds):
    moment = datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def mark(number):
    """A row that is acknowledged, and the moment after it, before any other."""
    on_primary(f"INSERT INTO trivet.marks VALUES ({number}, NOW(6))")
    time.sleep(0.2)
    moment = int(on_primary("SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)"))
    time.sleep(0.2)
    return moment


def backup_status():
    status, out = keeper_of_backups.execute("curl -fsS http://127.0.0.1:9606/status")
    return json.loads(out) if status == 0 else {}


def holding(repository="main"):
    return backup_status().get("state", {}).get("repositories", {}).get(repository, {})


# What NixOS denies every unit of Trivet, as the keeper's unit has it; auth_socket of scratch servers asks who they are.
SANDBOX = [
    line
    for line in keeper_of_backups.succeed("systemctl cat trivet-keeper").splitlines()
    if re.match(r"(Capability|Device|Lock|Memory|NoNew|PrivateDevices|PrivateTmp|Proc|Protect|RemoveIPC|Restrict|SystemCall|UMask)", line)
]
assert len(SANDBOX) > 20, SANDBOX
SECRETS = ("ca.pem", "backup.key", "backup-recovery.pub", "backup-password", "vault.key")


def start_service():
    """As nixos/backup.nix has it: a user of its own, its secrets as credentials, the sandbox."""
    properties = [
        *SANDBOX, "Type=notify", "User=trivet-backup", "Group=trivet-backup", "StateDirectory=trivet-backup", "StateDirectoryMode=0700",
        f"ReadWritePaths={REPOSITORY}", "Nice=10", *(f"LoadCredential={name}:/var/lib/trivet/secrets/{name}" for name in SECRETS),
    ]
    options = " ".join(f"--property={shlex.quote(p)}" for p in properties)
    keeper_of_backups.execute("systemctl reset-failed trivet-backup 2>/dev/null")
    keeper_of_backups.succeed(f"systemd-run --unit=trivet-backup {options} $(readlink -f $(command -v trivet-backup))")


def archived():
    """The primary's transactions are in the repository."""
    executed = on_primary("SELECT @@global.gtid_executed").replace("\\n", "").replace("\n", "")
    reports = backup_status().get("log", {}).values()
    sets = [report["archived"] for report in reports if report["archived"]]
    return len(sets) == 2 and all(on_primary(f"SELECT GTID_SUBSET('{executed}', '{s}')") == "1" for s in sets)


restores = itertools.count()


def restored(to, ask, repository="main"):
    """What a scratch server with the database of that moment answers."""
    node, unit = keeper_of_backups, f"restore-{next(restores)}"
    node.succeed(f"systemd-run --unit={unit} $(command -v trivet) restore --to {to} --repository {repository}")

    def command():
        """The one that it tells its operator to use, as its last words."""
        return re.search(r"mysql --socket=\S+ --user=\S+", node.execute(f"journalctl -u {unit} --no-pager -o cat")[1])

    try:
        client_of = poll(command, f"the database of {to} runs", 90)[0]
        return node.succeed(f"{client_of} --batch --skip-column-names --execute={shlex.quote(ask)}").strip()
    finally:
        node.execute(f"systemctl stop {unit}")


with subtest("set up"):
    on_primary(
        "CREATE DATABASE trivet_cluster; CREATE TABLE trivet_cluster.lease (name VARCHAR(64) NOT NULL PRIMARY KEY, holder VARCHAR(128) NOT NULL, "
        "token BIGINT UNSIGNED NOT NULL, expires DATETIME(6) NOT NULL, work VARCHAR(255) NOT NULL); "
        "CREATE TABLE trivet_cluster.repository (id CHAR(36) NOT NULL PRIMARY KEY, name VARCHAR(64) NOT NULL, location VARCHAR(1024) NOT NULL, "
        "made TIMESTAMP NULL); "
        f"CREATE USER 'trivet-backup'@'%' IDENTIFIED BY '{PASSWORD_OF_BACKUP}' REQUIRE SSL; "
        "GRANT REPLICATION SLAVE, REPLICATION CLIENT, PROCESS, RELOAD, SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, BACKUP_ADMIN "
        "ON *.* TO 'trivet-backup'@'%'; "
        "GRANT SELECT, INSERT, UPDATE ON trivet_cluster.lease TO 'trivet-backup'@'%'; "
        "GRANT SELECT, INSERT, UPDATE ON trivet_cluster.repository TO 'trivet-backup'@'%'; "
        "GRANT ALL PRIVILEGES ON `trivet\\_restored\\_%`.* TO 'trivet-backup'@'%'; "
        "CREATE TABLE trivet.marks (id INT PRIMARY KEY, at DATETIME(6))"
    )
    # A second place: another node, over SFTP.
    vault.succeed(
        "install -d -m 0700 /root/.ssh /srv/vault; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/vault; "
        "cat /root/.ssh/vault.pub >> /root/.ssh/authorized_keys; systemctl start ssh; "
        # Administrators alone may sign in; this node is one for the moment.
        f"nft insert rule inet trivet input ip saddr {ADDRESSES[keeper_of_backups.name]} tcp dport 22 accept"
    )
    key = vault.succeed("cat /root/.ssh/vault").strip()
    host_key = vault.succeed("cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    address = ADDRESSES[vault.name]
    keeper_of_backups.succeed(
        f"umask 077; echo {shlex.quote(key)} > /var/lib/trivet/secrets/vault.key; "
        f"echo {PASSWORD_OF_BACKUP} > /var/lib/trivet/secrets/backup-password; umask 022; "
        "useradd --system --home-dir /var/lib/trivet-backup trivet-backup; "
        f"echo {address} {host_key[0]} {host_key[1]} >> /etc/ssh/ssh_known_hosts"
    )
    config = {
        "node": keeper_of_backups.name,
        "cluster": sql(node1, "SELECT @@global.group_replication_group_name"),
        "metrics": {"listen": "127.0.0.1:9606"},
        "mysql": {
            "password_file": f"{CREDENTIALS}/backup-password",
            "ca": f"{CREDENTIALS}/ca.pem",
            "members": [{"name": name, "address": f"{address}:3306"} for name, address in sorted(ADDRESSES.items())],
        },
        "key": {"identity_file": f"{CREDENTIALS}/backup.key", "recovery_file": f"{CREDENTIALS}/backup-recovery.pub"},
        "repositories": {
            "main": {"folder": REPOSITORY},
            "vault": {"sftp": {"host": address, "user": "root", "path": "/srv/vault", "key_file": f"{CREDENTIALS}/vault.key"}},
        },
        "files": {"paths": ["/var/lib/trivet/www"]},
    }
    keeper_of_backups.succeed(
        f"install -d -m 0700 -o trivet-backup {REPOSITORY}; "
        f"echo {shlex.quote(json.dumps(config))} > /etc/trivet/backup.json; trivet-backup --check"
    )
    start_service()

with subtest("a base copy is made of a replica, a restore is proven, and the log follows"):
    poll(lambda: holding().get("last_verified") and holding("vault").get("last_verified"), "restores are proven", 120)
    assert holding()["last_base"] and holding()["last_files"], holding()
    listed = json.loads(keeper_of_backups.succeed("trivet backup list --json"))["main"]
    donor = listed["base"][0]["description"]["donor"]
    assert donor != primary().name, donor
    poll(archived, "everything is archived", 30)

moments = {}
with subtest("moments, over a switchover, a crash of the service and the death of the primary"):
    moments[1] = mark(1)
    vault.succeed(f"trivet switchover {successor.name}", timeout=60)
    poll(lambda: primary() is successor, f"{successor.name} is primary", 30)
    moments[2] = mark(2)
    keeper_of_backups.succeed("systemctl kill --signal=KILL trivet-backup")
    moments[3] = mark(3)
    start_service()
    dead = primary()
    dead.crash()
    poll(lambda: primary(others(dead)) is not dead, "another primary", 60)
    on_primary_of_rest = primary(others(dead))
    sql(on_primary_of_rest, "INSERT INTO trivet.marks VALUES (4, NOW(6))")
    time.sleep(0.2)
    moments[4] = int(sql(on_primary_of_rest, "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)"))
    time.sleep(0.2)
    dead.start()
    wait_for_members(NODES)
    on_primary("DROP TABLE trivet.comments")
    poll(archived, "everything is archived", 90)

with subtest("each moment comes back exactly, and the last one before a DROP TABLE with the table"):
    for number, moment in sorted(moments.items()):
        rows = restored(utc(moment), "SELECT GROUP_CONCAT(id ORDER BY id) FROM trivet.marks; SELECT COUNT(*) >= 0 FROM trivet.comments")
        assert rows.split() == [",".join(str(n) for n in range(1, number + 1)), "1"], (number, rows)
    last = max(moments)
    rows = restored(utc(moments[last]), "SELECT COUNT(*) FROM trivet.marks", "vault")
    assert rows == str(last), rows
    tables = restored("latest", "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'trivet' AND table_name = 'comments'")
    assert tables == "0", tables

with subtest("a table that was dropped comes back beside the living ones, on all members"):
    at = utc(moments[max(moments)])
    said = keeper_of_backups.succeed(f"trivet restore --to {at} --tables trivet.comments,trivet.marks", timeout=120)
    assert "trivet.marks is back as trivet_restored_" in said, said
    database = on_primary("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'trivet\\_restored\\_%'")
    for node in NODES:
        rows = poll(lambda node=node: try_sql(node, f"SELECT COUNT(*) FROM {database}.marks"), f"{node.name} has it", 20)
        assert rows == str(max(moments)), (node.name, rows)
        assert try_sql(node, f"SELECT COUNT(*) >= 0 FROM {database}.comments") == "1", node.name
    status, out = keeper_of_backups.execute(f"trivet restore --to {at} --tables trivet.marks 2>&1", timeout=120)
    assert status != 0 and "is there already" in out, (status, out)
    status, out = keeper_of_backups.execute(f"trivet restore --to {at} --tables trivet.nothing 2>&1", timeout=120)
    assert status != 0 and "there is no table trivet.nothing" in out and "marks" in out, (status, out)

with subtest("what was restored is proven once more, over all of it"):
    said = keeper_of_backups.succeed("trivet backup verify 2>&1", timeout=120)
    assert "proven" in said, said

with subtest("what cannot be restored is refused, and says why"):
    for to, why in [
        ("2001-01-01T00:00:00Z", "is before the first base copy"),
        ("2101-01-01T00:00:00Z", "is in the future"),
        ("yesterday", "is no moment"),
        ("6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0009:1", "is nowhere in the log"),
    ]:
        status, out = keeper_of_backups.execute(f"trivet restore --to {to} --into /var/tmp/refused 2>&1", timeout=120)
        assert status != 0 and why in out, (to, status, out)
        assert keeper_of_backups.execute("ls -d /var/tmp/refused")[0] != 0, to

with subtest("a bit that is turned in the log is found"):
    keeper_of_backups.succeed(
        f"cd {REPOSITORY}/log/*/ && f=$(ls | tail -n 3 | head -n 1) && printf '\\377' | dd of=$f bs=1 seek=400 conv=notrunc status=none"
    )
    status, out = keeper_of_backups.execute("trivet restore --to latest --into /var/tmp/refused 2>&1", timeout=120)
    assert status != 0 and "damaged" in out, (status, out)
    assert keeper_of_backups.execute("ls -d /var/tmp/refused")[0] != 0
