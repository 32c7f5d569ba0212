"""How often a decision is right: certificates, edits that do not help, and the gain that can be seen.

Certificates are simulated with the library's own sequential test; the rest is summed over all outcomes, without chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from scipy.stats import binom

from agentopt_local.acceptance import Acceptance, judge
from agentopt_local.certificate import sequential_sign_test
from agentopt_local.noise_floor import visible_gain
from agentopt_local.record import Record
from agentopt_local.statistics import sign_test, wilson
from benchmarks.trust.simulation import N_SHOWN
from benchmarks.trust.trainings import CANDIDATES, RULES

CAP = 200
"""Problems that a certificate may use."""
ALPHAS = (0.05, 0.1)
RATES = {
    "none, 20 % change": (0.10, 0.10),
    "none, 5 % change": (0.025, 0.025),
    "-2 points": (0.09, 0.11),
    "+5 points": (0.10, 0.05),
    "+10 points": (0.15, 0.05),
    "+28 points": (0.30, 0.02),
}
"""Shares of problems gained and lost."""
FLIP_RATES = (0.05, 0.10, 0.20)
SIGNIFICANT = 1.645
"""The normal distribution's 95 % quantile."""

Accepts = Callable[[int, int, int], bool]
"""Whether so many gained and lost of n problems are accepted."""


class Certificates(Record):
    """What many certificates of sets with one true effect said."""

    effect: str
    alpha: float
    helps: float
    """Share of them."""
    helps_ci95: tuple[float, float]
    """Its Wilson interval."""
    does_not_help: float
    no_evidence: float
    problems: float
    """Mean number that was looked at."""


def certificates(n: int) -> Iterator[Certificates]:
    """``n`` certificates for each true effect and alpha."""
    for effect, (gain, loss) in RATES.items():
        for alpha in ALPHAS:
            draw = np.random.default_rng(0)
            found = [
                sequential_sign_test((draw.choice(3, CAP, p=(loss, 1 - gain - loss, gain)) - 1).tolist(), alpha)
                for _ in range(n)
            ]
            verdicts = Counter(each.verdict for each in found)
            yield Certificates(
                effect=effect,
                alpha=alpha,
                helps=verdicts["helps"] / n,
                helps_ci95=wilson(verdicts["helps"], n),
                does_not_help=verdicts["does_not_help"] / n,
                no_evidence=verdicts["no_evidence"] / n,
                problems=sum(each.n for each in found) / n,
            )


def chance(accepts: Accepts, n: int, gain: float, loss: float) -> float:
    """How often ``accepts`` holds if each of ``n`` problems is gained and lost with these chances."""
    total = 0.0
    for changed in range(n + 1):
        gained = np.arange(changed + 1)
        weights = binom.pmf(changed, n, gain + loss) * binom.pmf(gained, changed, gain / (gain + loss))
        total += sum(weight for weight, g in zip(weights, gained, strict=True) if accepts(int(g), changed - int(g), n))
    return total


@cache
def rule(name: Acceptance) -> Accepts:
    """An acceptance rule as a function of what is gained and lost."""

    @cache
    def accepts(gained: int, lost: int, n: int) -> bool:
        before = [0.0] * gained + [1.0] * lost + [0.0] * (n - gained - lost)
        after = [1.0] * gained + [0.0] * (n - gained)
        return judge(name, before, after).accepted

    return accepts


def idle_edits() -> Iterator[tuple[str, ...]]:
    """Rows: the share of edits with an effect of zero or less that a rule accepts, one / best of several."""
    for effect in (0.0, -0.05):
        for name in RULES:
            for n in (20, 24, 36):
                counted = n if name in ("mean", "paper") else n - N_SHOWN
                accepted = [
                    chance(rule(name), counted, (rate + effect) / 2, (rate - effect) / 2) for rate in FLIP_RATES
                ]
                cells = (f"{each:.2f} / {1 - (1 - each) ** CANDIDATES:.2f}" for each in accepted)
                yield f"{100 * effect:+.0f}" if effect else "0", name, str(n), *cells


def normal_test(gained: int, lost: int, n: int) -> bool:
    """A one-sided test at 5 % by the normal approximation."""
    return gained > lost and gained - lost >= SIGNIFICANT * math.sqrt(gained + lost)


def exact_test(gained: int, lost: int, n: int) -> bool:
    """The one-sided exact sign test at 5 %."""
    return gained > lost and sign_test(gained, lost) <= 0.1


def floor_power() -> Iterator[tuple[str, ...]]:
    """Rows: how often the gain that the noise floor calls visible is seen, if chance changes a share q of problems."""
    for n in (20, 24, 36, 60, 100, 200):
        for rate in FLIP_RATES:
            gain = visible_gain(rate, n)
            # the gain comes on top of what chance changes
            seen = [
                chance(test, n, min(rate / 2 + gain, 1 - rate / 2), rate / 2)
                for test in (normal_test, exact_test, rule("unseen"))
            ]
            yield str(n), f"{rate:.2f}", f"{100 * gain:.1f}", *(f"{100 * each:.0f} %" for each in seen)
