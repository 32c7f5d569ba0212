"""When an update is kept: a pure function of the rewards before and after it, problem by problem.

Any function changes the prompt, and so some outcomes, by chance. An update that changes nothing on average solves more
problems than before in 30 to 40 % of tries, and one that only looks up the answers that its author was shown always
does. The default therefore counts only problems that the edits' author was not shown, and asks for a gain of at least
one standard deviation of chance. ``benchmarks.trust`` simulates what each rule lets through.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.setting_types import Count, Share
from agentopt_local.statistics import sign_evidence

Acceptance = Literal["unseen", "mean", "paper", "sequential"]
_ROUNDING = 1e-9
"""Of sums of partial rewards."""


class Judgement(Record):
    """An update's rewards on the problems that count, and whether it is kept."""

    accepted: bool
    n: Count
    """Problems that count."""
    before: Share
    """Mean reward on them, 0 to 1."""
    after: Share
    gained: Count
    """Of them, those with more reward than before."""
    lost: Count
    """Of them, those with less."""

    @property
    def gain(self) -> float:
        """The change of the mean reward, -1 to 1."""
        return self.after - self.before


def judge(
    rule: Acceptance,
    before: Sequence[float],
    after: Sequence[float],
    *,
    shown: Collection[int] = (),
    smaller: bool = False,
    alpha: float = 0.1,
) -> Judgement:
    """Whether an update with these rewards is kept; both sequences are in the order of the problems.

    ``shown``: indices of the problems that its author was shown. ``smaller``: it only takes functions away.

    ``unseen``: only problems that were not shown count. The sum of the changes must be positive and at least the root
    of the sum of their squares: gained - lost >= sqrt(gained + lost) where grades are right or wrong. A smaller set
    wins ties. ``sequential``: the same problems count, and the e-value of a gain (``statistics.sign_evidence``) must
    reach 1/``alpha``. ``mean``: the mean reward on all problems must rise, as in the paper's Algorithm 2. ``paper``: it
    must not fall, as in its authors' code.
    """
    all_count = rule in ("mean", "paper")
    counted = [index for index in range(len(before)) if all_count or index not in shown]
    changes = [after[index] - before[index] for index in counted]
    gained, lost = sum(each > _ROUNDING for each in changes), sum(each < -_ROUNDING for each in changes)
    total = sum(changes)
    if not counted:
        accepted = False
    elif rule == "paper" or (smaller and not all_count):
        accepted = total >= -_ROUNDING
    elif rule == "sequential":
        accepted = sign_evidence(gained, lost) >= 1 / alpha
    else:
        margin = 0.0 if rule == "mean" else sum(each * each for each in changes) ** 0.5
        accepted = total > _ROUNDING and total >= margin - _ROUNDING
    n = len(counted)
    return Judgement(
        accepted=accepted,
        n=n,
        before=sum(before[index] for index in counted) / n if n else 0.0,
        after=sum(after[index] for index in counted) / n if n else 0.0,
        gained=gained,
        lost=lost,
    )


def is_smaller(new: FunctionSet, old: FunctionSet) -> bool:
    """Whether ``new`` only lacks some functions of ``old``."""
    return set(new.functions) < set(old.functions)
