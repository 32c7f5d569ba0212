"""Coverage of the 95 % intervals in use: Wilson's, Tango's, and Student's over trainings.

The first two are summed over all outcomes, without chance; the last is simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from scipy.stats import binom

from agentopt_local.record import Record
from agentopt_local.statistics import t_interval, tango, wilson

WANTED = 0.94
SIZES = (20, 24, 36, 60, 100, 200)
RATES = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.20, 0.30)
"""Chances that a problem is gained, and that it is lost."""
BETWEEN_SETS = 10.0
"""Standard deviation of the true effects of the sets that trainings find, points."""
N_TEST = 80


class Coverage(Record):
    """How often an interval holds the truth, over a grid of truths."""

    interval: str
    n: int
    """Problems, or trainings."""
    truths: int
    mean: float
    """Over the grid."""
    lowest: float
    at: str
    """Where it is lowest."""
    below: int
    """Truths with less than ``WANTED``."""


def of_grid(interval: str, n: int, covered: dict[str, float]) -> Coverage:
    """The coverage over a grid, from the coverage at each truth."""
    at, lowest = min(covered.items(), key=lambda each: each[1])
    return Coverage(
        interval=interval,
        n=n,
        truths=len(covered),
        mean=sum(covered.values()) / len(covered),
        lowest=lowest,
        at=at,
        below=sum(each < WANTED for each in covered.values()),
    )


def wilson_coverage(n: int) -> Coverage:
    """Of a share, from 1 to 99 %."""
    low, high = np.array([wilson(k, n) for k in range(n + 1)]).T
    covered = {}
    for hundredths in range(1, 100):
        p = hundredths / 100
        covered[f"{hundredths} %"] = float(binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum())
    return of_grid("Wilson", n, covered)


def tango_coverage(n: int) -> Coverage:
    """Of a paired difference, with gains and losses in RATES."""
    lost, gained = np.array([(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]).T
    low, high = np.array([tango(int(g), int(each), n) for g, each in zip(gained, lost, strict=True)]).T
    covered = {}
    for gain, loss in product(RATES, RATES):
        weights = binom.pmf(gained + lost, n, gain + loss) * binom.pmf(gained, gained + lost, gain / (gain + loss))
        holds = (low <= gain - loss) & (gain - loss <= high)
        covered[f"gains {gain:.0%}, losses {loss:.0%}"] = float(weights[holds].sum())
    return of_grid("Tango", n, covered)


def t_coverage(n: int, repeats: int) -> Coverage:
    """Of the mean effect over ``n`` trainings, whose sets differ and are each tested on N_TEST problems."""
    draw = np.random.default_rng(0)
    covered = {}
    for mean in (0.0, 5.0):
        hits = 0
        for _ in range(repeats):
            effects = (mean + BETWEEN_SETS * draw.standard_normal(n)) / 100
            changed = np.minimum(0.2 + np.abs(effects), 1)
            gained, lost, _same = draw.multinomial(
                N_TEST, np.array([(changed + effects) / 2, (changed - effects) / 2, 1 - changed]).T
            ).T
            low, high = t_interval((100 * (gained - lost) / N_TEST).tolist())
            hits += low <= mean <= high
        covered[f"mean effect {mean:.0f} points"] = hits / repeats
    return of_grid("Student's t, over trainings", n, covered)


def coverages(trainings: int) -> Iterator[Coverage]:
    """All of them; ``trainings``: a tenth of the repetitions of what is simulated."""
    yield from (wilson_coverage(n) for n in SIZES)
    yield from (tango_coverage(n) for n in SIZES)
    yield from (t_coverage(n, 10 * trainings) for n in (3, 5, 8))
