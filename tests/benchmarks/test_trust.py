"""The simulated agent does what it says, the rules differ as they should, and the exact parts give known values."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from agentopt_local.acceptance import Acceptance
from agentopt_local.functions import Function
from benchmarks.trust import decisions, intervals
from benchmarks.trust.__main__ import main
from benchmarks.trust.simulation import BASE, FLIPS, MIXES, Hidden, World, quiz, tool
from benchmarks.trust.trainings import Cell, Summary, summary, trainings


def cell(rule: Acceptance) -> Summary:
    return summary(trainings(Cell(mix="MATH-like", memorising=0.15, n=36, rule=rule), range(40)))


def test_the_default_keeps_fewer_useless_edits_than_the_papers_rule_on_the_same_problems_and_proposals() -> None:
    default, mean = cell("unseen"), cell("mean")
    assert default.useless < mean.useless - 0.1
    assert default.gain > mean.gain - 3 * mean.gain_error
    assert default.rollouts == mean.rollouts == 36 * (1 + 5 * 4)
    assert mean.apparent > 2 * mean.gain  # what a training shows of itself is not what it is worth


def world(n: int = 20_000, **edits: float) -> World:
    made = World(quiz(n), seed=3)
    made.edits = {name: Hidden(effect=effect, memorised=(), seed=7) for name, effect in edits.items()}
    return made


def test_outcomes_change_at_the_known_rates() -> None:
    made = world(good=0.1, bad=-0.3, useless=0.0)
    before = made.outcomes((), 3)
    assert before.mean() == pytest.approx(BASE, abs=0.01)
    for name, effect in (("good", 0.1), ("bad", -0.3), ("useless", 0.0)):
        after = made.outcomes((name,), 3)
        assert made.accuracy((name,)) == pytest.approx(BASE + effect)
        assert after.mean() == pytest.approx(BASE + effect, abs=0.01)
        assert (after != before).mean() == pytest.approx(max(FLIPS, abs(effect)), abs=0.01)
    assert made.accuracy(("good", "good", "good", "good", "good", "good", "good", "good")) == pytest.approx(0.97)


def test_another_seed_changes_outcomes_as_an_edit_without_an_effect_does() -> None:
    made = world(good=0.1)
    for names in ((), ("good",)):
        first, second = made.outcomes(names, 3), made.outcomes(names, 4)
        assert second.mean() == pytest.approx(made.accuracy(names), abs=0.01)
        assert (first != second).any()
        assert np.array_equal(second, made.outcomes(names, 4))


def test_an_edit_that_memorises_solves_what_it_was_shown_and_nothing_else() -> None:
    problems = quiz(36)
    made = World(problems, seed=3)
    failed = [problem.id for problem, right in zip(problems, made.outcomes((), 3), strict=True) if not right]
    for name, shown in (("table", tuple(failed[:3])), ("plain", ())):
        made.edits[name] = Hidden(effect=0.0, memorised=shown, seed=9)
    table, plain = made.outcomes(("table",), 3), made.outcomes(("plain",), 3)
    assert all(table[made.number[each]] for each in failed[:3])
    rest = [made.number[each.id] for each in problems if each.id not in failed[:3]]
    assert np.array_equal(table[rest], plain[rest])
    assert made.accuracy(("table",)) == BASE


def test_mixes_add_up_and_edits_are_legal() -> None:
    for mix in MIXES.values():
        for share in (0.15, 0.5):
            changed = mix.memorising_more(share)
            assert sum(changed.shares) == pytest.approx(1)
            assert changed.shares[-1] == pytest.approx(share)
            assert changed.harmful / changed.useless == pytest.approx(mix.harmful / mix.useless)
    made = tool("edit_1").function
    assert made.normalized() == Function(source=made.source).normalized() != tool("edit_2").function.normalized()


def test_edits_without_an_effect_are_accepted_as_often_as_was_computed_before() -> None:
    rows = {row[:3]: row[3:] for row in decisions.idle_edits()}
    assert rows["0", "mean", "24"] == ("0.29 / 0.75", "0.36 / 0.84", "0.41 / 0.88")
    assert {rule for _, rule, _ in rows} == set(get_args(Acceptance))
    for n in ("20", "24", "36"):
        for strict, loose in zip(rows["0", "unseen", n], rows["0", "mean", n], strict=True):
            assert float(strict.split()[0]) < float(loose.split()[0])


def test_false_certificates_are_rarer_than_alpha() -> None:
    given = {(each.effect, each.alpha): each for each in decisions.certificates(300)}
    for (effect, alpha), each in given.items():
        if effect.startswith(("none", "-")):
            assert each.helps_ci95[0] <= each.helps <= alpha
    assert given["+28 points", 0.05].helps > 0.99
    assert given["+28 points", 0.05].problems < 40


@pytest.mark.parametrize("coverage", [intervals.wilson_coverage(24), intervals.tango_coverage(24)])
def test_intervals_cover(coverage: intervals.Coverage) -> None:
    assert coverage.mean > 0.95
    assert coverage.lowest > 0.91


def test_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--only trainings --trainings 2 --n 24 --mix demo-like --memorising 0.5 --rules mean --processes 1"
    assert main(arguments.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "### 2 trainings per row"
    assert [line.count("|") for line in lines[3:]] == [9, 9, 9]
    with pytest.raises(SystemExit):
        main(["--trainings", "1"])
    assert "no spread" in capsys.readouterr().err
