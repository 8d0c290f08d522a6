"""Every case through every server, several at a time; each lane has servers and back ends of its own, so that what a back end
saw belongs to one case."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

from lab import arena, servers
from lab.differential import client, corpus, known, outcome
from lab.differential.backend import Answers, Backend, Request
from lab.errors import LabError

LANES = 6
# How long silence is taken for "nothing more comes". A case that does not end as the table says is tried again, more patiently.
QUIET, PATIENT = 0.2, 2.0
# For a proxy to pass on, or break off, what the client's last bytes caused, and for Trivet to write its log (20 ms).
SETTLE = 0.06
SEEDS = (0, 1)


def _place(folder: Path, first: int) -> servers.Place:
    return servers.Place(folder, first, first + 1, first + 2, first + 3)


class Lane:
    """One of each server, and a back end behind each."""

    def __init__(self, number: int, folder: Path):
        self.places = {server: _place(folder / f"{server}-{number}", 20_000 + number * 100 + i * 10)
                       for i, server in enumerate(servers.NAMES)}
        self.backends = {server: Backend(Answers(corpus.ANSWERS)) for server in servers.NAMES}
        self.number = number
        self.log_at = 0

    async def up(self, processes: arena.Processes, certificates: servers.Certificates, root: Path, balancer: Path) -> None:
        self.log = processes.log(f"trivet-{self.number}")
        for server, place in self.places.items():
            await self.backends[server].listen(place.backend)
            await asyncio.to_thread(servers.start, processes, f"{server}-{self.number}", server, place, certificates, root, balancer)
        for server in servers.NAMES:
            await self._answers(server)
            self.backends[server].take()
        self._logged()

    async def _answers(self, server: str) -> None:
        began = time.monotonic()
        case = corpus.all_cases()[0]
        while (await client.talk(self.places[server].plain, [case.data], case.bodiless, PATIENT)).statuses != [200]:
            if time.monotonic() - began > 20:
                raise LabError(f"{server} does not answer a plain request")
            await asyncio.sleep(0.05)

    def _logged(self) -> list[dict[str, str]]:
        """Trivet's access log since the last call."""
        with self.log.open("rb") as f:
            f.seek(self.log_at)
            text = f.read()
        whole = text[:text.rfind(b"\n") + 1]
        self.log_at += len(whole)
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        return [line for line in lines if line.get("target") == "trivet::access"]

    async def put(self, server: str, case: corpus.Case, quiet: float, pieces: Sequence[bytes] | None = None) -> tuple[str, list[str]]:
        """The outcome of one case, and what is wrong with it whatever the table says (of Trivet only)."""
        port = self.places[server].plain
        heard = await client.talk(port, pieces or [case.data], case.bodiless, quiet, 0.0005 if pieces else 0.0)
        await asyncio.sleep(SETTLE if quiet < PATIENT else PATIENT / 4)
        requests, unreadable = self.backends[server].take()
        wrong = _disagreements(heard, requests, unreadable, self._logged()) if server == "trivet" else []
        return outcome.line(heard, requests, unreadable), wrong


def _disagreements(heard: client.Heard, requests: list[Request], unreadable: list[str], logged: list[dict[str, str]]) -> list[str]:
    """Trivet's reading of the bytes is in its access log; the back end's is in what it recorded."""
    wrong = [f"its back end cannot read what it forwarded: {why}" for why in unreadable]
    if heard.wrong not in ("", "broken off in an answer", client.HTTP2):
        wrong.append(f"its answer is malformed: {heard.wrong}")
    forwarded = [line for line in logged if line.get("backend", "-") != "-"]
    if any(line.get("retries") for line in forwarded):
        return wrong
    # What Trivet refused or broke off on the way is a line with a reason, and whether the back end has seen all of it is chance.
    said = [(line["method"], line["path"]) for line in forwarded]
    sure = [(line["method"], line["path"]) for line in forwarded if not line.get("reason") and not line.get("aborted")]
    saw = [(r.method, r.target.split("?")[0]) for r in requests if r.complete]
    if not _within(sure, saw) or not _within(saw, said):
        wrong.append(f"it logged {said} and its back end saw {saw}")
    return wrong


def _within(few: list[tuple[str, str]], many: list[tuple[str, str]]) -> bool:
    """Whether all of `few` stand in `many`, in their order."""
    left = iter(many)
    return all(one in left for one in few)


async def _lane(lane: Lane, queue: asyncio.Queue[corpus.Case], results: dict[str, dict[str, str]], failures: dict[str, list[str]],
                recorded: dict[str, dict[str, str]]) -> None:
    while not queue.empty():
        case = queue.get_nowait()
        outcomes, wrong = await _once(lane, case, QUIET)
        expected = recorded.get(case.name)
        surprising = any(not known.is_recorded(o, expected[s]) for s, o in outcomes.items()) if expected else len(set(outcomes.values())) > 1
        if surprising or wrong:
            outcomes, wrong = await _once(lane, case, PATIENT)
        results[case.name] = outcomes
        if wrong:
            failures[case.name] = wrong


async def _once(lane: Lane, case: corpus.Case, quiet: float) -> tuple[dict[str, str], list[str]]:
    done = await asyncio.gather(*(lane.put(server, case, quiet) for server in servers.NAMES))
    outcomes = dict(zip(servers.NAMES, (text for text, _ in done), strict=True))
    wrong = done[servers.NAMES.index("trivet")][1]
    for seed in SEEDS:
        pieces = client.cuts(case.data, seed)
        text, more = await lane.put("trivet", case, quiet, pieces)
        if text != outcomes["trivet"]:
            wrong.append(f"cut into {len(pieces)} pieces (seed {seed}) it is read otherwise: {text}")
        wrong += more
    return outcomes, wrong


async def run(cases: list[corpus.Case], processes: arena.Processes, certificates: servers.Certificates, root: Path, balancer: Path,
              recorded: dict[str, dict[str, str]]) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Outcomes by case and server; and, by case, what is wrong with Trivet's whatever the table says."""
    queue: asyncio.Queue[corpus.Case] = asyncio.Queue()
    for case in cases:
        queue.put_nowait(case)
    lanes = [Lane(n, processes.folder) for n in range(min(LANES, len(cases)))]
    await asyncio.gather(*(lane.up(processes, certificates, root, balancer) for lane in lanes))
    results: dict[str, dict[str, str]] = {}
    failures: dict[str, list[str]] = {}
    await asyncio.gather(*(_lane(lane, queue, results, failures, recorded) for lane in lanes))
    for lane in lanes:
        for backend in lane.backends.values():
            await backend.close()
    return {case.name: results[case.name] for case in cases}, failures
