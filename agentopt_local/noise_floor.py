"""The noise floor: how many outcomes change although nothing is learned, and the gain that can be seen above it.

The agent that a training starts from is rolled out a second time with another seed, and once with a placebo: one more
function, which does nothing useful. A set that is not empty also has another system prompt, and before running code the
agent must say that no function fits; the placebo measures what that alone does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from agentopt_local.concurrency import together
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.rollout import Rollouts
from agentopt_local.run.report import Flips, NoiseFloor, Visible
from agentopt_local.seeds import derive
from agentopt_local.stage import Stage
from agentopt_local.statistics import paired_difference, wilson
from agentopt_local.trajectory import Trajectory

PLACEBO = 'def repeat_text{}(text: str) -> str:\n    """Return the text as it is."""\n    return text\n'
"""A legal tool for every kind of agent: harmless, plausible, and of no use."""
SEEN = 2.49
"""The standard normal's quantiles at 95 % and at 80 %, added: 1.645 + 0.842."""


def with_placebo(functions: FunctionSet) -> FunctionSet:
    """``functions`` and the placebo, under a name that is free."""
    number = 0
    while (placebo := Function(source=PLACEBO.format("_" * number))).name in functions:
        number += 1
    return functions.adding(placebo)


def visible_gain(flip_rate: float, n: int) -> float:
    """The smallest true gain, as a share, that ``n`` problems show in 80 % of cases in a one-sided test at 5 %.

    If chance changes a share q of all outcomes, as often one way as the other, and a gain d comes on top, then gained
    minus lost has a standard deviation of at most √(n (q + d)). A test at 5 % with a power of 80 % needs 1.645 + 0.842
    of them, so d = 2.49 √((q + d)/n), which is solved for d: the usual approximation for paired proportions (Connor,
    "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43 (1987), 207-211).
    ``benchmarks.trust`` holds it to exact sums. At most 1. Raises ``ValueError`` unless 0 <= flip_rate <= 1 and n >= 1.
    """
    if not 0 <= flip_rate <= 1 or n < 1:
        raise ValueError(f"a flip rate of {flip_rate} on {n} problems: it must be a share, of at least one problem")
    half = SEEN * SEEN / n / 2
    return min(1.0, half + math.sqrt(half * half + 2 * half * flip_rate))


def flips(first: Sequence[Trajectory], second: Sequence[Trajectory]) -> Flips:
    """How outcomes changed between two runs of the same problems, in one order."""
    change = paired_difference([each.correct for each in first], [each.correct for each in second])
    counts = (change.gained + change.lost, change.gained, change.lost)
    both, gained, lost = ((round(low, 4), round(high, 4)) for low, high in (wilson(k, change.n) for k in counts))
    return Flips(
        gained=change.gained,
        lost=change.lost,
        rate=round(counts[0] / change.n, 4) if change.n else 0.0,
        ci95=both,
        gained_ci95=gained,
        lost_ci95=lost,
    )


def noise_floor(
    first: Sequence[Trajectory],
    again: Sequence[Trajectory],
    placebo: Sequence[Trajectory],
    *,
    n_train: int,
    n_test: int,
) -> NoiseFloor:
    """The noise floor from three runs of the same problems; ``n_train`` is the number of problems of a step."""
    chance = flips(first, placebo)

    def visible(n: int) -> Visible:
        points, at_most = (round(100 * visible_gain(rate, n), 1) for rate in (chance.rate, chance.ci95[1]))
        return Visible(n=n, points=points, at_most=at_most)

    return NoiseFloor(
        n=len(first),
        again=flips(first, again),
        placebo=chance,
        train=visible(n_train),
        test=visible(n_test) if n_test else None,
    )


async def measure_noise_floor(
    rollouts: Rollouts, functions: FunctionSet, batch: Sequence[Problem], *, most: int, n_test: int, seed: int
) -> NoiseFloor:
    """Roll out ``functions`` twice, and once with the placebo, on the problems of step 1.

    ``batch`` are these problems, of which at most ``most``, drawn by the seed, are used. The first run is the beginning
    of step 1, which finds it done; the placebo has the same seed. Raises what the rollouts raise.
    """
    chosen = batch
    if most < len(batch):
        drawn = random.Random(derive(seed, "floor problems")).sample(range(len(batch)), most)
        chosen = [batch[index] for index in sorted(drawn)]

    first, again, placebo = await together(
        rollouts.run(tried, chosen, seed=its_seed, stage=Stage.parse(stage))
        for stage, tried, its_seed in (
            ("step 1 before", functions, seed),
            ("floor again", functions, derive(seed, "floor again")),
            ("floor placebo", with_placebo(functions), seed),
        )
    )
    return noise_floor(first, again, placebo, n_train=len(batch), n_test=n_test)
