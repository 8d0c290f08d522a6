# Backups of a cluster whose primary moves and dies, and whose backups' own node dies, while users write: the log has no gap, and every moment that
# is asked for comes back exactly, by the judgement of chaos (docs/chaos.md). The service is set up by hand, as on a machine without NixOS
# (docs/backup.md).
# app: ledger

import datetime
import itertools
import re
from functools import partial
from types import SimpleNamespace

from chaos import check, rounds

# Clocks of two machines differ by less.
DOUBT = 0.25

start_all()
site_answers()
wait_for_members(NODES, timeout=BOOT)
settled()
site, users, round_name = SimpleNamespace(**globals()), rounds.Ledger(), "backup"
users.prepare(site)

vault = primary()
keeper_of_backups, successor = others(vault)[0], others(vault)[1]
REPOSITORY = "/srv/vault/main"


def on_primary(statement):
    return sql(primary(), statement)


def utc(microseconds):
    moment = datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def mark(number, among=None):
    """A row that is acknowledged, and the moment after it, before any other mark."""
    at = primary(among)
    sql(at, f"INSERT INTO trivet.marks VALUES ({number}, NOW(6))")
    time.sleep(0.2)
    moment = int(sql(at, "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)"))
    time.sleep(0.2)
    return moment


def streamed_by(among, timeout, alive=None):
    """The one that has archived all that the primary has now."""
    executed = executed_everywhere(alive or NODES)
    return poll(lambda: next((n for n in among if archived(n, 2, executed)), None), "everything is archived", timeout)


restores = itertools.count()


def restored(to, question, repository="main"):
    """`question` is given how to ask a scratch server with the database of that moment."""
    node, unit = keeper_of_backups, f"restore-{next(restores)}"
    node.succeed(f"systemd-run --unit={unit} $(command -v trivet) restore --to {to} --repository {repository}")

    def command():
        """The one that it tells its operator to use, as its last words."""
        return re.search(r"mysql --socket=\S+ --user=\S+", node.execute(f"journalctl -u {unit} --no-pager -o cat")[1])

    try:
        client_of = poll(command, f"the database of {to} runs", 90)[0]
        return question(lambda ask: node.succeed(f"{client_of} --batch --skip-column-names --execute={shlex.quote(ask)}").strip())
    except Exception:
        scratch = "mysql --socket=/var/lib/trivet-backup/work-of-root/run/mysql.sock --user=trivet-restore"
        for ask in (
            f"journalctl -u {unit} --no-pager -o cat", "ls -l /var/lib/trivet-backup/work-of-root/*",
            f"{scratch} --execute='SHOW FULL PROCESSLIST; SELECT @@gtid_executed'",
        ):
            note(f"$ {ask}\n{node.execute(f'{ask} 2>&1')[1]}")
        raise
    finally:
        node.execute(f"systemctl stop {unit}")


with subtest("set up"):
    keepers_make_the_backup_account()
    on_primary("CREATE TABLE trivet.marks (id INT PRIMARY KEY, at DATETIME(6)); CREATE TABLE trivet.comments (id INT PRIMARY KEY)")
    # Both on the node that stays: what the others do must be found by whoever goes on.
    vault_on(vault, keeper_of_backups, successor)
    repositories = {name: vault_repository(vault, f"/srv/vault/{name}") for name in ("main", "second")}
    start_backups(keeper_of_backups, repositories)
    start_backups(successor, repositories)
    services = [keeper_of_backups, successor]

with subtest("a base copy is made of a replica, a restore is proven, and the log follows"):
    for repository in ("main", "second"):
        poll(lambda r=repository: any(backed_up(n, r).get("last_verified") for n in services), f"a restore of {repository} is proven", 240)
    poll(lambda: any(backed_up(n).get("last_files") for n in services), "the site's files are copied", 120)
    listed = json.loads(keeper_of_backups.succeed("trivet backup list --json"))["main"]
    donor = listed["base"][0]["description"]["donor"]
    assert donor != primary().name, donor
    streamed_by(services, 30)

