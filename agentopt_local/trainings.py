"""What several trainings show together: the mean change with an interval, the spread, and how many more are needed.

Each training has its own learned set. Their changes differ, and by how much is only seen by training again: no number
of test problems tells it. All trainings are tested on the same problems.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from agentopt_local.record import Record
from agentopt_local.statistics import PairedDifference, t_interval, t_power, t_test, tango, wilson

POINTS = 5.0
"""The gain, in percentage points, for which the number of trainings is worked out unless another is asked for."""
POWER = 0.8
"""How often a test should find a true gain."""
MOST = 1000
"""Numbers of trainings beyond this are not worked out."""


class Mean(Record):
    """A share or a change over trainings, in per cent or percentage points, with its 95 % interval."""

    value: float
    low: float
    high: float
    p_value: float | None = None
    """Of "no change"; None for a share."""
    each: tuple[float, ...] = ()
    """The value of each training."""
    left_open: float = 0.0
    """Half the width, in points, that the test problems alone leave to a change, however many trainings there are."""

    @property
    def sd(self) -> float | None:
        """The standard deviation between trainings; None for one training, which does not tell."""
        return stdev(self.each) if len(self.each) > 1 else None


def mean_share(right: Sequence[int], n: int) -> Mean:
    """The accuracy over trainings; ``right``: the problems of ``n`` that each solved.

    One training has a Wilson interval. Several have the wider of Student's t over their accuracies and Wilson's of the
    mean. Raises ``ValueError`` if there is no training.
    """
    each = tuple(100 * k / n if n else 0.0 for k in right)
    low, high = (100 * bound for bound in wilson(fmean(right), n))
    if len(each) > 1:
        t_low, t_high = t_interval(each)
        low, high = max(0.0, min(low, t_low)), min(100.0, max(high, t_high))
    return Mean(value=fmean(each), low=low, high=high, each=each)


def mean_change(changes: Sequence[PairedDifference]) -> Mean:
    """The mean change over trainings that were tested on the same problems.

    One training has Tango's interval and McNemar's exact test, which say nothing about other trainings. Several have
    the wider of two intervals: Student's t over their changes, for other trainings, and Tango's for the mean numbers
    gained and lost, for other problems. The p-value is the larger of the t test's and the score test's. Student's t
    alone would be about these test problems only: trainings that learned the same agree, however few the problems are.

    Raises ``ValueError`` if there is no training, or if the numbers of problems differ.
    """
    if len({each.n for each in changes}) != 1:
        raise ValueError("the trainings were tested on different numbers of problems")
    n, each = changes[0].n, tuple(change.points for change in changes)
    if len(each) == 1:
        (low, high), p_value = changes[0].ci95, changes[0].p_value
        return Mean(value=each[0], low=low, high=high, p_value=p_value, each=each, left_open=(high - low) / 2)
    gained, lost = fmean(change.gained for change in changes), fmean(change.lost for change in changes)
    by_problems, by_trainings = tango(gained, lost, n), t_interval(each)
    score = (gained - lost) / math.sqrt(gained + lost) if gained + lost else 0.0
    return Mean(
        value=fmean(each),
        low=max(-100.0, min(100 * by_problems[0], by_trainings[0])),
        high=min(100.0, max(100 * by_problems[1], by_trainings[1])),
        p_value=max(2 * NormalDist().cdf(-abs(score)), t_test(each)),
        each=each,
        left_open=50 * (by_problems[1] - by_problems[0]),
    )


def trainings_needed(points: float, sd: float) -> int | None:
    """How many trainings a t test at 5 % needs to find a true mean change of ``points`` in 80 % of cases.

    ``sd`` is the standard deviation between trainings in points. None if it takes more than MOST.
    """
    if sd == 0 and points != 0:
        return 2
    if points == 0 or t_power(points / sd, MOST) < POWER:
        return None
    return bisect_left(range(MOST), POWER, lo=2, key=lambda n: t_power(points / sd, n))


def outlook(mean: Mean, points: float = POINTS) -> str:
    """How many more trainings would show a true gain of ``points``, and one as large as the observed mean, in words.

    It says so if the test problems are too few for that.
    """
    if mean.sd is None:
        return "one training says nothing about other trainings; a second one shows how much they differ"
    parts = []
    for wanted in (points, mean.value):
        needed = trainings_needed(wanted, mean.sd)
        gain = (
            f"{points:g} point{'' if points == 1 else 's'}" if wanted is points else f"the observed {mean.value:+.1f}"
        )
        if needed is not None:
            more = max(0, needed - len(mean.each))
            parts.append(f"{more or 'no'} more training{'' if more == 1 else 's'} to see {gain}")
        elif round(wanted, 1):
            parts.append(f"more than {MOST} trainings to see {gain}")
    too_few = f"; whatever their number, the test problems leave ±{mean.left_open:.1f} points open"
    return ", ".join(parts) + (too_few if mean.left_open > points else "")
