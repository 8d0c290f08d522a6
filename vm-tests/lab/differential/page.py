"""docs/http-differential.md, made from the table."""

from lab.differential.corpus import Case
from lab.differential.known import Table

HEAD = """# The same bytes through Trivet, HAProxy and nginx

`./lab differential` sends {cases} byte streams, each on a connection of its own, through Trivet's balancer, HAProxy {haproxy} and nginx {nginx}
to a back end that reads strictly and records what it is sent. All three are configured for the same site and the same things
([vm-tests/lab/servers.py](../vm-tests/lab/servers.py)). Trivet gets every stream three times: whole, and cut into pieces in two ways; all three must end alike.

It fails when Trivet and its back end read a stream differently, when a cut changes the outcome, when the answer to a client is malformed,
and when there is a difference between the servers that this page does not explain. {alike} streams are treated alike; here are the other {different}.

An outcome reads: the statuses the client got, whether the connection was closed or left open, and after ← the requests the back end saw
(a body in quotes), without those that the proxy broke off half-way. `UNREADABLE`: the back end could not read it by RFC 9112.

<!-- made by `./lab differential --accept` from vm-tests/lab/differential/known.toml -->
"""


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"


def render(table: Table, cases: dict[str, Case]) -> str:
    different = sum(len(k.outcomes) for k in table.known)
    parts = [HEAD.format(cases=len(cases), haproxy=table.versions.get("haproxy", ""), nginx=table.versions.get("nginx", ""),
                         different=different, alike=len(cases) - different)]
    for known in table.known:
        # The reason's first sentence is the heading.
        heading, _, more = known.why.partition(". ")
        parts.append(f"\n## {heading}\n{f'{chr(10)}{more}{chr(10)}' if more else ''}\n| case | rule | Trivet | HAProxy | nginx |\n|---|---|---|---|---|\n")
        for name, outcome in known.outcomes.items():
            section = cases[name].section if name in cases else "-"
            parts.append(f"| {name} | {section} | {_cell(outcome['trivet'])} | {_cell(outcome['haproxy'])} | {_cell(outcome['nginx'])} |\n")
    return "".join(parts)
