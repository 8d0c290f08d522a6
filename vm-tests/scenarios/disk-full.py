# The disk of the primary's database is filled in an instant, by something else: its mysqld waits for room, and users do not.

cluster_up()
MYSQL, ASIDE = "/var/lib/mysql", "/var/tmp/mysql"

with subtest("the primary's database is on a small disk of its own"):
    small = others(primary())[0]
    small.succeed("systemctl stop mysql", timeout=120)
    small.succeed(f"cp -a {MYSQL} {ASIDE} && mount -t tmpfs -o size=700M tmpfs {MYSQL} && cp -a {ASIDE}/. {MYSQL} && rm -r {ASIDE}", timeout=120)
    small.succeed("systemctl restart trivet-keeper && systemctl start mysql", timeout=120)
    wait_for_members(NODES)
    sql(primary(), "CREATE DATABASE scratch; CREATE TABLE scratch.counter (id INT PRIMARY KEY, n INT); "
                   "INSERT INTO scratch.counter VALUES (1, 0)")
    poll(lambda: small.execute(f"trivet switchover {small.name}")[0] == 0, f"{small.name} becomes the primary")
    assert primary() is small

with subtest("it is filled under writes before its keeper can hand over; another member takes the role all the same"):
    start_probe("full", reads=20, writes=10, write_timeout=20)
    client.sleep(3)
    small.succeed("systemctl kill --kill-whom=main --signal=STOP trivet-keeper")
    small.execute(f"dd if=/dev/zero of={MYSQL}/.filler bs=1M", timeout=120)
    # A role that nobody's commit stands in the way of would simply move.
    count = "UPDATE scratch.counter SET n = n + 1;" * 500
    small.succeed(f"systemd-run --quiet --unit=scratch --collect mysql --execute={shlex.quote(count)}")
    poll(lambda: small.execute("journalctl --unit=mysql --boot | grep -q 'Disk is full writing'")[0] == 0, "a commit waits for room")
    small.succeed("systemctl kill --kill-whom=main --signal=CONT trivet-keeper")
    acknowledged_since("full", len(probe_so_far("full")["acknowledged"]))
    assert primary(others(small)) is not small

with subtest("its keeper says so, and waits for room"):
    poll(lambda: "disk-full" in small.execute("trivet status")[1], "the keeper names the phase")
    acknowledged_since("full", len(probe_so_far("full")["acknowledged"]))

with subtest("with room again it joins by itself"):
    small.succeed(f"rm {MYSQL}/.filler")
    wait_for_members(NODES, timeout=BOOT)
    client.sleep(2)
    seen = stop_probe("full")

with subtest("users saw slow requests, not failed ones, and nothing is lost"):
    measured("the primary's disk full", seen, lost=nothing_lost(seen))
    no_failures("the primary's disk full", seen, "reads", "writes")
    same_history()
