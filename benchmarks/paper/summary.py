"""Accuracies and differences with intervals, over problems and trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentopt_local.statistics import paired_difference
from agentopt_local.trainings import Mean, mean_change, mean_share


def share(results: Sequence[Sequence[bool]]) -> Mean:
    """Accuracy over trainings; ``results``: right and wrong on the same problems, one row per training."""
    return mean_share([sum(row) for row in results], len(results[0]))


def difference(before: Sequence[Sequence[bool]], after: Sequence[Sequence[bool]]) -> Mean:
    """``after`` minus ``before`` in points, over trainings tested on the same problems."""
    return mean_change([paired_difference(*sides) for sides in zip(before, after, strict=True)])


def mean(values: Any) -> float:
    """The arithmetic mean."""
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)


def interval(figure: Mean, *, sign: bool = False) -> str:
    """``52.5 [47.0, 58.1]``."""
    form = "+.1f" if sign else ".1f"
    value, low, high = (round(number, 1) + 0.0 for number in numbers(figure))  # + 0.0: no "-0.0"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def numbers(figure: Mean) -> tuple[float, float, float]:
    """Value and bounds."""
    return figure.value, figure.low, figure.high