with subtest("a replica that applies nothing does not hold up the log"):
    lagging = streamed_by(services, 30)
    held = "FLUSH TABLES WITH READ LOCK; SELECT SLEEP(60)"
    lagging.succeed(f"systemd-run --quiet --collect --unit=lag mysql --execute='{held}'")
    poll(lambda: try_sql(lagging, "SELECT COUNT(*) FROM performance_schema.metadata_locks WHERE object_type = 'GLOBAL'") != "0", "it is held", 20)
    on_primary("INSERT INTO trivet.comments VALUES (1)")
    note(f"{streamed_by(services, 30).name} has archived it")
    assert try_sql(lagging, "SELECT COUNT(*) FROM trivet.comments") == "0", "the lag was over before"
    lagging.succeed("systemctl stop lag")

moments = {}
users.start(site, 12, round_name)
with subtest("moments, while users write: a switchover, a crash of the service, the death of the primary, the death of the backups' own node"):
    client.sleep(2)
    moments[1] = mark(1)
    vault.succeed(f"trivet switchover {successor.name}", timeout=60)
    poll(lambda: primary() is successor, f"{successor.name} is primary", 30)
    moments[2] = mark(2)
    crashed = streamed_by(services, 60)
    crashed.succeed("systemctl kill --signal=KILL trivet-backup")
    moments[3] = mark(3)
    start_backups(crashed)

    dead = primary()
    dead.crash()
    moments[4] = mark(4, others(dead))
    time.sleep(2)
    dead.start()
    wait_for_members(NODES)
    start_backups(dead)

    # Whoever streams now is the next to go, and does not come back before another has gone on.
    dead = streamed_by(services, 90)
    dead.crash()
    moments[5] = mark(5, others(dead))
    follower = streamed_by([n for n in services if n is not dead], 90, others(dead))
    note(f"{dead.name} is dead, {follower.name} streams")
    moments[6] = mark(6, others(dead))
    dead.start()
    wait_for_members(NODES)
    start_backups(dead)
    on_primary("DROP TABLE trivet.comments")

with subtest("each moment comes back exactly, and the last one before a DROP TABLE with the table"):
    client.out_dir.mkdir(parents=True, exist_ok=True)
    users.stop(site, round_name, client.out_dir)
    streamed_by(services, 90)
    for number, moment in sorted(moments.items()):

        def everything(ask):
            marks = ask("SELECT GROUP_CONCAT(id ORDER BY id) FROM trivet.marks; SELECT COUNT(*) >= 0 FROM trivet.comments")
            return marks.split(), rounds.kept(ask, round_name)

        marks, state = restored(utc(moment), everything, "main" if number < 5 else "second")
        assert marks == [",".join(str(n) for n in range(1, number + 1)), "1"], (number, marks)
        known = check.as_of(users.history, moment / 1e6, DOUBT)
        anomalies = check.check(check.Round(known, users.before, {f"moment {number}": state}))
        acknowledged = sum(r["op"] in check.WRITES and r["outcome"] == "ok" for r in known)
        note(f"moment {number}: {acknowledged} acknowledged writes, {len(state['requests'])} there")
        assert acknowledged > 0 and not anomalies, (number, acknowledged, [str(a) for a in anomalies])
    everywhere = {n.name: rounds.kept(partial(sql, n), round_name) for n in NODES}
    latest = restored("latest", lambda ask: rounds.kept(ask, round_name))
    anomalies = check.check(check.Round(users.history, users.before, everywhere | {"latest": latest}))
    assert not anomalies, [str(a) for a in anomalies]
    there = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'trivet' AND table_name = 'comments'"
    assert restored("latest", lambda ask: ask(there)) == "0"

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
    vault.succeed(
        f"cd {REPOSITORY}/log/*/ && f=$(ls | tail -n 3 | head -n 1) && printf '\\377' | dd of=$f bs=1 seek=400 conv=notrunc status=none"
    )
    status, out = keeper_of_backups.execute("trivet restore --to latest --into /var/tmp/refused 2>&1", timeout=120)
    assert status != 0 and "damaged" in out, (status, out)
    assert keeper_of_backups.execute("ls -d /var/tmp/refused")[0] != 0
