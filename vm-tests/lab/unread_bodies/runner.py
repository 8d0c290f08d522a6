"""Every attack through every proxy to every server, each followed by visitors; each pair of proxy and server has its own of both."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

from lab import arena, servers
from lab.errors import LabError
from lab.unread_bodies import attacks, client, judge
from lab.unread_bodies.backends import Server
from lab.unread_bodies.wire import Doors

# How long an attacker waits for an answer (some will get none), and a visitor. One that waits behind Trivet is in the wrong
# whatever the reason, so there it is surely no slow machine's fault; with the others it only costs time.
QUIET, PATIENT, OURS = 0.15, 0.5, 10.0
# Longer than what `length` still waits for.
AGENT = "Mozilla/5.0" + " (X11; Linux x86_64)" * 20
# What comes behind another request on the same connection may go another way: HAProxy sends the first on a fresh one.
VISITORS = [1, 2, 1]
SETTLE = 0.3


@dataclass
class Outcome:
    """What became of all attacks with one mode, through one proxy."""

    attacks: int = 0
    reached: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(judge.KINDS, 0))
    told: list[str] = field(default_factory=list)


class Chain:
    """One proxy, and one server behind it."""

    def __init__(self, number: int, proxy: str, server: Server, folder: Path, trusting: bool):
        self.proxy, self.server = proxy, server
        self.name = f"{proxy}-{server.name.replace(':', '')}"
        # Below the ports that connections take for themselves.
        first = 2_000 + number * 10
        self.place = servers.Place(folder / self.name, first, first + 1, first + 2, first + 3, trusted_framing=trusting)
        self.doors = Doors(self.place.plain, self.place.tls)
        self.attacks = [attack for mode in server.modes for attack in attacks.of(mode)]
        self.sent: dict[tuple[str, str], judge.Sent] = {}
        self.visits: list[judge.Visit] = []

    async def up(self, processes: arena.Processes, certificates: servers.Certificates, root: Path, balancer: Path) -> None:
        await asyncio.to_thread(self.server.start, processes, f"{self.name}-server", root, self.place.backend)
        await asyncio.to_thread(servers.start, processes, self.name, self.proxy, self.place, certificates, root, balancer)
        for _ in range(400):
            if (await client.visit(self.doors, False, [("/healthz", "")], AGENT, PATIENT))[0].status == 200:
                return
            await asyncio.sleep(0.05)
        raise LabError(f"{self.name} does not answer: {processes.last_words(f'{self.name}-server')}")

    async def run(self) -> None:
        for number, attack in enumerate(self.attacks):
            sent = judge.Sent(attack.method, attack.target(number), f"session=attack-{number}.", attack.body(number))
            self.sent[sent.method, sent.target] = sent
            await client.attack(self.doors, attack, number, QUIET)
            await self._visitors(number, attack.http2)

    async def _visitors(self, number: int, http2: bool) -> None:
        count = 0
        for requests in VISITORS:
            over_http2 = http2 and requests == 1
            asked = []
            for _ in range(requests):
                asked.append(judge.Sent("GET", f"/ignores/visitor-{number}-{count}.", f"session=secret-{number}-{count}."))
                count += 1
            self.sent.update({(sent.method, sent.target): sent for sent in asked})
            patience = OURS if self.proxy == "trivet" else PATIENT
            heard = await client.visit(self.doors, over_http2, [(s.target, s.cookie) for s in asked], AGENT, patience)
            self.visits += [judge.Visit(number, sent, h.status, h.body) for sent, h in zip(asked, heard, strict=False)]

    def outcomes(self, processes: arena.Processes) -> dict[str, Outcome]:
        """By mode, when everything has ended."""
        log = processes.log(f"{self.name}-server").read_bytes().decode(errors="replace")
        taken = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        reached = {(line["method"], line["target"]) for line in taken}
        found = {mode: Outcome() for mode in self.server.modes}
        for number, attack in enumerate(self.attacks):
            found[attack.mode].attacks += 1
            found[attack.mode].reached += (attack.method, attack.target(number)) in reached
        for finding in judge.of_requests(self.sent, taken) + judge.of_visits(self.visits):
            attack = self.attacks[finding.attack]
            found[attack.mode].counts[finding.kind] += 1
            found[attack.mode].told.append(f"{finding.kind} after {attack.name}: {finding.text}")
        return found


Results = dict[str, dict[str, dict[str, Outcome]]]


async def run(chosen: list[Server], processes: arena.Processes, certificates: servers.Certificates, root: Path, balancer: Path,
              trusting: bool) -> Results:
    """Outcomes by server, mode and proxy."""
    pairs = [(proxy, server) for server in chosen for proxy in servers.NAMES]
    chains = [Chain(number, proxy, server, processes.folder, trusting) for number, (proxy, server) in enumerate(pairs)]
    await asyncio.gather(*(chain.up(processes, certificates, root, balancer) for chain in chains))
    await asyncio.gather(*(chain.run() for chain in chains))
    # What was smuggled may still be on its way to its server.
    await asyncio.sleep(SETTLE)
    await asyncio.to_thread(processes.stop_all)
    results: Results = {server.name: {mode: {} for mode in server.modes} for server in chosen}
    for chain in chains:
        for mode, outcome in chain.outcomes(processes).items():
            results[chain.server.name][mode][chain.proxy] = outcome
    return results
