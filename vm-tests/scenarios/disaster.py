# All three nodes lose their disks; there are three empty machines, the repository and the recovery key. The steps are those of
# docs/disaster.md, word for word (check_scenarios.py compares them).

import datetime
import re

cluster_up()

# The storage elsewhere. That it lies on a folder of this node, which is spared, is the test's, not the cluster's.
vault = node3
NAME = json.loads(node1.succeed("cat /etc/trivet/cluster.json"))["name"]


def step(node, command, types=""):
    """A command of docs/disaster.md at a terminal, in the background, as a unit of its name; what is typed there."""
    unit = "step-" + re.sub("[^a-z]+", "-", command)[:40].strip("-")
    at_terminal = f"printf '{types}\\n' | script --quiet --return --command {shlex.quote(command)} /dev/null"
    node.succeed(f"systemd-run --unit={unit} --property=RemainAfterExit=yes sh -c {shlex.quote(at_terminal)}")
    return unit


def said(node, unit):
    return node.succeed(f"journalctl --unit={unit} --no-pager --output=cat")


def done(node, unit, timeout=180):
    """Its words, when it has ended well."""
    show = f"systemctl show --property=SubState --value {unit}"
    state = poll(lambda: node.succeed(show).strip().removeprefix("running"), f"{unit} of {node.name} has ended", timeout)
    assert state == "exited", (unit, state, said(node, unit))
    return said(node, unit)


with subtest("a cluster with a content, its backups, and a DROP TABLE"):
    # The keys are made as an administrator makes them, so that the recovery key is seen once.
    made = node1.succeed("trivet secrets init --cluster /etc/trivet/cluster.json --out /root/first")
    safe = re.search(r"AGE-SECRET-KEY-1\w+", made)
    assert safe, made
    for node in NODES:
        for name in ("backup.key", "backup-recovery.pub"):
            content = node1.succeed(f"cat /root/first/{node.name}/{name}").strip()
            node.succeed(f"umask 077; echo {shlex.quote(content)} > {SECRETS}/{name}")
    keepers_make_the_backup_account()
    vault_on(vault, node1)
    start_backups(node1, {"main": vault_repository(vault)})
    poll(lambda: backed_up(node1).get("last_base") and backed_up(node1).get("last_files"), "there is a base copy", 240)
    start_probe("before", writes=20)
    client.sleep(5)
    before = stop_probe("before")
    client.sleep(2)
    now = float(sql(primary(), "SELECT UNIX_TIMESTAMP(NOW(6))"))
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat().replace("+00:00", "Z")
    rows = sql(primary(), "SELECT COUNT(*) FROM trivet.comments")
    client.sleep(1)
    sql(primary(), "DROP TABLE trivet.comments")
    poll(lambda: archived(node1), "everything is archived", 60)

with subtest("all three nodes lose their disks, and come back empty, with new keys"):
    for node in NODES:
        node.succeed(
            "systemctl stop trivet-backup || true; systemctl stop mysql trivet-keeper trivet-app; rm -rf /var/lib/trivet-backup; "
            "find /var/lib/mysql /var/lib/trivet-keeper /var/lib/trivet/www -mindepth 1 -delete; "
            f"rm -f {SECRETS}/backup.key {SECRETS}/backup-recovery.pub; sync",
            timeout=120,
        )
    began = time.monotonic()
    for node in NODES:
        node.crash()
    for node in NODES:
        node.start()
    wait_for_members(NODES, timeout=BOOT)
    node1.succeed("trivet secrets init --cluster /etc/trivet/cluster.json --out /root/second")
    for name in ("backup.key", "backup-recovery.pub"):
        node1.succeed(f"install -m 0600 /root/second/node1/{name} {SECRETS}/{name}")
    node1.succeed(f"umask 077; echo {safe[0]} > /root/recovery.key")
    vault_on(vault, node1)
    start_backups(node1)

with subtest("the database of one second before the DROP TABLE"):
    restore = step(node1, f"trivet restore --to {moment} --into cluster --recovery-key /root/recovery.key", types=NAME)
    poll(lambda: "trivet database set-aside" in said(node1, restore), "the database is restored", 180)
    aside2 = step(node2, "trivet database set-aside", types="node2")
    aside3 = step(node3, "trivet database set-aside", types="node3")
    words = done(node1, restore)
    assert "has formed the group with the restored database" in words and "not restored" in words, words
    done(node2, aside2)
    done(node3, aside3)
    wait_for_members(NODES, timeout=BOOT)
    site_answers()
    note(f"from three empty machines to the restored site: {time.monotonic() - began:.0f} s")
    node1.wait_until_succeeds("trivet status", timeout=RECOVERY)
    done(node1, step(node1, "trivet status"))

with subtest("it is exactly what was acknowledged until then, and goes on"):
    assert sql(primary(), "SELECT COUNT(*) FROM trivet.comments") == rows
    measured("three nodes without disks", before, lost=nothing_lost(before))
    same_history()
    start_probe("after", reads=10, writes=10)
    client.sleep(5)
    after = stop_probe("after")
    no_failures("after the disaster", after, "reads", "writes")
    nothing_lost(after)

with subtest("the site's files"):
    done(node1, step(node1, "trivet restore --files node1 --to latest --into /var/tmp/files --recovery-key /root/recovery.key"))
    node1.succeed("test -n \"$(ls -A /var/tmp/files/var/lib/trivet/www)\"")

with subtest("nothing is written to the repository of before, although the key of before fits it"):
    node1.succeed(f"systemctl stop trivet-backup; install -m 0600 /root/first/node1/backup.key /root/first/node1/backup-recovery.pub {SECRETS}")
    kept = vault.succeed("find /srv/vault -type f | sort | xargs sha256sum")
    start_backups(node1)
    node1.wait_until_succeeds("journalctl --unit=trivet-backup --output=cat | grep -q 'another history'", timeout=60)
    assert vault.succeed("find /srv/vault -type f | sort | xargs sha256sum") == kept
    node1.execute("systemctl stop trivet-backup")

with subtest("backups go on, in a repository of their own"):
    start_backups(node1, {"main": vault_repository(vault, "/srv/vault/2")})
    done(node1, step(node1, "trivet backup now"))
    done(node1, step(node1, "trivet backup status"))
