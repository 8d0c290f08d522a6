# Each side reaches what it shall, and nothing else: the public 80 and 443, administrators their own, the nodes one another's.

cluster_up()

PUBLIC = {80, 443}
ADMINISTRATION = {9090, 9093}  # beside SSH and Grafana, which the test cluster does not run
BETWEEN_NODES = {3306, 8443, 8008, 8009, 8010, 9100, 9104, 9601, 9602, 9603, 9604, 9605} | PUBLIC
ON_THE_NODE_ITSELF = {6446, 6447, 8081, 9611}


def open_ports(target, ports, source=""):
    return set(json.loads(client.succeed(f"trivet-probe ports {target} {ports} {source}"))["open"])


with subtest("from the client, only 80 and 443 answer"):
    for name, address in ADDRESSES.items():
        assert open_ports(address, "1-10000") == PUBLIC, f"{name}: {open_ports(address, '1-10000')}"
    assert open_ports(VIRTUAL_ADDRESS, "1-10000") == PUBLIC

with subtest("an administrator's address reaches the dashboards, and not the database"):
    for name, address in ADDRESSES.items():
        seen = open_ports(address, "1-10000", f"--source {ADMIN_ADDRESS}")
        assert seen == PUBLIC | ADMINISTRATION, f"{name}: {seen}"


def reaches(node, address, port):
    return node.execute(f"timeout 2 bash -c ': > /dev/tcp/{address}/{port}' 2>/dev/null")[0] == 0


with subtest("a node reaches what the table says on another, and nothing that is the node's own"):
    for port in sorted(BETWEEN_NODES):
        assert reaches(node1, ADDRESSES["node2"], port), f"node1 does not reach port {port} of node2"
    for port in sorted(ON_THE_NODE_ITSELF | ADMINISTRATION):
        assert not reaches(node1, ADDRESSES["node2"], port), f"node1 reaches port {port} of node2"

with subtest("the web tier wants a certificate of the cluster, from a node too"):
    status, _ = node1.execute(f"curl -sS --insecure --max-time 5 -o /dev/null https://{ADDRESSES['node2']}:8443/ 2>/dev/null")
    assert status != 0, "the web tier answered without a client certificate"


def dropped():
    """Packets that node1 has dropped so far."""
    counters = "[.nftables[].rule? | select(. != null) | .expr[].counter? | select(. != null) | .packets] | add"
    return int(node1.succeed(f"nft -j list ruleset | jq '{counters}'"))


with subtest("from the client, a forged VRRP advert does not pass the firewall"):
    before = dropped()
    client.succeed(f"trivet-probe raw {ADDRESSES['node1']} 112")
    after = dropped()
    assert after > before, "the advert was not dropped"
