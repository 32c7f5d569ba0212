"""Several trainings together: the mean change, its interval under simulation, and how many trainings are needed."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from agentopt_local.statistics import (
    PairedDifference,
    holm,
    paired_difference,
    t_interval,
    t_power,
    t_test,
    tango,
    wilson,
)
from agentopt_local.trainings import MOST, mean_change, mean_share, outlook, trainings_needed


def test_the_t_interval_is_scipy_s_and_needs_two_values() -> None:
    values = [50.0, 28.0, 28.0]
    expected = ttest_1samp(values, 0.0)
    assert t_interval(values) == pytest.approx(tuple(expected.confidence_interval()))
    assert t_test(values) == pytest.approx(expected.pvalue)
    assert (t_test([4.0, 4.0]), t_test([0.0, 0.0])) == (0.0, 1.0)
    with pytest.raises(ValueError, match="the spread is known from two on"):
        t_interval([3.0])


def test_power_by_simulation() -> None:
    values = np.random.default_rng(0).normal(1.0, 1.0, (4000, 8))
    found = (ttest_1samp(values, 0.0, axis=1).pvalue < 0.05).mean()
    assert t_power(1.0, 8) == pytest.approx(found, abs=0.03)
    assert t_power(0.0, 8) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="at least 2"):
        t_power(1.0, 1)


def test_the_number_of_trainings_is_the_first_with_enough_power() -> None:
    for points, sd in ((5.0, 3.0), (5.0, 12.7), (-35.0, 12.7), (2.0, 8.0)):
        needed = trainings_needed(points, sd)
        assert needed is not None
        assert t_power(points / sd, needed) >= 0.8
        assert needed == 2 or t_power(points / sd, needed - 1) < 0.8
    assert trainings_needed(5.0, 0.0) == 2
    assert trainings_needed(0.0, 5.0) is trainings_needed(0.1, 50.0) is None


def test_holm_by_hand() -> None:
    # The example of Holm's method: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04 is raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def change(gained: int, lost: int, n: int = 60) -> PairedDifference:
    before = [False] * gained + [True] * lost + [False] * (n - gained - lost)
    after = [True] * gained + [False] * lost + [False] * (n - gained - lost)
    return paired_difference(before, after)


def test_one_training_has_tango_and_several_have_the_wider_interval() -> None:
    one = mean_change([change(12, 3)])
    assert (one.low, one.high) == change(12, 3).ci95
    assert one.sd is None

    apart = mean_change([change(30, 0), change(17, 0), change(17, 0)])
    assert apart.value == pytest.approx(fmean((50, 28.3333, 28.3333)), abs=1e-3)
    assert (apart.low, apart.high) == pytest.approx(t_interval(apart.each))
    assert apart.p_value == pytest.approx(t_test(apart.each))

    alike = mean_change([change(12, 3)] * 5)
    assert (alike.low, alike.high) == pytest.approx(tuple(100 * bound for bound in tango(12, 3, 60)))
    assert alike.sd == 0.0
    assert alike.p_value == pytest.approx(0.0201, abs=1e-4), "the score test: 9 / sqrt(15)"

    with pytest.raises(ValueError, match="different numbers of problems"):
        mean_change([change(1, 0, 60), change(1, 0, 50)])


def test_accuracies_of_equal_trainings_keep_the_interval_of_their_problems() -> None:
    assert mean_share([30], 40).low == pytest.approx(100 * wilson(30, 40)[0])
    alike = mean_share([30, 30, 30], 40)
    assert (alike.low, alike.high) == pytest.approx(tuple(100 * bound for bound in wilson(30, 40)))
    apart = mean_share([38, 20, 30], 40)
    assert 0.0 <= apart.low < alike.low
    assert apart.high == 100.0


def test_the_outlook_names_both_gains() -> None:
    mean = mean_change([change(30, 0), change(17, 0), change(17, 0)])
    assert mean.left_open == pytest.approx(50 * (tango(64 / 3, 0, 60)[1] - tango(64 / 3, 0, 60)[0]))
    assert outlook(mean) == (
        "49 more trainings to see 5 points, 1 more training to see the observed +35.6; whatever their number, the test "
        "problems leave ±11.8 points open"
    )
    assert outlook(mean, 12.0) == "8 more trainings to see 12 points, 1 more training to see the observed +35.6"
    assert "says nothing about other trainings" in outlook(mean_change([change(5, 0)]))
    hopeless = mean_change([change(30, 0), change(0, 30)])
    assert outlook(hopeless, 1.0).startswith(f"more than {MOST} trainings to see 1 point; whatever their number")


def simulated(rng: np.random.Generator, n: int, sd: float) -> PairedDifference:
    """A training whose set has a true effect drawn around 0; 20 % of outcomes change anyway."""
    effect = rng.normal(0, sd)
    changed = 0.2 + abs(effect)
    gained, lost, _ = rng.multinomial(n, [(changed + effect) / 2, (changed - effect) / 2, 1 - changed])
    return change(int(gained), int(lost), n)


def test_a_mean_effect_of_zero_is_found_in_at_most_7_percent_of_cases() -> None:
    """Three trainings with 10 points between their sets. Resampling only problems finds "training helps" in 20 %."""
    rng, cases = np.random.default_rng(0), 800
    false = problems_only = 0
    for _ in range(cases):
        trainings = [simulated(rng, 80, 0.10) for _ in range(3)]
        mean = mean_change(trainings)
        assert mean.p_value is not None
        false += mean.p_value < 0.05
        assert (mean.p_value < 0.05) == (not mean.low <= 0 <= mean.high)
        # what a bootstrap over problems comes to: the mean's error from problems alone
        error = math.sqrt(sum((each.gained + each.lost) / 80 - (each.points / 100) ** 2 for each in trainings) / 80) / 3
        problems_only += abs(mean.value / 100) > 1.96 * error
    assert false / cases <= 0.07
    assert problems_only / cases >= 0.15


@pytest.mark.parametrize(("trainings", "sd"), [(2, 0.0), (3, 0.1), (5, 0.05), (8, 0.02)])
def test_problems_that_all_trainings_gain_or_lose_do_not_make_a_finding(trainings: int, sd: float) -> None:
    """All trainings change the same problems. Student's t alone, blind to that, finds an effect in up to 90 %."""
    rng, cases, n = np.random.default_rng(1), 500, 80
    false = t_alone = 0
    for _ in range(cases):
        gained, lost, _ = rng.multinomial(n, [0.1, 0.1, 0.8])
        shifts = [round(n * rng.normal(0, sd)) for _ in range(trainings)]
        each = [change(int(gained) + max(shift, 0), int(lost) + max(-shift, 0), n) for shift in shifts]
        mean = mean_change(each)
        false += not mean.low <= 0 <= mean.high
        low, high = t_interval(mean.each)
        t_alone += not low <= 0 <= high
    assert false / cases <= 0.07
    assert t_alone > false
