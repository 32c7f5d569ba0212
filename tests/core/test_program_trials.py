"""Helpers made of programs that were right: which programs, how a helper is judged, and what its author is told."""

from __future__ import annotations

from typing import Any

from agentopt_local.agents.dialect import code_in
from agentopt_local.chat import ChatRequest, Message
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.program_trials import calls_function, program_groups, program_of
from agentopt_local.trajectory import PYTHON, Step, ToolRun
from tests.tools.drafting import (
    Author,
    Bench,
    attempt,
    bench,
    header,
    last,
    of_phase,
    phase,
    say,
    word_problem,
    wording,
)

__all__ = ["bench"]

CODE = 'word = "{}"\nletters = word.upper()\nprint(letters)\n'
HELPER = 'def capital(word: str) -> str:\n    """Return the capital letters of a word."""\n    return word.upper()\n'
BAD_HELPER = HELPER.replace("upper", "title")
OWN = "def capital(word):\n    return word.upper()\nprint(capital('sun'))\n"


def solved(word: str, code: str | None = None, kind: str = "shout", *, ok: bool = True) -> Evidence:
    """A right rollout that ran ``code``."""
    one = attempt(word_problem(word, kind), answer=word.upper())
    run = ToolRun(name=PYTHON, arguments={"code": code or CODE.format(word)}, ok=ok, result=word.upper())
    steps = (Step(message=Message(role="assistant"), executed=(run,)),)
    return one.model_copy(update={"trajectory": one.trajectory.model_copy(update={"steps": steps})})


class Rewriter(Author):
    """An author that also rewrites programs, by ``rewrite(word)``."""

    def __init__(self, rewrite: Any, sources: Any = (HELPER,), headers: Any = None) -> None:
        super().__init__(headers or [header(name="capital")], sources)
        self.rewrite = rewrite
        self.asked: list[ChatRequest] = []

    def __call__(self, request: ChatRequest) -> Any:
        if wording("rewrite_program") in request.messages[-1].content:
            self.asked.append(request)
            return say(self.rewrite(request.messages[-1].content.splitlines()[0].removeprefix("Shout: ")))
        return super().__call__(request)


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


SOLVED = [solved(word) for word in ("sun", "moon", "stars")]
HELPING = {"attempts": SOLVED, "max_helpers": 1, "max_retries": 0}


def test_a_helper_is_judged_by_the_programs_that_call_it(bench: Bench) -> None:
    author = Rewriter(lambda word: fenced(f"print(capital('{word}'))"))
    update, requests = bench.propose(author, **HELPING)
    assert update.functions == FunctionSet.of(HELPER)
    assert update.matches == ("3/3",)
    assert len(author.asked) == 3
    texts = "".join(each.messages[-1].content for each in author.asked)
    assert all(CODE.format(word) in texts for word in ("sun", "moon", "stars"))
    assert not of_phase(requests, "arguments"), "it need not return an answer"
    assert update.seen == {each.problem.id for each in SOLVED}


def test_programs_that_do_not_call_it_or_define_their_own_do_not_count(bench: Bench) -> None:
    programs = {"sun": fenced(OWN), "moon": fenced("print('MOON')"), "stars": fenced("print(capital('stars'))")}
    update, _ = bench.propose(Rewriter(programs.__getitem__), **HELPING)
    assert update.matches == ("1/3",)
    needs_two, _ = bench.propose(Rewriter(lambda word: fenced("print('SUN')")), **HELPING)
    assert not needs_two.actions
    assert needs_two.outcomes[0].end == "unmatched"


def test_a_wrong_helper_goes_back_with_what_the_programs_printed(bench: Bench) -> None:
    author = Rewriter(lambda word: fenced(f"print(capital('{word}'))"), sources=[BAD_HELPER, HELPER])
    update, requests = bench.propose(author, **{**HELPING, "max_retries": 1})
    assert update.functions == FunctionSet.of(HELPER)
    told = last(of_phase(requests, "repair")[0])
    assert "The programs, rewritten to call your function:" in told
    assert "printed: Sun\n  but expected was: SUN" in told


def test_programs_that_fail_or_are_missing_are_told_and_one_that_runs_is_enough(bench: Bench) -> None:
    programs = {"sun": fenced("print(capital('sun'))"), "moon": fenced("print(capital(1))"), "stars": "No idea."}
    update, _ = bench.propose(Rewriter(programs.__getitem__), **HELPING)
    assert update.matches == ("1/3",)
    none, _ = bench.propose(Rewriter(lambda word: fenced("print(capital(1))")), **HELPING)
    assert none.outcomes[0].end == "failed"


def test_helpers_take_their_share_of_the_actions_and_failures_the_rest(bench: Bench) -> None:
    failed = [attempt(word_problem(f"{kind}{letter}", kind)) for kind in ("one", "two", "three") for letter in "ab"]
    seen = []

    def name(request: ChatRequest) -> str:
        text = request.messages[0].content
        seen.append(
            "helper" if "Programs that solved" in text else next(k for k in ("one", "two", "three") if f": {k}" in text)
        )
        return header("terminate", None)

    bench.propose(Rewriter(str, headers=name), attempts=[*failed, *SOLVED], max_helpers=1, max_actions=3)
    assert seen == ["one", "two", "helper"]
    seen.clear()
    bench.propose(Rewriter(str, headers=name), attempts=[*failed, *SOLVED], max_helpers=0, max_actions=3)
    assert seen == ["one", "two", "three"]


def test_programs_worth_sharing() -> None:
    assert program_of(SOLVED[0]) is not None
    assert program_of(attempt(word_problem("sun"), answer="SUN")) is None, "it ran no code"
    assert program_of(solved("sun", "print('SUN')\n")) is None, "there is nothing to share"
    assert program_of(solved("sun", ok=False)) is None
    assert program_of(attempt(word_problem("sun"))) is None, "it failed"


def test_programs_are_grouped_by_kind_and_likeness_with_one_for_each_problem() -> None:
    other = [solved(word, kind="other") for word in ("lake", "river")]
    found = program_groups([*other, *SOLVED, solved("sun"), solved("alone", kind="third")])
    assert [[each.problem.id for each in group.attempts] for group in found] == [
        ["shout-sun", "shout-moon", "shout-stars"], ["other-lake", "other-river"],
    ]  # fmt: skip
    assert program_groups([]) == []


def test_what_counts_as_a_call() -> None:
    assert calls_function("x = capital('a') + 'b'", "capital")
    assert not calls_function("capital = 3\nprint(capital('a'))", "capital")
    assert not calls_function(OWN, "capital")
    assert not calls_function("print(text.capital('a'))", "capital")
    assert not calls_function("print(capital(", "capital")


def test_a_program_is_asked_for_under_a_grammar_if_sources_are(bench: Bench) -> None:
    author = Rewriter(lambda word: fenced(f"print(capital('{word}'))"))
    bench.propose(author, **HELPING)
    assert all(each.constraint is not None and each.constraint.kind == "grammar" for each in author.asked)
    free = Rewriter(lambda word: fenced(f"print(capital('{word}'))"))
    bench.propose(free, **HELPING, constrain_source=False)
    assert all(each.constraint is None for each in free.asked)
    assert code_in(fenced("print(1)")) is not None
    assert all(phase(each) == "header" for each in author.asked)
