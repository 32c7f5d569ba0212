"""Intervals and tests, against published values, scipy and a simulation."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from agentopt_local.statistics import PairedDifference, paired_difference, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_newcombe(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000), st.data())
@settings(deadline=None, max_examples=50)
def test_wilson_agrees_with_scipy_and_holds_the_share(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    low, high = wilson(k, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0.0 <= low <= k / n <= high <= 1.0


def test_wilson_of_nothing_knows_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 2), (1, 0)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= k <= n"):
        wilson(k, n)


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * both + [False] * gained + [True] * lost + [False] * neither
    after = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return before, after


@pytest.mark.parametrize(("gained", "lost"), [(10, 2), (3, 3), (1, 0), (0, 7), (59, 121)])
def test_p_value_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    result = paired_difference(*pairs(5, gained, lost, 8))
    assert result.p_value == pytest.approx(binomtest(gained, gained + lost, 0.5).pvalue)
    assert (result.gained, result.lost, result.n) == (gained, lost, 13 + gained + lost)
    assert result.points == pytest.approx(100 * (gained - lost) / result.n)


def test_p_value_by_hand() -> None:
    # 5 gained, none lost: two tails of (1/2)**5.
    assert paired_difference(*pairs(0, 5, 0, 0)).p_value == pytest.approx(2 / 32)


def test_interval_agrees_with_resampling_problem_by_problem() -> None:
    before, after = pairs(20, 15, 5, 20)
    change = np.array(after, dtype=float) - np.array(before, dtype=float)
    rows = np.random.default_rng(1).integers(0, len(change), size=(20_000, len(change)))
    expected = np.quantile(100 * change[rows].mean(axis=1), [0.025, 0.975])
    assert paired_difference(before, after).ci95 == pytest.approx(tuple(expected), abs=1.7)


def test_interval_covers_the_true_difference() -> None:
    random = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        draw = random.choice(4, size=80, p=[0.3, 0.3, 0.1, 0.3])
        before, after = pairs(*(int((draw == kind).sum()) for kind in range(4)))
        low, high = paired_difference(before, after, seed=trial).ci95
        covered += low <= 20.0 <= high
    assert 180 <= covered <= 199  # 95 % of 200, with three standard errors and the bootstrap's own optimism


def test_equal_results_have_no_difference() -> None:
    for results in ([True] * 9, [False] * 9, [True, False, True]):
        result = paired_difference(results, results)
        assert result == PairedDifference(n=len(results), points=0.0, ci95=(0.0, 0.0), p_value=1.0, gained=0, lost=0)


def test_no_problems_know_nothing() -> None:
    result = paired_difference([], [])
    assert (result.n, result.points, result.p_value, result.ci95) == (0, 0.0, 1.0, (-100.0, 100.0))


def test_swapping_before_and_after_changes_the_sign() -> None:
    before, after = pairs(4, 9, 2, 5)
    forward, backward = paired_difference(before, after), paired_difference(after, before)
    assert forward.points == -backward.points
    assert forward.p_value == backward.p_value
    assert forward.ci95 == pytest.approx((-backward.ci95[1], -backward.ci95[0]), abs=5.1)


def test_the_seed_repeats_the_interval() -> None:
    before, after = pairs(11, 17, 6, 13)
    assert paired_difference(before, after, seed=3) == paired_difference(before, after, seed=3)


def test_results_of_different_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the same problems"):
        paired_difference([True], [True, False])


def test_importing_the_module_does_not_import_scipy() -> None:
    code = "import sys, agentopt_local.statistics; sys.exit('scipy' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
