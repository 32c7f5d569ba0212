"""Drafts tried on the problems of their kind that their authors were not shown, and which draft is applied."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agentopt_local.actions import AddFunction, RemoveFunction
from agentopt_local.chat import ChatReply, ChatRequest, Usage
from agentopt_local.choosing import alternatives, best
from agentopt_local.docstrings import with_docstring
from agentopt_local.errors import FunctionError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.incoming import Incoming
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.screening import BATCH
from agentopt_local.update import OptimizerConfig, Verified
from tests.tools.drafting import (
    NEARLY,
    SHOUT,
    WRONG,
    Author,
    Bench,
    Shouting,
    attempt,
    bench,
    header,
    index_of,
    last,
    of_phase,
    phase,
    say,
    word_arguments,
    word_problem,
)  # fmt: skip

__all__ = ["bench"]

SHORT = [attempt(word_problem(word)) for word in ("sun", "sky", "sea")]
LONG = [attempt(word_problem(word), answer=word.upper()) for word in ("meadow", "valley", "mountain", "river")]
"""Solved: an author is shown failures alone here."""


def asked(requests: list[ChatRequest]) -> list[str]:
    """The words of all problems that arguments were asked for."""
    return [
        word
        for each in of_phase(requests, "arguments")
        for word in re.findall(r"Shout: (\w+)", each.messages[-1].content)
    ]


def test_a_function_that_fits_the_shown_problems_alone_loses_to_one_that_is_right(bench: Bench) -> None:
    sources = [NEARLY, SHOUT]  # NEARLY is right for words of three letters
    author = Author(sources=lambda request: sources[index_of(request)])
    settings = {"n_samples": 2, "max_retries": 0, "n_evidence": 3}
    alone, _ = bench.propose(author, attempts=SHORT, **settings)
    assert alone.matches == ("3/3",)
    screened, requests = bench.propose(author, attempts=[*SHORT, *LONG], n_screen=24, **settings)
    assert screened.functions == FunctionSet.of(SHOUT)
    assert {"meadow", "valley", "mountain", "river"} < set(asked(requests))
    everything = "\n".join(each.model_dump_json() for each in requests)
    assert "MEADOW" not in everything, "no author learns an answer from the pool"


def test_a_function_that_answers_no_other_problem_is_not_applied(bench: Bench) -> None:
    only_shown = SHOUT.replace("word.upper()", "{'sun': 'SUN', 'sky': 'SKY', 'sea': 'SEA'}.get(word, '')")
    update, _ = bench.propose(Author(sources=[only_shown]), attempts=[*SHORT, *LONG], n_screen=24, max_retries=0)
    assert not update.actions
    assert update.outcomes[0].end == "unmatched"
    as_in_the_paper, _ = bench.propose(
        Author(sources=[only_shown]), attempts=[*SHORT, *LONG], n_screen=24, max_retries=0, min_matches=0
    )
    assert as_in_the_paper.actions


def test_the_pool_is_asked_for_in_batches_and_has_a_limit(bench: Bench) -> None:
    words = [f"word{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(40)]
    attempts = [*SHORT, *(attempt(word_problem(word), answer=word.upper()) for word in words)]
    _, requests = bench.propose(Author(), attempts=attempts, n_screen=20)
    shown, *batches = [asked([each]) for each in of_phase(requests, "arguments")]
    assert len(shown) == 3
    assert [len(each) for each in batches] == [BATCH, BATCH, 4]
    assert len({word for batch in batches for word in batch}) == 20


def test_functions_with_the_same_parameters_share_arguments_and_equal_ones_are_tried_once(bench: Bench) -> None:
    other = SHOUT.replace("return word.upper()", "letters = word.upper()\n    return letters")
    sources = [WRONG, NEARLY, NEARLY.replace("capitals", "large letters"), other.replace("letters", "l")]
    author = Author(sources=lambda request: sources[index_of(request)])
    settings = {"n_samples": 3, "max_retries": 0, "n_screen": 24}
    _, requests = bench.propose(author, attempts=[*SHORT, *LONG], **settings)
    pool = [each for each in of_phase(requests, "arguments") if "meadow" in each.messages[-1].content]
    assert len(pool) == 1, "two drafts of the same code"


def test_a_function_that_does_badly_with_borrowed_arguments_gets_its_own(bench: Bench) -> None:
    """``word`` is the word for one author and the whole sentence for another. With short words both are right."""
    taken = "(word.split(': ')[1] if ':' in word else word[:3]).upper()"
    sentence = SHOUT.replace("word.upper()", taken).replace("capitals", "the sentence")
    sources = [NEARLY, sentence]

    def arguments(request: ChatRequest) -> str:
        given = json.loads(word_arguments(request))
        if "the sentence" in request.messages[-1].content:
            given = {key: {"word": f"Shout: {each['word']}"} for key, each in given.items()}
        return json.dumps(given)

    author = Author(sources=lambda request: sources[index_of(request)], arguments=arguments)
    update, _ = bench.propose(author, attempts=[*SHORT, *LONG], n_samples=2, max_retries=0, n_screen=24)
    assert update.functions == FunctionSet.of(sentence)


def test_arguments_that_do_not_fit_count_against_the_function_and_end_nothing(bench: Bench) -> None:
    def arguments(request: ChatRequest) -> str:
        return "nonsense" if "meadow" in request.messages[-1].content else word_arguments(request)

    update, _ = bench.propose(Author(arguments=arguments), attempts=[*SHORT, *LONG], n_screen=24, max_retries=0)
    assert not update.actions


def test_tokens_of_the_pool_are_counted(bench: Bench) -> None:
    settings = {"attempts": [*SHORT, *LONG], "max_retries": 0}
    without, _ = bench.propose(Author(), n_screen=0, **settings)
    with_pool, _ = bench.propose(Author(), n_screen=24, **settings)
    assert with_pool.usage.requests == without.usage.requests + 1


def test_a_pool_without_other_problems_changes_nothing(bench: Bench) -> None:
    update, requests = bench.propose(Author(), attempts=SHORT, n_screen=24)
    assert update.matches == ("3/3",)
    assert len(of_phase(requests, "arguments")) == 1


# Another try for kinds of which no draft was right


def test_kinds_without_a_right_draft_are_tried_again_within_the_budget(bench: Bench) -> None:
    kinds = {kind: [attempt(word_problem(f"{kind}{letter}", kind)) for letter in "abc"] for kind in ("one", "two")}
    tries = {"one": iter([SHOUT]), "two": iter([WRONG, WRONG, SHOUT, SHOUT])}

    def source(request: ChatRequest) -> str:
        kind = "one" if "Shout: one" in request.messages[0].content else "two"
        return next(tries[kind]).replace("shout", f"shout_{kind}")

    def name(request: ChatRequest) -> str:
        return header(name="shout_one" if "Shout: one" in request.messages[0].content else "shout_two")

    attempts = [*kinds["one"], *kinds["two"]]
    update, _ = bench.propose(Author(name, source), attempts=attempts, max_actions=2, extra_edits=2, max_retries=0)
    assert update.summaries() == ("add_function shout_one", "add_function shout_two")
    assert [each.kind for each in update.outcomes] == ["one", "two", "two", "two"]
    tries = {"one": iter([SHOUT]), "two": iter([WRONG, WRONG, SHOUT])}
    update, _ = bench.propose(Author(name, source), attempts=attempts, max_actions=2, extra_edits=1, max_retries=0)
    assert update.summaries() == ("add_function shout_one",)
    assert len(update.outcomes) == 3


# Right rollouts as examples


@pytest.mark.parametrize("n_solved", [0, 1])
def test_a_right_rollout_of_the_kind_is_shown_as_an_example_and_not_tried(bench: Bench, n_solved: int) -> None:
    other = attempt(word_problem("lake", "other"), answer="LAKE")
    update, requests = bench.propose(Author(), attempts=[*SHORT, *LONG, other], n_solved=n_solved, hold_back=False)
    first = next(each for each in requests if phase(each) == "header").messages[0].content
    shown = [each for each in LONG if each.problem.question in first]
    assert len(shown) == n_solved
    assert other.problem.question not in first
    assert update.matches == ("3/3",), "trials are on failed problems"
    assert update.seen == {each.problem.id for each in [*SHORT, *shown]}, "what was shown cannot judge the edit"


# Choosing


class Drafted:
    """A draft that has ended."""

    def __init__(self, verified: Verified | None) -> None:
        self.verified = verified


def test_the_largest_share_wins_and_what_was_tried_on_the_pool_comes_first() -> None:
    add = AddFunction(function=Function(source=SHOUT))
    few = Verified(action=add, matches=1, trials=3, screened=8, pool=8)
    shown = Verified(action=add, matches=3, trials=3, screened=1, pool=8)
    untried = Verified(action=add, matches=3, trials=3)
    removal = Verified(action=RemoveFunction(name="shout"))
    drafts = [Drafted(each) for each in (None, removal, shown, few, untried)]
    assert best(drafts, 1) is few  # type: ignore[arg-type]
    assert best(drafts[:2], 1) is removal  # type: ignore[arg-type]
    assert best([drafts[4], drafts[1]], 1) is untried  # type: ignore[arg-type]
    assert best([drafts[0]], 1) is None  # type: ignore[arg-type]


def test_a_right_function_gets_other_docstrings(bench: Bench) -> None:
    update, requests = bench.propose(Author(), attempts=SHORT, n_alternatives=2)
    assert update.functions == FunctionSet.of(SHOUT)
    asked = of_phase(requests, "docstring")
    assert len(asked) == 2
    assert all(each.problem.question in asked[0].messages[0].content for each in SHORT)
    assert "SUN" not in asked[0].messages[0].content
    [other] = update.alternatives[0]  # both are the same
    assert isinstance(other, AddFunction)
    assert other.function.description == "For problems that ask to shout, takes a word, returns it."
    assert other.function.normalized() == update.functions.functions[0].normalized()
    assert other.examples == update.actions[0].examples  # type: ignore[union-attr]
    _, requests = bench.propose(Author(sources=[WRONG]), attempts=SHORT, n_alternatives=2, max_retries=0)
    assert not of_phase(requests, "docstring")
    none, requests = bench.propose(Author(), attempts=SHORT, n_alternatives=0)
    assert (none.alternatives, of_phase(requests, "docstring")) == (((),), [])


def test_code_that_is_there_already_gets_another_docstring(bench: Bench) -> None:
    loud = SHOUT.replace("def shout", "def loud")
    told = {"functions": FunctionSet.of(loud), "attempts": SHORT, "max_retries": 0}
    update, _ = bench.propose(Author(sources=[SHOUT.replace("Return", "Say")]), n_alternatives=1, **told)
    assert [(each.kind, each.name) for each in update.actions] == [("revise_function", "loud")]  # type: ignore[union-attr]
    assert update.functions == FunctionSet.of(loud.replace("Return", "Say"))
    assert update.actions[0].examples, "it was tried"  # type: ignore[union-attr]
    update, requests = bench.propose(Author(), n_alternatives=1, **{**told, "max_retries": 1})
    assert update.actions == ()
    assert "the function 'loud' does just this already" in last(of_phase(requests, "source", "repair")[-1])
    update, _ = bench.propose(Author(), n_alternatives=0, **told)
    assert update.functions.names == ("loud", "shout")


@pytest.mark.parametrize("text", ["", 'a """ b', "two\nlines", "a \\ b"])
def test_what_cannot_be_a_docstring_is_refused(text: str) -> None:
    function = FunctionSet.of(SHOUT).get("shout")
    with pytest.raises(FunctionError):
        with_docstring(function, text)
    assert with_docstring(function.for_questions(["q"]), "Say it.").questions == ("q",)


