"""Confidence intervals and tests: of an accuracy, of a change in accuracy, and of a mean over trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from agentopt_local.record import Record

Z = NormalDist().inv_cdf(0.975)
# scipy is imported where only a table over trainings needs it: a live view would wait a second for it.


class PairedDifference(Record):
    """Two measurements on the same problems, compared problem by problem."""

    n: int
    """Problems."""
    points: float
    """Accuracy after minus accuracy before, in percentage points."""
    ci95: tuple[float, float]
    """Tango's 95 % interval of ``points``."""
    p_value: float
    """Exact two-sided McNemar test of "no change"."""
    gained: int
    """Problems that were wrong before and right after."""
    lost: int
    """Problems that were right before and wrong after."""


def wilson(k: float, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of ``k`` successes in ``n`` trials, as fractions; (0, 1) if ``n`` is 0.

    ``k`` may be a mean over repetitions.
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212.
    Raises ``ValueError`` unless 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes in {n} trials: 0 <= k <= n must hold")
    if n == 0:
        return 0.0, 1.0
    p = k / n
    center = p + Z * Z / (2 * n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    # At k = 0 and k = n the formula gives exactly 0 and 1; this avoids rounding errors.
    low = 0.0 if k == 0 else (center - half) / scale
    high = 1.0 if k == n else (center + half) / scale
    return low, high


def tango(gained: float, lost: float, n: int) -> tuple[float, float]:
    """Tango's 95 % score interval of (gained - lost) / n, as fractions; (-1, 1) if ``n`` is 0.

    It holds all differences that a score test does not reject, so it has a width even if no problem changed, and covers
    the true difference where few did, as a bootstrap does not. Source: Tango, "Equivalence test and confidence interval
    for the difference in proportions for the paired-sample design", Statistics in Medicine 17 (1998), 891-908.
    ``gained`` and ``lost`` may be means over repetitions. Raises ``ValueError`` unless 0 <= gained, 0 <= lost and
    gained + lost <= n.
    """
    if min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n}: neither may be negative, nor their sum exceed n")
    if n == 0:
        return -1.0, 1.0
    change = (gained - lost) / n

    def rejects(delta: float) -> bool:
        """Whether the score test rejects a true difference of ``delta``."""
        # the likeliest share of losses if the true difference is delta solves 2n p² + b p + c = 0
        b = (2 * n - gained + lost) * delta - gained - lost
        c = -lost * delta * (1 - delta)
        losses = max((math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n), 0.0)
        return abs(gained - lost - n * delta) > Z * math.sqrt(max(n * (2 * losses + delta * (1 - delta)), 0.0))

    def bound(end: float) -> float:
        """Between ``change``, which is never rejected, and ``end``."""
        if not rejects(end):
            return end
        inside, outside = change, end
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if rejects(middle) else (middle, outside)
        return inside

    return bound(-1.0), bound(1.0)


def mean_interval(changes: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of paired changes that lie between -1 and 1; (-1, 1) for none.

    For changes of -1, 0 and 1 it is Agresti and Min's: Wald's with half a gain and half a loss in two more problems. It
    has a width even if nothing changed. Source: Agresti and Min, "Simple improved confidence intervals for comparing
    matched proportions", Statistics in Medicine 24 (2005), 729-740.
    """
    if not changes:
        return -1.0, 1.0
    n = len(changes) + 2
    mean = math.fsum(changes) / n
    spread = (math.fsum(each * each for each in changes) + 1) / n - mean * mean
    half = Z * math.sqrt(max(spread, 0.0) / n)
    return max(-1.0, mean - half), min(1.0, mean + half)


def fisher_test(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Fisher's exact one-sided p-value of "``hits`` of ``n`` is no more than ``other_hits`` of ``other_n``".

    Source: Fisher, "The logic of inductive inference", Journal of the Royal Statistical Society 98 (1935), 39-82.
    Raises ``ValueError`` for more hits than trials.
    """
    if not (0 <= hits <= n and 0 <= other_hits <= other_n):
        raise ValueError(f"{hits} of {n} and {other_hits} of {other_n}: there cannot be more hits than trials")
    both = hits + other_hits
    ways = sum(math.comb(n, k) * math.comb(other_n, both - k) for k in range(hits, min(n, both) + 1))
    return ways / math.comb(n + other_n, both)


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> PairedDifference:
    """Compare which problems were answered correctly before and after; both sequences are in the same order.

    The interval is Tango's. The p-value is from McNemar's exact test (Psychometrika 12 (1947), 153-157), under which
    each changed problem is gained with probability 1/2.

    Raises ``ValueError`` if the sequences differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} results before and {len(after)} after are not of the same problems")
    n = len(before)
    gained = sum(bool(new) and not old for old, new in zip(before, after, strict=True))
    lost = sum(bool(old) and not new for old, new in zip(before, after, strict=True))
    low, high = tango(gained, lost, n)
    return PairedDifference(
        n=n,
        points=100.0 * (gained - lost) / n if n else 0.0,
        ci95=(100.0 * low, 100.0 * high),
        p_value=sign_test(gained, lost),
        gained=gained,
        lost=lost,
    )


def sign_test(gained: int, lost: int) -> float:
    """The exact two-sided p-value of "gains are as likely as losses"; 1 if there were none."""
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << changed))


def sign_evidence(gained: int, lost: int) -> float:
    """The e-value of "a changed problem is more likely gained than lost" after so many changed problems.

    A fair bet against "gains are at most as likely as losses", averaged over all chances of a gain above 1/2. If that
    is true, it ever reaches 1/alpha with probability alpha at most, so it may be looked at after every problem (Ville's
    inequality; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024)).
    """
    changed = gained + lost
    tail = sum(math.comb(changed + 1, k) for k in range(lost + 1, changed + 2))
    return tail / ((changed + 1) * math.comb(changed, gained))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Rejecting those below 5 % makes any false rejection among them happen in at most 5 % of cases, whatever their
    dependence. Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979), 65-70.
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean that ``values`` were drawn from, in their unit.

    Source: Student, "The probable error of a mean", Biometrika 6 (1908), 1-25. Raises ``ValueError`` for fewer than
    two values, whose spread is not known.
    """
    from scipy.stats import t

    mean, error = mean_and_error(values)
    half = float(t.ppf(0.975, len(values) - 1)) * error
    return mean - half, mean + half


def t_test(values: Sequence[float]) -> float:
    """The two-sided p-value of "the mean that ``values`` were drawn from is 0". Raises ``ValueError`` below two."""
    from scipy.stats import t

    mean, error = mean_and_error(values)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, len(values) - 1))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of ``values`` and its standard error. Raises ``ValueError`` for fewer than two."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} value: the spread is known from two on")
    return fmean(values), stdev(values) / math.sqrt(len(values))


def t_power(effect: float, n: int) -> float:
    """How often a t test of ``n`` values at 5 % (two-sided) finds a mean of ``effect`` standard deviations.

    Raises ``ValueError`` if ``n`` < 2.
    """
    from scipy.stats import nct, t

    if n < 2:
        raise ValueError(f"a t test of {n} values: there must be at least 2")
    critical, shift = t.ppf(0.975, n - 1), abs(effect) * math.sqrt(n)
    return float(nct.sf(critical, n - 1, shift) + nct.cdf(-critical, n - 1, shift))
