"""The sequential sign test of a certificate: its error and its power, against exact figures and simulation."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cache

import pytest
from scipy.stats import binom

from agentopt_local.certificate import FUTILITY, SignResult, gains_needed, sequential_sign_test
from agentopt_local.statistics import sign_evidence

evidence = cache(sign_evidence)


def false_certificates(level: float, changed: int, *, futility: bool) -> float:
    """The chance that fair coins ever reach 1/``level``, looked at after each of ``changed`` tosses."""
    alive, false = {(0, 0): 1.0}, 0.0
    for _ in range(changed):
        reached: dict[tuple[int, int], float] = defaultdict(float)
        for (gained, lost), chance in alive.items():
            reached[gained + 1, lost] += chance / 2
            reached[gained, lost + 1] += chance / 2
        false += sum(chance for counts, chance in reached.items() if evidence(*counts) >= 1 / level)
        alive = {
            (gained, lost): chance
            for (gained, lost), chance in reached.items()
            if evidence(gained, lost) < 1 / level and not (futility and evidence(lost, gained) >= FUTILITY)
        }
    return false


@pytest.mark.parametrize("level", [0.2, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("futility", [True, False])
def test_a_set_that_does_nothing_is_rarely_certified_however_long_one_looks(level: float, futility: bool) -> None:
    assert false_certificates(level, 250, futility=futility) <= level
    assert false_certificates(level, 40, futility=futility) > level / 5, "the test is not empty"


def test_a_test_that_ignores_the_looks_would_often_be_wrong() -> None:
    """What the e-value is for: five per cent at each look are many more in all."""
    alive, false = {0: 1.0}, 0.0
    for tosses in range(1, 201):
        reached: dict[int, float] = defaultdict(float)
        for gained, chance in alive.items():
            reached[gained + 1] += chance / 2
            reached[gained] += chance / 2
        hits = {gained for gained in reached if binom.sf(gained - 1, tosses, 0.5) <= 0.05}
        false += sum(reached[gained] for gained in hits)
        alive = {gained: chance for gained, chance in reached.items() if gained not in hits}
    assert false > 0.2


def simulated(gain: float, lose: float, level: float, n: int, repeats: int) -> list[SignResult]:
    """Certificates for sets that gain and lose such shares of the problems."""
    draw = random.Random(0)
    return [
        sequential_sign_test(
            [(each < gain) - (gain <= each < gain + lose) for each in (draw.random() for _ in range(n))], level
        )
        for _ in range(repeats)
    ]


@pytest.mark.parametrize(("level", "q"), [(0.05, 0.2), (0.05, 0.6), (0.1, 0.2), (0.1, 0.6)])
def test_false_certificates_in_simulation(level: float, q: float) -> None:
    repeats = 400
    for gain in (q / 2, 0.4 * q):  # no effect, and a harmful one
        false = sum(each.verdict == "helps" for each in simulated(gain, q - gain, level, 200, repeats))
        assert false <= binom.ppf(0.999, repeats, level if gain == q / 2 else level / 2)


def test_power() -> None:
    """Effects of +28, +10 and +5 points, with up to 200 problems at alpha = 0.05."""
    large, middle, small = (simulated(*shares, 0.05, 200, 500) for shares in ((0.3, 0.02), (0.15, 0.05), (0.1, 0.05)))
    helps = [sum(each.verdict == "helps" for each in found) / 500 for found in (large, middle, small)]
    assert helps == pytest.approx([1.0, 0.78, 0.31], abs=0.05)
    assert sum(each.n for each in large) / 500 == pytest.approx(28, abs=2)
    assert sum(each.n for each in middle) / 500 == pytest.approx(115, abs=8)


def test_it_stops_at_the_first_decision() -> None:
    unchanged, gained, lost = 0.0, 1.0, -1.0
    endless = sequential_sign_test([unchanged, *[gained] * 30, *[lost] * 90], 0.05)
    assert (endless.verdict, endless.n, endless.gained, endless.lost) == ("helps", 8, 7, 0)
    assert endless.evidence == pytest.approx((2**8 - 1) / 8)
    worse = sequential_sign_test([lost, lost, unchanged, lost, *[gained] * 90], 0.05)
    assert (worse.verdict, worse.n, worse.lost) == ("does_not_help", 4, 3)
    open_still = sequential_sign_test([gained, lost] * 20, 0.05)
    assert (open_still.verdict, open_still.n, open_still.decided) == ("no_evidence", 40, False)
    assert sequential_sign_test([], 0.05) == SignResult(verdict="no_evidence", evidence=1.0, n=0, gained=0, lost=0)


def test_only_the_sign_of_a_partial_reward_counts() -> None:
    rewards = [(0.2, 0.3), (0.9, 1.0), (0.5, 0.5), (0.8, 0.1), (0.0, 1.0)]
    small = sequential_sign_test([after - before for before, after in rewards], 0.05)
    assert (small.n, small.gained, small.lost) == (5, 3, 1)


def test_what_is_needed_at_least() -> None:
    assert [gains_needed(level) for level in (0.2, 0.1, 0.05, 0.02, 0.01)] == [4, 5, 7, 8, 9]
    for level in (0.2, 0.05, 0.05 / 6):
        n = gains_needed(level)
        assert sequential_sign_test([1.0] * n, level).verdict == "helps"
        assert sequential_sign_test([1.0] * (n - 1), level).verdict == "no_evidence"


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match="0 < level < 1"):
        sequential_sign_test([1.0], level)
