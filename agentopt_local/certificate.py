"""The decision of a certificate: does a set of functions help, on problems that played no part in its training?

The problems are in random order, and the evidence is looked at after each: a sign test that may stop at any moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

from agentopt_local.record import Record
from agentopt_local.statistics import sign_evidence

FUTILITY = 3.0
"""Evidence of the opposite, that losses are likelier than gains, at which it is no use to go on. Stopping there only
ever withholds a certificate, so it makes no false one likelier."""


class SignResult(Record):
    """Where a sequential sign test ended."""

    verdict: Literal["helps", "does_not_help", "no_evidence"]
    """``no_evidence``: the problems ended before there was a decision."""
    evidence: float
    """The e-value of "a changed problem is more likely gained than lost" at the end."""
    n: int
    """Problems that were looked at, unchanged ones too."""
    gained: int
    lost: int

    @property
    def decided(self) -> bool:
        """Whether more problems would change nothing."""
        return self.verdict != "no_evidence"


def sequential_sign_test(changes: Iterable[float], level: float) -> SignResult:
    """Look at one problem after the other and stop at the first decision.

    ``changes``: the reward after minus the reward before for each problem, in random order. Only the sign counts, so a
    partial reward that rises a little is a gain like any other. ``helps`` at an e-value of 1/``level`` or more: if
    gains are at most as likely as losses, that happens with probability ``level`` at most, however many problems there
    are (Ville's inequality). ``does_not_help`` once the evidence of the opposite is FUTILITY. Raises ``ValueError``
    unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: 0 < level < 1 must hold")
    n = gained = lost = 0
    evidence = 1.0
    for change in changes:
        n += 1
        if change == 0:
            continue
        gained, lost = gained + (change > 0), lost + (change < 0)
        evidence = sign_evidence(gained, lost)
        if evidence >= 1 / level:
            return SignResult(verdict="helps", evidence=evidence, n=n, gained=gained, lost=lost)
        if sign_evidence(lost, gained) >= FUTILITY:
            return SignResult(verdict="does_not_help", evidence=evidence, n=n, gained=gained, lost=lost)
    return SignResult(verdict="no_evidence", evidence=evidence, n=n, gained=gained, lost=lost)


def gains_needed(level: float) -> int:
    """The fewest problems with which :func:`sequential_sign_test` can say ``helps``: all of them gained."""
    return next(gained for gained in itertools.count(1) if sign_evidence(gained, 0) >= 1 / level)
