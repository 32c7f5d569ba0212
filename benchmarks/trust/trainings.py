"""Whole trainings per acceptance rule: what they gain, and how many of the steps that they keep are useless."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from agentopt_local.record import Record
from agentopt_local.statistics import wilson
from agentopt_local.train_state import TrainerConfig
from benchmarks.trust.simulation import MIXES, Mix, Training, train

SIZES = (24, 36, 100, 200)
"""Training problems."""
RULES: dict[str, dict[str, str | bool]] = {
    "mean": {},
    "paper": {"accept_ties": True},
}
STEPS = 5
CANDIDATES = 4
MEMORISING = (0.15, 0.5)
CHUNK = 50
"""Trainings that a process makes before it reports."""


class Cell(Record):
    """Trainings that differ in nothing but their seeds."""

    mix: str
    memorising: float
    n: int
    rule: str

    @property
    def candidates(self) -> Mix:
        """What the optimizer proposes."""
        return MIXES[self.mix].memorising_more(self.memorising)

    @property
    def config(self) -> TrainerConfig:
        """The trainer's settings: it makes all steps, as a comparison of rules needs."""
        return TrainerConfig.model_validate(
            {
                "max_epochs": STEPS,
                "patience": STEPS,
                "n_candidates": CANDIDATES,
                "noise_floor": False,
                **RULES[self.rule],
            }
        )


class Summary(Record):
    """The trainings of one cell."""

    gain: float
    """Mean true gain, points."""
    gain_error: float
    """Its standard error."""
    apparent: float
    """Mean gain on the training problems, points."""
    accepted: float
    """Accepted steps per training."""
    useless: float
    """Share of accepted steps that are useless or harmful; 0 if none was accepted."""
    useless_ci95: tuple[float, float]
    """Its Wilson interval."""
    rollouts: float
    """Rollouts per training."""


def cells(sizes: Sequence[int] = SIZES, mixes: Sequence[str] = tuple(MIXES)) -> Iterator[Cell]:
    """All cells, in the order of the tables."""
    for mix in mixes:
        for memorising in MEMORISING:
            for n in sizes:
                for rule in RULES:
                    yield Cell(mix=mix, memorising=memorising, n=n, rule=rule)


def trainings(cell: Cell, seeds: Sequence[int]) -> list[Training]:
    """One training per seed."""

    async def all_of_them() -> list[Training]:
        return [await train(cell.n, cell.candidates, cell.config, seed) for seed in seeds]

    return asyncio.run(all_of_them())


def summary(done: Sequence[Training]) -> Summary:
    """What the trainings of a cell have in common."""
    gains = [each.gain for each in done]
    accepted, useless = sum(each.accepted for each in done), sum(each.useless for each in done)
    return Summary(
        gain=statistics.mean(gains),
        gain_error=statistics.stdev(gains) / math.sqrt(len(gains)),
        apparent=statistics.mean(each.apparent for each in done),
        accepted=accepted / len(done),
        useless=useless / max(1, accepted),
        useless_ci95=wilson(useless, accepted),
        rollouts=statistics.mean(each.rollouts for each in done),
    )


def measure(chosen: Sequence[Cell], n_trainings: int, processes: int) -> Iterator[tuple[Cell, Summary]]:
    """Train in several processes; each cell's result as soon as it and those before it are done."""
    seeds = [range(first, min(first + CHUNK, n_trainings)) for first in range(0, n_trainings, CHUNK)]
    with ProcessPoolExecutor(processes) as pool:
        under_way = [(cell, [pool.submit(trainings, cell, some) for some in seeds]) for cell in chosen]
        for cell, parts in under_way:
            yield cell, summary([each for part in parts for each in part.result()])