def test_alternatives_are_right_functions_that_an_agent_sees_differently() -> None:
    def add(text: str) -> AddFunction:
        return AddFunction(function=Function(source=SHOUT.replace("capitals", text)))

    right = [Verified(action=add(text), matches=3, trials=3) for text in ("capitals", "large letters", "capitals")]
    wrong = Verified(action=add("upper case"), matches=2, trials=3)
    drafts: Any = [Drafted(each) for each in (*right, wrong, None)]
    assert alternatives(drafts, right[0]) == (right[1].action,)
    assert alternatives(drafts, wrong) == alternatives(drafts, None) == ()


def test_functions_carry_the_questions_that_they_were_written_for_if_a_set_is_searched(bench: Bench) -> None:
    config = OptimizerConfig(n_samples=1, max_actions=1, hold_back=False, n_solved=0)
    for keep, expected in ((True, {each.problem.question for each in SHORT}), (False, set())):
        optimizer = Optimizer(ScriptedChatModel(Author()), Shouting(), bench.sandbox, config, keep_questions=keep)
        update = bench.run(optimizer.propose(FunctionSet(), Incoming(SHORT), (), seed=1))
        assert set(update.functions.get("shout").questions) == expected
    old = FunctionSet(functions=(FunctionSet.of(WRONG).get("shout").for_questions(["Shout: before"]),))
    author = Author([header("revise_function")])
    optimizer = Optimizer(ScriptedChatModel(author), Shouting(), bench.sandbox, config, keep_questions=True)
    update = bench.run(optimizer.propose(old, Incoming(SHORT), (), seed=1))
    assert "Shout: before" in update.functions.get("shout").questions


