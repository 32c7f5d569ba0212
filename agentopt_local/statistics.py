"""Confidence intervals and tests for an accuracy and for a change in accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from agentopt_local.record import Record

RESAMPLES = 10_000
"""Resamples of the paired bootstrap."""


class PairedDifference(Record):
    """Two measurements on the same problems, compared problem by problem."""

    n: int
    """Problems."""
    points: float
    """Accuracy after minus accuracy before, in percentage points."""
    ci95: tuple[float, float]
    """95 % percentile interval of ``points``, by a bootstrap that resamples problems."""
    p_value: float
    """Exact two-sided McNemar test of "no change"."""
    gained: int
    """Problems that were wrong before and right after."""
    lost: int
    """Problems that were right before and wrong after."""


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of ``k`` successes in ``n`` trials, as fractions; (0, 1) if ``n`` is 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212.
    Raises ``ValueError`` unless 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes in {n} trials: 0 <= k <= n must hold")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)  # importing scipy for this would delay a live view by a second
    p = k / n
    center = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At k = 0 and k = n the formula gives exactly 0 and 1; this avoids rounding errors.
    low = 0.0 if k == 0 else (center - half) / scale
    high = 1.0 if k == n else (center + half) / scale
    return low, high


def paired_difference(before: Sequence[bool], after: Sequence[bool], seed: int = 0) -> PairedDifference:
    """Compare which problems were answered correctly before and after; both sequences are in the same order.

    The interval is the percentile interval of 10,000 resamples of the problems. The p-value is from McNemar's exact
    test (Psychometrika 12 (1947), 153-157), under which each changed problem is gained with probability 1/2. Without
    problems the difference is 0, the interval -100 to 100 and the p-value 1.

    Raises ``ValueError`` if the sequences differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} results before and {len(after)} after are not of the same problems")
    n = len(before)
    gained = sum(bool(new) and not old for old, new in zip(before, after, strict=True))
    lost = sum(bool(old) and not new for old, new in zip(before, after, strict=True))
    if n == 0:
        return PairedDifference(n=0, points=0.0, ci95=(-100.0, 100.0), p_value=1.0, gained=0, lost=0)
    import numpy as np
    from scipy.stats import binomtest

    # A problem is gained, lost or unchanged, so a resample of n problems is one draw from a multinomial.
    shares = [gained / n, lost / n, (n - gained - lost) / n]
    draws = np.random.default_rng(seed).multinomial(n, shares, size=RESAMPLES)
    points = 100.0 * (draws[:, 0] - draws[:, 1]) / n
    low, high = (float(value) for value in np.quantile(points, [0.025, 0.975]))
    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return PairedDifference(
        n=n, points=100.0 * (gained - lost) / n, ci95=(low, high), p_value=p_value, gained=gained, lost=lost
    )
