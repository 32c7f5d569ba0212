"""Each problem is offered the functions for problems like it, and of many those that fit its question best."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
from collections.abc import Sequence
from typing import Any

import pytest

from agentopt_local import retrieval
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatRequest, Usage
from agentopt_local.comparison import offers
from agentopt_local.conversation import Conversation
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.models.scripted import Script, ScriptedChatModel
from agentopt_local.origins import Origin
from agentopt_local.problem import Problem
from agentopt_local.retrieval import Retrieval, Retriever
from agentopt_local.rollout import GradedAgent, MemoryStore, Rollouts
from agentopt_local.sandbox import open_sandbox
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Attempt, Trajectory
from tests.core.test_rollout import Numbers


def function(name: str, doc: str, body: str = "text[::-1]", questions: Sequence[str] = ()) -> Function:
    source = f'def {name}(text: str) -> str:\n    """{doc}"""\n    return {body}\n'
    return Function.new(source).for_questions(questions)


SPELL = function(
    "spell_backward", "For problems that ask to spell a word backward. Takes the word, returns its letters reversed."
)
LEGS = function(
    "count_legs",
    "For problems that ask how many legs a group of animals has. Takes the list as text, returns the number of legs.",
    "str(4 * len(text.split(',')))",
)
PRIMES = function(
    "prime_factors",
    "For problems that ask for the prime factorization of a number. Takes the number, returns the factors.",
    "helper(text)",
)
HELPER = function("helper", "Return a text twice.", "text + text")
COUNTDOWN = function(
    "solve_puzzle",
    "Return an expression.",
    "text",
    ["Using the numbers 4, 9 and 12, create an expression that equals 25", "Find a way to make 30 from 5, 6 and 7"],
)
FUNCTIONS = FunctionSet(functions=(HELPER, SPELL, LEGS, PRIMES, COUNTDOWN))
QUESTIONS = {
    "spell_backward": "Spell this word backward (example: sun -> nus): bewitched",
    "count_legs": "How many legs are there in total if you have 3 sea slugs, 12 deers and 2 beetles?",
    "prime_factors": "Find the prime factorization of 656. Write the factors separated by ×",
    "solve_puzzle": "Using the numbers 81, 3 and 7, create an expression that equals 24",
}


def fitting(question: str, k: int = 1, functions: FunctionSet = FUNCTIONS) -> tuple[str, ...]:
    return Retriever(functions).view(question, k, alike=False).offered.names


@pytest.mark.parametrize(("name", "question"), QUESTIONS.items())
def test_docstring_name_and_source_questions_decide(name: str, question: str) -> None:
    assert fitting(question) == (name,)


def test_each_of_the_three_texts_is_enough() -> None:
    said, named = (
        function("f_a", "For problems that ask for the area of a circle."),
        function("circle_area", "Compute."),
    )
    asked = function("f_b", "Compute.", questions=["What is the area of a circle with radius 3?"])
    others = [function(f"other_{letter}", "Return the letters in order.") for letter in "abc"]
    for one in (said, named, asked):
        assert fitting("The area of a circle with radius 8?", 1, FunctionSet(functions=(*others, one))) == (one.name,)


def test_the_nearest_source_question_counts_and_not_how_many_there_are() -> None:
    near = function("near", "Return it.", questions=["How many minutes lie between noon and two?"])
    often = function(
        "often", "Return it.", questions=[f"How many {each} are red?" for each in ("cars", "hats", "pens")]
    )
    assert fitting("How many minutes lie between noon and six?", 1, FunctionSet(functions=(often, near))) == ("near",)


def test_an_offer_keeps_the_order_of_the_set() -> None:
    question = QUESTIONS["prime_factors"] + QUESTIONS["count_legs"]
    assert fitting(question, 2) == ("count_legs", "prime_factors")
    assert fitting(question, 2, FunctionSet(functions=FUNCTIONS.functions[::-1])) == ("prime_factors", "count_legs")


@pytest.mark.parametrize("question", ["", "7 + 8 = ?", "zzyzx quux", "the of and"])
def test_of_functions_that_fit_equally_the_first_are_offered(question: str) -> None:
    assert fitting(question, 2) == ("helper", "spell_backward")


def test_a_set_without_a_word_is_offered_by_order() -> None:
    wordless = FunctionSet.of(*(f'def f{n}(x: int) -> int:\n    """{n}"""\n    return x\n' for n in range(4)))
    assert fitting(QUESTIONS["count_legs"], 2, wordless) == ("f0", "f1")


@pytest.mark.parametrize("most", [None, 5, 6])
def test_a_set_that_is_small_enough_is_offered_as_it_is(most: int | None) -> None:
    assert Retrieval(most).view(FUNCTIONS, QUESTIONS["count_legs"]).offered is FUNCTIONS
    assert Retriever(FUNCTIONS).view("legs", 5, alike=False).offered is FUNCTIONS


# Functions for problems like it

POLYNOMIALS = function("calculate", "For problems that ask to compute an expression.", questions=[
    "Simplify this expression: -54*x*(3 - 47*x**3)\nWhen performing calculations, use ** for exponents.",
    "Calculate the following: (z + 4)*(z - 3)\nWhen performing calculations, use ** for exponents.",
])  # fmt: skip
BITS = function("compute", "For problems that ask to compute an expression.", "text + text", [
    "Please solve this problem. Assume there is arbitrary bit depth.\n((0xa7f0 << 0x0) << 0x2)",
    "Please solve this problem. Assume there is arbitrary bit depth.\n((0x3c9e + 0xfc9d) * 0x1)",
])  # fmt: skip
BOTH = FunctionSet(functions=(HELPER, POLYNOMIALS, BITS))
LIKE = {
    "calculate": "Simplify this expression: 12*y*(8*y - 6)\nWhen performing calculations, use ** for exponents.",
    "compute": "Please solve this problem. Assume there is arbitrary bit depth.\n((0x1 - 0x2c) >> 0x3)",
}


UNLIKE = ["", "7 + 8 = ?", "How many legs have 3 deers?", "Simplify 3*x + 4*x, please."]


@pytest.mark.parametrize(("name", "question"), LIKE.items())
def test_a_problem_like_those_of_a_function_is_not_offered_what_is_for_others(name: str, question: str) -> None:
    """Functions that were written for no problems are offered to all."""
    assert Retrieval().view(BOTH, question).offered.names == ("helper", name)
    assert Retrieval(1).view(BOTH, question).offered.names == (name,)
    assert Retrieval(alike=False).view(BOTH, question).offered is BOTH


@pytest.mark.parametrize("question", UNLIKE)
def test_where_people_ask_a_question_unlike_all_of_them_is_offered_everything(question: str) -> None:
    agents = [
        make_agent(ScriptedChatModel([]), open_sandbox(workers=1), AgentConfig(), asked=each) for each in (True, False)
    ]
    assert [each.retrieval.view(BOTH, question).offered.names for each in agents] == [BOTH.names, ("helper",)]
    assert agents[0].retrieval.view(BOTH, LIKE["compute"]).offered.names == ("helper", "compute")


def test_a_function_for_two_kinds_of_problems_is_offered_to_both() -> None:
    both = FunctionSet(functions=(POLYNOMIALS.for_questions(BITS.questions), BITS))
    assert Retrieval().view(both, LIKE["compute"]).offered is both
    assert Retrieval().view(both, LIKE["calculate"]).offered.names == ("calculate",)


@pytest.mark.parametrize("question", UNLIKE)
def test_a_problem_unlike_all_of_them_is_offered_no_function_for_problems_of_one_form(question: str) -> None:
    """Functions whose questions are not alike, or are too few to say, are offered to it."""
    assert Retrieval().view(BOTH, question).offered.names == ("helper",)
    one = BITS.model_copy(update={"questions": BITS.questions[:1]})
    mixed = FunctionSet(functions=(POLYNOMIALS.for_questions(BITS.questions), one))
    assert Retrieval().view(mixed, question).offered is mixed


def test_without_source_questions_no_words_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "weighing", lambda: pytest.fail("words were weighed"))
    told = FUNCTIONS.removing("solve_puzzle")
    assert Retrieval().view(told, QUESTIONS["count_legs"]).offered is told


def test_an_offer_depends_on_set_and_question_alone() -> None:
    """So training, test, workers, a resumed run and a chat offer the same, whatever was offered before."""
    sent = pickle.loads(pickle.dumps(FUNCTIONS))
    stored = FunctionSet.model_validate_json(FUNCTIONS.model_dump_json())
    expected = {question: fitting(question, 2) for question in QUESTIONS.values()}
    for seed in range(4):
        used = Retrieval(2)
        for question in random.Random(seed).choices(list(QUESTIONS.values()), k=12):
            for functions in (FUNCTIONS, sent, stored, FUNCTIONS.removing("helper")):
                names = used.view(functions, question).offered.names
                assert len(functions) < len(FUNCTIONS) or names == expected[question]


def test_words_are_weighed_once_for_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(retrieval, "weighing", lambda make=retrieval.weighing: made.append(1) or make())
    monkeypatch.setattr(retrieval, "KEPT", 2)
    used = Retrieval(2)
    sets = [FUNCTIONS.removing(name) for name in FUNCTIONS.names[:3]]
    for _ in range(3):
        for question in QUESTIONS.values():
            used.view(pickle.loads(pickle.dumps(sets[0])), question)
            used.view(sets[1], question)
    assert len(made) == 2
    used.view(sets[2], "legs")
    used.view(sets[1], "legs")
    assert len(made) == 3
    used.view(sets[0], "legs")
    assert len(made) == 4, "of more sets than KEPT, those that were not used for longest are forgotten"


# The agent


def solve(script: Script, question: str, **settings: Any) -> tuple[Attempt, list[ChatRequest]]:
    """One attempt with the real sandbox, and its requests."""

    async def run() -> tuple[Attempt, list[ChatRequest]]:
        sandbox = open_sandbox(workers=1)
        await sandbox.start()
        try:
            model = ScriptedChatModel(script)
            agent = make_agent(model, sandbox, AgentConfig.model_validate({"max_functions": 2, **settings}))
            problem = Problem(id="p", question=question, answer="")
            return await agent.solve(problem, FUNCTIONS, seed=0), model.requests
        finally:
            await sandbox.aclose()

    return asyncio.run(run())


def call(name: str, kind: str) -> str:
    if kind == "react":
        return f'Action: {name}\nAction Input: {{"text": "ab"}}'
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'text': 'ab'}})}\n</tool_call>"


ANSWER = {"react": "Final Answer: 1", "function_calling": "<answer>1</answer>"}


@pytest.mark.parametrize("kind", ANSWER)
def test_a_turn_can_call_only_what_was_offered(kind: str) -> None:
    """Tools, system prompt and grammar name the offer; a call of another function is refused and says what there is."""
    script = [call("spell_backward", kind), call("prime_factors", kind), ANSWER[kind]]
    attempt, requests = solve(script, QUESTIONS["prime_factors"], kind=kind)
    assert attempt.offered == ("helper", "prime_factors")
    assert attempt.functions == FUNCTIONS.fingerprint, "the cache knows the whole set"
    refused, answered = attempt.calls
    assert not refused.ok
    assert refused.result == "Error: there is no function 'spell_backward'; there are: helper, prime_factors"
    assert (answered.ok, answered.result) == (True, "abab"), "an offered function may call any of the set"
    for request in requests:
        assert request.constraint is not None
        told = f"{request.messages[0].content} {request.constraint.value} {[each.name for each in request.tools]}"
        assert ["prime_factors" in told, "spell_backward" in told, "count_legs" in told] == [True, False, False]


def test_a_function_that_only_helps_an_offered_one_is_not_offered() -> None:
    script = [call("prime_factors", "function_calling"), ANSWER["function_calling"]]
    attempt, requests = solve(script, QUESTIONS["prime_factors"], max_functions=1)
    assert [each.name for each in requests[0].tools] == ["prime_factors"]
    assert attempt.calls[0].result == "abab"


def test_code_is_run_with_the_offer_and_what_it_calls() -> None:
    code = "```python\nprint(prime_factors('x'), helper('y'))\nspell_backward('abc')\n```"
    attempt, _ = solve([code, ANSWER["function_calling"]], QUESTIONS["prime_factors"], max_functions=1)
    told = attempt.executed[0].result
    assert told.startswith("xx yy\n")
    assert told.endswith("NameError: name 'spell_backward' is not defined")


def test_an_attempt_that_was_offered_everything_says_nothing() -> None:
    attempt, requests = solve([ANSWER["function_calling"]], QUESTIONS["count_legs"], max_functions=None)
    assert attempt.offered is None
    assert len(requests[0].tools) == 5
    without = attempt.model_copy(update={"view": ""})
    for older in ({}, {"offered": ()}, {"offered": []}):
        dumped = attempt.model_dump(exclude={"offered", "view"})
        assert Attempt.model_validate({**dumped, **older}) == without


def test_each_question_of_a_chat_is_offered_its_own_functions() -> None:
    async def run() -> list[list[str]]:
        model = ScriptedChatModel(lambda request: ANSWER["function_calling"])
        chat = Conversation(model, lambda message: None)
        sandbox = open_sandbox(workers=1)
        agent = make_agent(chat, sandbox, AgentConfig(max_functions=1))
        for question in (*QUESTIONS.values(), QUESTIONS["count_legs"]):
            await chat.ask(agent, question, FUNCTIONS)
        return [[tool.name for tool in request.tools] for request in model.requests]

    assert asyncio.run(run()) == [*([name] for name in QUESTIONS), ["count_legs"]]


# Rollouts that are the same with another set

ALONE = FunctionSet(functions=(HELPER, POLYNOMIALS))
ASKED = tuple(
    Problem(id=str(number), question=question, answer="1")
    for number, question in enumerate([*LIKE.values(), QUESTIONS["count_legs"]])
)


class Graded:
    """Solves each problem with one request, and counts those under way."""

    def __init__(self, **settings: Any) -> None:
        self.model = ScriptedChatModel(lambda request: ANSWER["function_calling"])
        sandbox = open_sandbox(workers=1)
        agent = make_agent(self.model, sandbox, AgentConfig.model_validate(settings))
        solver = GradedAgent(agent, Numbers(), sandbox)
        self.store = MemoryStore()
        self.rollouts = Rollouts(solver, self.store, retrieval=agent.retrieval)

    def run(self, *sets: FunctionSet, seed: int = 0, part: str = "a") -> list[tuple[Trajectory, ...]]:
        """Rollouts with each of the sets, all at once."""

        async def job() -> list[tuple[Trajectory, ...]]:
            runs = (self.rollouts.run(each, ASKED, seed=seed, stage=Stage(part=part)) for each in sets)
            return list(await asyncio.gather(*runs))

        return asyncio.run(job())


def test_a_problem_that_sees_the_same_of_two_sets_is_tried_once() -> None:
    job = Graded()
    [alone] = job.run(ALONE)
    assert len(job.model.requests) == 3
    assert [each.offered for each in alone] == [None, ("helper",), ("helper",)]
    [both] = job.run(BOTH)
    assert len(job.model.requests) == 4, "one sees another function"
    first = both[0]
    assert (first.functions, first.offered) == (BOTH.fingerprint, ("helper", "calculate"))
    assert first.model_copy(update={"functions": ALONE.fingerprint, "offered": None, "copied": False}) == alone[0]
    assert [each.copied for each in both] == [True, False, True]
    assert first.usage == alone[0].usage != Usage()
    assert (first.spent, both[1].spent) == (Usage(), both[1].usage)
    assert job.run(BOTH) == [both], "a copy is remembered as any other"
    job.run(BOTH, seed=1)
    assert len(job.model.requests) == 7, "another seed is another attempt"


def test_a_problem_that_is_offered_nothing_is_the_untrained_agents() -> None:
    job = Graded()
    bits = FunctionSet(functions=(BITS,))
    untrained, trained = job.run(FunctionSet())[0], job.run(bits)[0]
    assert [each.copied for each in trained] == [True, False, True]
    assert [each.offered for each in trained] == [(), None, ()]
    assert trained[0].offers(bits) == ()
    stored = Trajectory.model_validate_json(trained[0].model_dump_json())
    assert (stored, stored.steps) == (trained[0], untrained[0].steps)


def test_the_same_is_made_once_where_both_are_asked_for_at_the_same_time() -> None:
    job = Graded()
    alone, both = job.run(ALONE, BOTH)
    assert len(job.model.requests) == 4
    assert sorted(each[0].copied for each in (alone, both)) == [False, True]


def test_what_an_offer_calls_without_being_offered_is_not_the_set_that_has_both() -> None:
    """With the set of both, the model is told of the helper too."""
    job = Graded(max_functions=1)
    both = FunctionSet(functions=(HELPER, PRIMES))
    question = QUESTIONS["prime_factors"]
    one = job.rollouts.retrieval.view(both, question)
    assert (one.offered.names, one.beside) == (("prime_factors",), both)
    assert len({one.key, both.fingerprint, one.offered.fingerprint}) == 3
    larger = FunctionSet(functions=(SPELL, HELPER, LEGS, PRIMES))
    assert job.rollouts.retrieval.view(larger, question).key == one.key


def test_a_rollout_of_an_older_version_is_not_taken_for_another_set() -> None:
    job = Graded()
    [alone] = job.run(ALONE)
    older = Graded()
    for each in alone:
        older.store.keep(Trajectory.model_validate(each.model_dump(exclude={"view", "copied"})), Stage(part="a"))
    assert not any(each.copied for each in older.run(BOTH)[0])
    assert older.run(ALONE) == [tuple(older.store.find(ALONE.fingerprint, each.id, 0) for each in ASKED)]


# Misses

KINDS = {"spell_backward": {"spell"}, "count_legs": {"legs"}, "prime_factors": {"primes", "legs"}}
ORIGINS = {name: Origin(kinds=frozenset(KINDS.get(name, ()))) for name in FUNCTIONS.names}


def offered(*pairs: tuple[str, tuple[str, ...]]) -> dict[str, Any]:
    """What is said of rollouts of problems of these kinds with these offers."""
    problems = [Problem(id=str(number), question="?", answer="", kind=kind) for number, (kind, _) in enumerate(pairs)]
    rollouts = [
        Trajectory.model_validate(
            {
                "problem_id": problem.id,
                "functions": FUNCTIONS.fingerprint,
                "offered": offer,
                "seed": 0,
                "steps": (),
                "answer": None,
                "stop_reason": "no_action",
                "usage": {},
                "wall_s": 0.0,
                "grade": Grade(reward=0.0, reason=""),
            }
        )
        for problem, (_, offer) in zip(problems, pairs, strict=True)
    ]
    found = offers(FUNCTIONS, problems, rollouts, ORIGINS)
    return {} if found is None else found.model_dump()


def test_a_miss_is_an_offer_that_lacks_the_kinds_own_function() -> None:
    found = offered(
        ("spell", ("spell_backward", "count_legs")),
        ("spell", ("count_legs", "prime_factors")),
        ("legs", ("spell_backward", "prime_factors")),
        ("sums", ("spell_backward", "prime_factors")),
    )
    assert found == {"functions": 5, "mean": 2.0, "judged": 3, "misses": 2}


def test_no_miss_where_the_kinds_own_functions_fill_the_offer() -> None:
    assert offered(("legs", ("count_legs",)), ("legs", ("prime_factors",)))["misses"] == 0


def test_functions_of_unknown_origin_make_no_miss() -> None:
    assert offered(("legs", ("helper", "solve_puzzle")))["misses"] == 0
    assert offered(("sums", ("helper",)))["judged"] == 0


def test_nothing_is_said_where_all_functions_were_offered() -> None:
    assert offered(("legs", ()), ("spell", ())) == {}