# Reflection before a repair


def test_wrong_results_are_thought_about_before_the_next_source(bench: Bench) -> None:
    update, requests = bench.propose(Author(sources=[WRONG, SHOUT]), attempts=SHORT, max_reflection_tokens=80)
    assert update.functions == FunctionSet.of(SHOUT)
    [asked] = of_phase(requests, "reflection")
    assert asked.sampling.max_tokens == 80
    assert asked.constraint is None, "a thought is free text"
    assert len(asked.messages) == 1, "the rest of the conversation would distract it"
    assert {"sun -> SUN", "sky -> SKY", "sea -> SEA"} < set(asked.messages[0].content.splitlines())
    [repair] = of_phase(requests, "repair")
    source, results, thought, question = repair.messages[-4:]
    assert "title()" in source.content
    assert "returned: Sun" in results.content
    assert (thought.role, thought.content) == ("assistant", "It must be in capitals.")
    assert "Now write a different source of `shout`" in question.content


def test_nothing_is_thought_about_a_source_that_was_refused_nor_by_a_model_that_thinks(bench: Bench) -> None:
    refused = SHOUT.replace("def shout", "def yell")
    _, requests = bench.propose(Author(sources=[refused, SHOUT]), attempts=SHORT, max_reflection_tokens=80)
    assert not of_phase(requests, "reflection")
    author = Author(sources=[WRONG, SHOUT])

    def thinking(request: ChatRequest) -> ChatReply:
        reply = author(request)
        reply = reply if isinstance(reply, ChatReply) else say(reply)
        return reply.model_copy(update={"usage": Usage(requests=1, completion_tokens=50, thought_tokens=40)})

    update, requests = bench.propose(thinking, attempts=SHORT, max_reflection_tokens=80)
    assert update.functions == FunctionSet.of(SHOUT)
    assert not of_phase(requests, "reflection")


def test_a_source_that_is_repeated_is_not_shown_with_the_thought(bench: Bench) -> None:
    author = Author(sources=[WRONG, WRONG, SHOUT])
    _, requests = bench.propose(author, attempts=SHORT, max_retries=2, max_reflection_tokens=80)
    first, second = of_phase(requests, "repair")
    assert any("title()" in each.content for each in first.messages)
    assert not any("title()" in each.content for each in second.messages)
    assert [each.role for each in second.messages[-3:]] == ["user", "assistant", "user"]
