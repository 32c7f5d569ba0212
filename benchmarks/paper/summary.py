"""Accuracies and differences with intervals, over problems and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentopt_local.record import Record
from agentopt_local.statistics import paired_difference, wilson

RESAMPLES = 10_000


class Figure(Record):
    """A share or a difference, in per cent or points, with its 95 % interval."""

    value: float
    low: float
    high: float
    p_value: float | None = None
    """Of "no difference"; None for a share."""


def share(results: Sequence[Sequence[bool]]) -> Figure:
    """Accuracy over seeds; ``results``: right and wrong on the same problems, one row per seed.

    A single seed gets a Wilson interval. With several seeds, problems are resampled together with all their seeds,
    because the answers to one problem are not independent.
    """
    table = np.asarray(results, dtype=float)
    if len(table) == 1:
        low, high = wilson(int(table.sum()), table.shape[1])
        return Figure(value=100 * float(table.mean()), low=100 * low, high=100 * high)
    means = table.mean(axis=0)
    low, high = resampled(means)
    return Figure(value=100 * float(means.mean()), low=low, high=high)


def difference(before: Sequence[Sequence[bool]], after: Sequence[Sequence[bool]]) -> Figure:
    """``after`` minus ``before`` in points, on the same problems and seeds.

    A single seed gets Tango's interval and an exact McNemar test. With several seeds, problems are resampled together
    with all their seeds, and the p-value is from a sign-flip permutation test of the problems' mean differences.
    """
    if len(before) == 1:
        pair = paired_difference(before[0], after[0])
        return Figure(value=pair.points, low=pair.ci95[0], high=pair.ci95[1], p_value=pair.p_value)
    means = (np.asarray(after, dtype=float) - np.asarray(before, dtype=float)).mean(axis=0)
    low, high = resampled(means)
    flips = np.random.default_rng(0).choice((-1.0, 1.0), size=(RESAMPLES, len(means)))
    extreme = np.abs(flips @ means) >= abs(means.sum()) - 1e-9
    p_value = (1 + int(extreme.sum())) / (1 + RESAMPLES)
    return Figure(value=100 * float(means.mean()), low=low, high=high, p_value=p_value)


def resampled(means: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean, in per cent, by a bootstrap over problems."""
    draws = np.random.default_rng(0).integers(0, len(means), size=(RESAMPLES, len(means)))
    low, high = np.quantile(means[draws].mean(axis=1), [0.025, 0.975])
    return 100 * float(low), 100 * float(high)
