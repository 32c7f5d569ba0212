"""X4: a step that applied nothing says why, and a run that learned nothing says what to try."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from agentopt_local.acceptance import Judgement
from agentopt_local.errors import ContextOverflowError
from agentopt_local.functions import FunctionSet
from agentopt_local.reasons import REMEDIES, nothing_learned, outcome_text, step_reasons
from agentopt_local.run.rows import ActionRow, CandidateRow, Score, StepRow
from agentopt_local.update import ActionCounts, EditEnd, EditOutcome
from tests.tools.drafting import (
    ADD_SHOUT,
    CRASH,
    FORBIDDEN,
    GREET,
    NEARLY,
    SHOUT,
    TERMINATE,
    WRONG,
    Author,
    Bench,
    attempt,
    bench,
    word_problem,
)

__all__ = ["bench"]
SCORE = Score(accuracy=0.25, reward=0.25, n=4, solved=("p",))


def step(number: int = 1, decision: Any = "skipped", **more: Any) -> StepRow:
    return StepRow(step=number, decision=decision, before=SCORE, after=SCORE, seconds=1.0, **more)


# How edits end


@pytest.mark.parametrize(
    ("author", "settings", "end", "said"),
    [
        (Author(sources=[WRONG]), {}, "unmatched", "no function of 2 drafts answered enough"),
        (Author(sources=[WRONG]), {}, "unmatched", "the best answered 0 of 3 shown problems"),
        (Author(sources=[NEARLY]), {"min_matches": 2}, "unmatched", "the best answered 1 of 3 shown problems"),
        (Author(sources=[CRASH]), {}, "failed", "every function of 2 drafts failed in its trials"),
        (Author(sources=[FORBIDDEN]), {}, "refused", "importing os is not allowed"),
        (Author(["Let us add shout."]), {"constrain": False}, "illegal", "none chose a possible action"),
        (Author([TERMINATE]), {}, "terminated", "saw nothing to improve"),
        (Author(), {"context_tokens": 100}, "unfit", "the context had no room for any of 2 drafts"),
        (lambda _: ContextOverflowError("too long"), {}, "unfit", "the context had no room"),
        (Author(), {}, "applied", "an edit was applied; the best answered 3 of 3"),
        (Author(arguments=lambda _: "none"), {}, "refused", "the example arguments were not JSON"),
    ],
)
def test_x4_every_edit_says_how_it_ended(
    bench: Bench, author: Any, settings: dict[str, Any], end: str, said: str
) -> None:
    update, _ = bench.propose(author, n_samples=2, max_retries=0, **settings)
    (outcome,) = update.outcomes
    assert outcome.end == end
    assert said in outcome_text(outcome)
    assert outcome.drafts == 2
    assert outcome.counts.sampled == update.counts.sampled


def test_x4_a_name_that_is_taken_is_an_end_of_its_own(bench: Bench) -> None:
    attempts = [attempt(word_problem("ab", "one")), attempt(word_problem("cd", "two"))]
    update, _ = bench.propose(Author(), attempts=attempts, max_actions=2)
    assert [(each.kind, each.end) for each in update.outcomes] == [("one", "applied"), ("two", "taken")]


def test_a_removal_is_an_applied_edit_without_trials(bench: Bench) -> None:
    author = Author(['{"action": "remove_function", "name": "greet"}'])
    update, _ = bench.propose(author, functions=FunctionSet.of(GREET))
    assert outcome_text(update.outcomes[0]) == "an edit was applied"


def test_every_end_has_words_and_all_that_apply_nothing_have_a_remedy() -> None:
    ends = get_args(EditEnd)
    for end in ends:
        assert outcome_text(EditOutcome(end=end, drafts=3))
    assert set(REMEDIES) == set(ends) - {"applied"}


# Steps and runs

UNMATCHED = EditOutcome(kind="caesar", drafts=8, end="unmatched", matches=0, shown=3, counts=ActionCounts(sampled=16))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            step(outcomes=(UNMATCHED,)),
            "caesar: no function of 8 drafts answered enough of the shown problems",
        ),
        (step(outcomes=(UNMATCHED, UNMATCHED.model_copy(update={"matches": 1}))), "1 of 3 shown problems (best of 2"),
        (step(outcomes=(UNMATCHED.model_copy(update={"kind": ""}),)), "problems: no function"),
        (step(counts=ActionCounts(sampled=40, legal=40, verified=15)), "of 40 sampled actions 15 could be run"),
        (step(), "the optimizer proposed nothing"),
        (
            StepRow(
                step=1,
                decision="skipped",
                before=Score(accuracy=1, reward=1, n=1, solved=("p",)),
                after=SCORE,
                seconds=1,
            ),
            "all of its problems were solved already",
        ),
        (
            step(
                decision="rolled_back",
                actions=(ActionRow(kind="add_function", name="f"),),
                candidates=(
                    CandidateRow(
                        actions=("add_function f",),
                        accuracy=0.5,
                        reward=0.5,
                        judgement=Judgement(accepted=False, n=3, before=0, after=0.3, gained=1, lost=0),
                    ),
                ),
            ),
            "add f: 1 gained and 0 lost of the 3 problems that its author was not shown, which may be chance",
        ),
        (step(decision="rolled_back"), "the update: accuracy 0.25 -> 0.25, so it was undone"),
    ],
)
def test_x4_a_step_that_changed_nothing_says_why(row: StepRow, said: str) -> None:
    assert said in " | ".join(step_reasons(row))


def test_x4_all_kinds_are_named() -> None:
    others = [UNMATCHED.model_copy(update={"kind": name, "end": end}) for name, end in (("b", "cut"), ("c", "unfit"))]
    reasons = step_reasons(step(outcomes=(UNMATCHED, *others)))
    assert [each.partition(":")[0] for each in reasons] == ["caesar", "b", "c"]


def test_x4_a_run_that_learned_nothing_says_why_and_what_to_try() -> None:
    unfit = EditOutcome(kind="long", drafts=8, end="unfit", counts=ActionCounts(unfit=8))
    found = nothing_learned([step(1, outcomes=(UNMATCHED, unfit)), step(2, outcomes=(UNMATCHED,))])
    assert found is not None
    assert [each[:7] for each in found.because] == ["step 1:", "step 2:"]
    assert "optimizer.n_samples" in found.remedies[0], "two edits would have needed it"
    assert any("engine.max_model_len" in each for each in found.remedies)
    assert str(found).startswith("Nothing was learned, because\n  step 1: caesar: ")


def test_x4_many_cut_replies_are_named_beside_another_end() -> None:
    counts = ActionCounts(sampled=6, legal=6, cut=5)
    found = nothing_learned([step(outcomes=(UNMATCHED.model_copy(update={"counts": counts}),))])
    assert found is not None
    assert "5 replies were cut off" in found.because[0]
    assert any("optimizer.max_source_tokens" in each for each in found.remedies)


def test_a_run_that_learned_something_needs_no_reasons() -> None:
    assert step_reasons(step(decision="accepted")) == []
    assert nothing_learned([step(), step(2, "accepted")]) is None
    assert nothing_learned([]) is None
    solved = nothing_learned([], "solved")
    assert solved is not None
    assert "solved already" in solved.because[0]


def test_an_author_that_learns_is_not_blamed(bench: Bench) -> None:
    update, _ = bench.propose(Author([ADD_SHOUT], [SHOUT]))
    assert update.outcomes[0].trouble == ""
