"""Which fault comes next, at whom, for how long: decided by the seed alone, so that a run can be repeated."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chaos import faults


@dataclass(frozen=True)
class Step:
    number: int
    fault: str
    role: str  # at whom: "primary", "replica", "holder" (of the virtual address), "any"; who that is, is seen when it comes
    seconds: float  # how long it lasts, for faults that last
    pick: int  # for every other choice that a fault makes
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.0f} s" if self.seconds else ""
        more = "".join(f", {k} {v}" for k, v in self.options.items())
        return f"{self.fault}{'' if self.role == 'any' else f' of the {self.role}'}{lasting}{more}"


def plan(seed: int | str, names: list[str]) -> Iterator[Step]:
    """Without end. Every fault comes once before one comes again, in an order of its own each time."""
    chance = random.Random(f"trivet chaos {seed}")
    number = 0
    while True:
        turn = list(names)
        chance.shuffle(turn)
        for name in turn:
            number += 1
            fault = faults.FAULTS[name]
            low, high = fault.seconds
            yield Step(number, name, chance.choice(fault.roles), round(chance.uniform(low, high), 1), chance.randrange(1 << 16),
                       {k: chance.choice(v) for k, v in fault.options.items()})
