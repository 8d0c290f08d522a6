# With a node powered off, Prometheus on another node shows it down and the alert fires; both clear when it is back.

cluster_up()

# As systemd reads it. A unit that has given up, and log lines that are missing, are found too late.
with subtest("nothing stops being restarted, and no line of the log is suppressed"):
    ours = ["trivet-balancer", "trivet-gateway", "trivet-web", "trivet-app", "trivet-keeper"]
    companions = ["keepalived", "mysql", "prometheus", "alertmanager", "prometheus-node-exporter", "prometheus-mysqld-exporter"]
    for unit in ours + companions:
        shown = node1.succeed(f"systemctl show {unit} --property=Restart,StartLimitIntervalUSec,RestartSteps,LogRateLimitIntervalUSec")
        said = dict(line.split("=", 1) for line in shown.split())
        assert said["Restart"] == "always" and said["StartLimitIntervalUSec"] == "0" and int(said["RestartSteps"]) > 0, (unit, said)
        assert unit in companions or said["LogRateLimitIntervalUSec"] == "0", (unit, said)
    assert "SystemMaxUse=" in node1.succeed("cat /etc/systemd/journald.conf"), "the journal has no bound"


def prometheus(path):
    return json.loads(node1.succeed(f"curl -fsS 'http://127.0.0.1:9090{path}'"))["data"]


def up_of(address):
    """What Prometheus says of the exporters of a node: {job: up?}."""
    rows = prometheus("/api/v1/query?query=up")["result"]
    return {r["metric"]["job"] + " " + r["metric"]["instance"]: r["value"][1] == "1" for r in rows
            if address in r["metric"]["instance"] or r["metric"].get("node") == "node3"}


def firing():
    """The alerts that fire about node3."""
    alerts = prometheus("/api/v1/alerts")["alerts"]
    return {a["labels"]["alertname"] for a in alerts if (a["state"] == "firing" and "node3" in json.dumps(a["labels"]))
            or (a["state"] == "firing" and ADDRESSES["node3"] in json.dumps(a["labels"]))}


def alertmanager():
    said = json.loads(node1.succeed("curl -fsS http://127.0.0.1:9093/api/v2/alerts"))
    return {a["labels"]["alertname"] for a in said if "node3" in json.dumps(a["labels"]) or ADDRESSES["node3"] in json.dumps(a["labels"])}


with subtest("all is well: every target is up, nothing fires about node3"):
    poll(lambda: (seen := up_of(ADDRESSES["node3"])) and len(seen) >= 6 and all(seen.values()), "all of node3's targets are up")
    poll(lambda: not firing(), "no alert about node3")

with subtest("node3 loses power: it shows as down"):
    node3.crash()
    poll(lambda: not any(up_of(ADDRESSES["node3"]).values()), "node3's targets are down")

with subtest("the alert fires, in Prometheus and in Alertmanager"):
    note(f"firing: {poll(firing, 'an alert about node3 fires')}")
    poll(alertmanager, "Alertmanager has the alert")

with subtest("the node comes back: all clears"):
    node3.start()
    wait_for_members(NODES, timeout=BOOT)
    poll(lambda: all(up_of(ADDRESSES["node3"]).values()), "node3's targets are up again", BOOT)
    poll(lambda: not firing(), "no alert about node3", BOOT)
