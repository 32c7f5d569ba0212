"""Accuracies and differences with intervals, over problems and trainings."""

from __future__ import annotations

from collections.abc import Sequence

from agentopt_local.statistics import paired_difference
from agentopt_local.trainings import Mean, mean_change, mean_share


def share(results: Sequence[Sequence[bool]]) -> Mean:
    """Accuracy over trainings; ``results``: right and wrong on the same problems, one row per training."""
    return mean_share([sum(row) for row in results], len(results[0]))


def difference(before: Sequence[Sequence[bool]], after: Sequence[Sequence[bool]]) -> Mean:
    """``after`` minus ``before`` in points, over trainings tested on the same problems."""
    return mean_change([paired_difference(*sides) for sides in zip(before, after, strict=True)])
