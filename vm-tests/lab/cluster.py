"""The cluster file (snapshots/cluster.json), as far as the lab needs it."""

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

# Outside the nodes: the client, which is nobody special, and the address that the test cluster calls an administrator's.
CLIENT_ADDRESS = "10.77.0.100"
ADMIN_ADDRESS = "10.77.0.200"


@dataclass(frozen=True)
class Cluster:
    domain: str
    virtual_addresses: list[str]
    nodes: dict[str, str]  # name → address
    prefix_length: int = 24

    @property
    def url(self) -> str:
        return f"https://{self.domain}"

    def on_link(self, address: str) -> str:
        return f"{address}/{self.prefix_length}"


def load(path: Path) -> Cluster:
    try:
        raw = json.loads(path.read_text())
        cluster = Cluster(raw["domain"], raw["virtual_addresses"], {n["name"]: n["address"] for n in raw["nodes"]})
    except FileNotFoundError:
        raise LabError(f"{path} is missing: the snapshots are not complete (nix run .#render)") from None
    except (ValueError, KeyError, TypeError) as e:
        raise LabError(f"{path}: not a cluster file: {e}") from None
    network = ipaddress.ip_network(f"{CLIENT_ADDRESS}/{cluster.prefix_length}", strict=False)
    for name, address in cluster.nodes.items():
        if ipaddress.ip_address(address) not in network:
            raise LabError(f"{path}: {name} has address {address}, outside the lab's network {network}")
    return cluster
