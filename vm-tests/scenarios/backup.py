# Backups of a cluster whose primary moves and dies: the log has no gap, and every moment that is asked for comes back exactly. The service is
# set up by hand, as on a machine without NixOS (docs/backup.md).

import datetime
import itertools
import re

cluster_up()

vault = primary()
keeper_of_backups, successor = others(vault)[0], others(vault)[1]
REPOSITORY = "/srv/backup"


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


def holding(repository="main"):
    return backed_up(keeper_of_backups, repository)


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
    keepers_make_the_backup_account()
    on_primary("CREATE TABLE trivet.marks (id INT PRIMARY KEY, at DATETIME(6))")
    # A second place: another node, over SFTP.
    vault_on(vault, keeper_of_backups)
    start_backups(keeper_of_backups, {"main": {"folder": REPOSITORY}, "vault": vault_repository(vault)})

with subtest("a base copy is made of a replica, a restore is proven, and the log follows"):
    poll(lambda: holding().get("last_verified") and holding("vault").get("last_verified"), "restores are proven", 240)
    poll(lambda: holding().get("last_base") and holding().get("last_files"), "the site's files are copied", 120)
    listed = json.loads(keeper_of_backups.succeed("trivet backup list --json"))["main"]
    donor = listed["base"][0]["description"]["donor"]
    assert donor != primary().name, donor
    poll(lambda: archived(keeper_of_backups, 2), "everything is archived", 30)

moments = {}
with subtest("moments, over a switchover, a crash of the service and the death of the primary"):
    moments[1] = mark(1)
    vault.succeed(f"trivet switchover {successor.name}", timeout=60)
    poll(lambda: primary() is successor, f"{successor.name} is primary", 30)
    moments[2] = mark(2)
    keeper_of_backups.succeed("systemctl kill --signal=KILL trivet-backup")
    moments[3] = mark(3)
    start_backups(keeper_of_backups)
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
    poll(lambda: archived(keeper_of_backups, 2), "everything is archived", 90)

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
