"""Whether all that happened fits into one order: a dependency graph of the transactions, and a search for cycles.

The idea is Elle's (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020). Each
list and each account has versions in a known order: positions, and the versions that transfers count up. So of every
transaction it is known which version it wrote or saw, and that one came before another:

    ww  it wrote the version that the other replaced
    wr  it wrote what the other saw
    rw  it saw what the other replaced
    session  one user did the one, and then the other

A serializable history has no cycle. Reads come from replicas, each of which shows some prefix of the primary's history, so
sessions are kept apart from one another: real time between different users' reads is not promised.
"""

import itertools
from collections import defaultdict
from typing import Any


def cycles(history: list[dict[str, Any]], lists: dict[str, list[str]]) -> list[str]:
    """One line for each group of transactions that cannot be put in order."""
    edges = _edges(history, lists)
    return [_tell(component, edges) for component in _components(edges) if len(component) > 1]


def _edges(history: list[dict[str, Any]], lists: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """from → {to: why}"""
    place = {(key, value): at for key, values in lists.items() for at, value in enumerate(values, 1)}
    writers: dict[str, dict[int, str]] = defaultdict(dict)
    readers: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in history:
        answer = row.get("answer") or {}
        if row["op"] == "append":
            for key, value in row["entries"].items():
                if (key, value) in place:
                    writers[f"list {key}"][place[key, value]] = row["id"]
        elif row["outcome"] != "ok":
            continue
        elif row["op"] == "transfer":
            for key, (_, version) in answer["accounts"].items():
                writers[f"account {key}"][version] = row["id"]
        elif row["op"] == "lists":
            for key, values in answer["lists"].items():
                readers[f"list {key}"][len(values)].append(row["id"])
        elif row["op"] == "accounts":
            for key, (_, version) in answer["accounts"].items():
                readers[f"account {key}"][version].append(row["id"])
    edges: dict[str, dict[str, str]] = defaultdict(dict)

    def edge(a: str, b: str, why: str) -> None:
        if a != b:
            edges[a].setdefault(b, why)

    for key in writers.keys() | readers.keys():
        written = sorted(writers[key])
        for one, other in itertools.pairwise(written):
            edge(writers[key][one], writers[key][other], f"ww {key}@{one}")
        for version, who in readers[key].items():
            # Writes of unknown place are not in the graph, so the neighbours need not be adjacent versions.
            before = max((v for v in written if v <= version), default=None)
            after = min((v for v in written if v > version), default=None)
            for reader in who:
                if before is not None:
                    edge(writers[key][before], reader, f"wr {key}@{before}")
                if after is not None:
                    edge(reader, writers[key][after], f"rw {key}@{after}")
    latest: dict[str, str] = {}
    for row in sorted((r for r in history if r["outcome"] == "ok"), key=lambda r: r["begin"]):
        if row["session"] in latest:
            edge(latest[row["session"]], row["id"], f"session {row['session']}")
        latest[row["session"]] = row["id"]
    return edges


def _components(edges: dict[str, dict[str, str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan), without recursion: histories are long."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []
    for root in list(edges):
        if root in index:
            continue
        work = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, successors = work[-1]
            for successor in successors:
                if successor not in index:
                    index[successor] = low[successor] = len(index)
                    stack.append(successor)
                    on_stack.add(successor)
                    work.append((successor, iter(edges.get(successor, {}))))
                    break
                if successor in on_stack:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    found.append(component)
    return found


def _tell(component: list[str], edges: dict[str, dict[str, str]]) -> str:
    """A shortest cycle through the component, edge by edge."""
    inside = set(component)
    best: list[str] = []
    for start in component[:50]:
        came: dict[str, str] = {}
        ring = [start]
        while ring and start not in came:
            ring = [s for node in ring for s in edges.get(node, {}) if s in inside and s not in came and not came.update({s: node})]
        if start in came:
            path = [start]
            while True:
                path.append(came[path[-1]])
                if path[-1] == start:
                    break
            path.reverse()
            if not best or len(path) < len(best):
                best = path
    return " → ".join([best[0]] + [f"({edges[a][b]}) {b}" for a, b in itertools.pairwise(best)])
