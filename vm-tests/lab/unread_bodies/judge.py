"""What servers took for requests, and what visitors were answered, against what clients sent."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Whose octets these are. A mark that was cut off is somebody's, too.
MARK = re.compile(r"(attack|visitor|secret)-(\d+)(-\d+)?")

MIXED = "mixed"  # a request made of what several clients sent, or not as its client sent it
SMUGGLED = "smuggled"  # a request that nobody sent: it was a part of a body
FOREIGN = "foreign"  # a visitor got what was said to somebody else
FAILED = "failed"  # a visitor got an error, or nothing
KINDS = [MIXED, SMUGGLED, FOREIGN, FAILED]


@dataclass(frozen=True)
class Sent:
    """A request, as its client sent it."""

    method: str
    target: str
    cookie: str
    body: str = ""


@dataclass(frozen=True)
class Visit:
    """What became of a visitor's request."""

    attack: int
    sent: Sent
    status: int | None
    body: str


@dataclass(frozen=True)
class Finding:
    kind: str
    attack: int
    text: str


def _owners(text: str) -> set[tuple[bool, str, str]]:
    return {(kind == "attack", number, of or "") for kind, number, of in MARK.findall(text)}


def _cause(text: str, otherwise: int) -> int:
    """The attack that this is of: the first whose mark is in it, else the one that came just before."""
    attacks = [int(number) for kind, number, _ in MARK.findall(text) if kind == "attack"]
    numbers = attacks or [int(number) for _, number, _ in MARK.findall(text)]
    return min(numbers, default=otherwise)


def _short(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:200]}…{text[-200:]}"


def of_requests(sent: Mapping[tuple[str, str], Sent], taken: Sequence[Mapping[str, str]]) -> list[Finding]:
    """About the requests that a server took."""
    findings = []
    last = 0
    for line in taken:
        text = " ".join(line[part] for part in ("method", "target", "cookie", "body"))
        last = _cause(text, last)
        owner = sent.get((line["method"], line["target"]))
        if len(_owners(text)) > 1:
            findings.append(Finding(MIXED, last, _short(f"one request of several clients: {text!r}")))
        elif owner is None:
            findings.append(Finding(SMUGGLED, last, _short(f"nobody sent this as a request: {text!r}")))
        elif line["cookie"] != owner.cookie or not owner.body.startswith(line["body"]):
            findings.append(Finding(MIXED, last, _short(f"not as it was sent: {text!r}")))
    return findings


def of_visits(visits: Sequence[Visit]) -> list[Finding]:
    """About visitors' answers: each is 200 and the echo of the visitor's own line."""
    findings = []
    for visit in visits:
        own = f"{visit.sent.method} {visit.sent.target} {visit.sent.cookie}"
        if (visit.status, visit.body) == (200, own):
            continue
        foreign = visit.status == 200 or _owners(visit.body) - _owners(own)
        told = "nothing" if visit.status is None else f"{visit.status or 'an error'} {visit.body!r}"
        findings.append(Finding(FOREIGN if foreign else FAILED, visit.attack, _short(f"asked {own!r} and got {told}")))
    return findings
