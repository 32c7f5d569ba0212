"""Intervals and tests, against published values, scipy and a simulation."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, fisher_exact, multinomial

from agentopt_local.statistics import Z, fisher_test, mean_interval, paired_difference, sign_test, tango, wilson


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


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_tango_s_bounds_are_where_the_score_test_starts_to_reject(gained: int, lost: int, same: int) -> None:
    """The likeliest share of losses is found by a search here, not by the formula."""
    n = gained + lost + same

    def score(delta: float) -> float:
        def unlikely(losses: float) -> float:
            shares = (losses + delta, losses, 1 - 2 * losses - delta)
            return -sum(k * np.log(max(p, 1e-300)) for k, p in zip((gained, lost, same), shares, strict=True))

        ends = (max(0.0, -delta), (1 - delta) / 2)
        losses = minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
        return float((gained - lost - n * delta) / np.sqrt(n * (2 * losses + delta * (1 - delta))))

    low, high = tango(gained, lost, n)
    assert low < (gained - lost) / n < high
    assert score(low) == pytest.approx(Z, abs=1e-3)
    assert score(high) == pytest.approx(-Z, abs=1e-3)


@pytest.mark.parametrize("n", [40, 60, 80])
@pytest.mark.parametrize(
    "shares", [(0.01, 0.01), (0.03, 0.02), (0.05, 0.05), (0.1, 0.05), (0.2, 0.05), (0.3, 0.01), (0.5, 0.0)]
)
def test_tango_covers_the_true_change_where_few_problems_change(n: int, shares: tuple[float, float]) -> None:
    """Exactly, by the sum over all outcomes; a bootstrap covers 69 % for 3 % gained, 2 % lost and n = 40."""
    gain, lose = shares
    covered = 0.0
    for gained in range(n + 1):
        likely = multinomial.pmf([[gained, lost, n - gained - lost] for lost in range(n + 1 - gained)], n,
                                 [gain, lose, 1 - gain - lose])  # fmt: skip
        for lost, chance in enumerate(np.atleast_1d(likely)):
            if chance > 1e-9:
                low, high = tango(gained, lost, n)
                covered += chance * (low <= gain - lose <= high)
    assert covered >= 0.94


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_tango_refuses_impossible_counts(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="neither may be negative, nor their sum exceed n"):
        tango(*counts)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_scipy_s(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert sign_test(gained, lost) == pytest.approx(expected)


def test_equal_results_have_no_difference() -> None:
    for results in ([True] * 9, [False] * 9, [True, False, True]):
        result = paired_difference(results, results)
        assert (result.points, result.p_value, result.gained, result.lost) == (0.0, 1.0, 0, 0)
        assert result.ci95[0] == pytest.approx(-result.ci95[1])
        assert result.ci95[1] > 25, "nine problems prove little"


def test_no_problems_know_nothing() -> None:
    result = paired_difference([], [])
    assert (result.n, result.points, result.p_value, result.ci95) == (0, 0.0, 1.0, (-100.0, 100.0))


def test_swapping_before_and_after_changes_the_sign() -> None:
    before, after = pairs(4, 9, 2, 5)
    forward, backward = paired_difference(before, after), paired_difference(after, before)
    assert forward.points == -backward.points
    assert forward.p_value == backward.p_value
    assert forward.ci95 == pytest.approx((-backward.ci95[1], -backward.ci95[0]), abs=1e-6)


def test_results_of_different_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the same problems"):
        paired_difference([True], [True, False])


def test_importing_the_module_does_not_import_scipy() -> None:
    code = "import sys, agentopt_local.statistics; sys.exit('scipy' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None, max_examples=60)
def test_fisher_s_test_agrees_with_scipy(hits: int, misses: int, other_hits: int, other_misses: int) -> None:
    expected = fisher_exact([[hits, misses], [other_hits, other_misses]], "greater").pvalue
    assert fisher_test(hits, hits + misses, other_hits, other_hits + other_misses) == pytest.approx(expected)


def test_fisher_s_test_refuses_more_hits_than_trials() -> None:
    with pytest.raises(ValueError, match="4 of 3 and 0 of 5: there cannot be more hits than trials"):
        fisher_test(4, 3, 0, 5)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_the_interval_of_paired_changes_is_agresti_and_min_s_for_whole_ones(gained: int, lost: int, same: int) -> None:
    n = gained + lost + same
    # Wald's interval with 1/2 added to each of the four cells
    plus, minus, total = gained + 0.5, lost + 0.5, n + 2
    half = Z * ((plus + minus) - (plus - minus) ** 2 / total) ** 0.5 / total
    expected = (plus - minus) / total
    found = mean_interval([1.0] * gained + [-1.0] * lost + [0.0] * same)
    assert found == pytest.approx((max(-1, expected - half), min(1, expected + half)))


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize(("affected", "flips"), [(0.0, 0.0), (0.01, 0.0), (0.05, 0.05), (0.3, 0.1)])
def test_the_interval_of_shares_of_masks_covers_the_mean(n: int, affected: float, flips: float) -> None:
    chance = np.random.default_rng(0)
    covered = 0
    for _ in range(800):
        helped = chance.random(n) < affected
        with_it = np.where(helped, 1 - flips, 0.5)
        without = np.where(helped, flips, 0.5)
        changes = (chance.binomial(4, with_it) - chance.binomial(4, without)) / 4
        low, high = mean_interval(list(changes))
        covered += low <= affected * (1 - 2 * flips) <= high
    assert covered / 800 >= 0.93


def test_no_changes_say_nothing() -> None:
    assert mean_interval([]) == (-1.0, 1.0)
