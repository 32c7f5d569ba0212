"""Whole trainings per acceptance rule: what they gain, and how many of the steps that they keep are useless."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import get_args

from agentopt_local.acceptance import Acceptance
from agentopt_local.record import Record
from agentopt_local.statistics import wilson
from agentopt_local.train_state import TrainerConfig
from benchmarks.trust.simulation import MIXES, Mix, Training, train

SIZES = (24, 36, 100, 200)
"""Training problems."""
RULES: tuple[Acceptance, ...] = get_args(Acceptance)
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
    rule: Acceptance

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
                "acceptance": self.rule,
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


def cells(
    sizes: Sequence[int], mixes: Sequence[str], memorising: Sequence[float], rules: Sequence[Acceptance]
) -> Iterator[Cell]:
    """All cells, in the order of the table."""
    for mix, share, n, rule in itertools.product(mixes, memorising, sizes, rules):
        yield Cell(mix=mix, memorising=share, n=n, rule=rule)


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
    """Train with seeds 0, 1, 2 and so on; each cell's result as soon as it and those before it are done.

    A row's trainings are shared out to ``processes``; with 1, this process makes them.
    """
    if processes == 1:
        for cell in chosen:
            yield cell, summary(trainings(cell, range(n_trainings)))
        return
    seeds = [range(first, min(first + CHUNK, n_trainings)) for first in range(0, n_trainings, CHUNK)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        under_way = [(cell, [pool.submit(trainings, cell, some) for some in seeds]) for cell in chosen]
        for cell, shares in under_way:
            yield cell, summary([each for share in shares for each in share.result()])
