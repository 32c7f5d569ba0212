"""The function-calling agent against a scripted model and the real sandbox."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

import pytest

from agentopt_local.agents.answers import FORMS
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.function_calling import NUDGE
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.errors import ContextOverflowError, EngineDeadError
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import Script, ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.sandbox import Sandbox, open_sandbox
from agentopt_local.trajectory import Attempt

T = TypeVar("T")
DOUBLE = 'def double(x: int) -> int:\n    """Return twice x."""\n    return 2 * x\n'
DIVIDE = 'def divide(a: float, b: float) -> float:\n    """Return a / b."""\n    return a / b\n'
LINES = 'def lines(n: int) -> str:\n    """Return n lines."""\n    return "first\\n" + "x" * n + "\\nlast"\n'
PROBLEM = Problem(id="p1", question="What is twice 21?", answer="forty-two-is-secret")
ANSWER = "<answer>42</answer>"


class Bench:
    """One event loop and one sandbox for all tests of this file: a sandbox belongs to its loop."""

    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox) -> None:
        self.runner = runner
        self.sandbox = sandbox

    def run(self, job: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await job

        return self.runner.run(awaited())

    def solve(
        self,
        script: Script,
        *,
        functions: FunctionSet | None = None,
        problem: Problem = PROBLEM,
        seed: int = 0,
        **settings: Any,
    ) -> tuple[Attempt, list[ChatRequest]]:
        """One attempt, and the requests that it made."""
        model = ScriptedChatModel(script)
        agent = make_agent(model, self.sandbox, AgentConfig(**settings))
        trajectory = self.run(agent.solve(problem, functions or FunctionSet(), seed=seed))
        return trajectory, model.requests


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    sandbox = open_sandbox(workers=1)
    with asyncio.Runner() as runner:
        runner.run(sandbox.start())
        yield Bench(runner, sandbox)
        runner.run(sandbox.aclose())


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def block(code: str) -> str:
    return f"```python\n{code}\n```"


def last(request: ChatRequest) -> str:
    return request.messages[-1].content


def test_a_call_of_a_learned_function_is_run_and_its_value_shown(bench: Bench) -> None:
    trajectory, requests = bench.solve([call("double", x=21), ANSWER], functions=FunctionSet.of(DOUBLE))
    assert (trajectory.answer, trajectory.stop_reason) == ("42", "answer")
    executed = trajectory.steps[0].executed[0]
    assert (executed.name, executed.arguments, executed.ok, executed.result) == ("double", {"x": 21}, True, "42")
    assert requests[1].messages[-1].role == "tool"
    assert last(requests[1]) == "42"
    assert requests[1].messages[-2].tool_calls[0].name == "double"
    assert trajectory.functions == FunctionSet.of(DOUBLE).fingerprint
    assert type(trajectory) is Attempt, "grading is not the agent's business"


def test_a_call_in_a_json_fence_counts_as_a_call(bench: Bench) -> None:
    fenced = '```json\n{"name": "double", "arguments": {"x": 4}}\n```'
    trajectory, _ = bench.solve([fenced, ANSWER], functions=FunctionSet.of(DOUBLE))
    assert [each.result for each in trajectory.calls] == ["8"]


def test_several_calls_of_one_turn_are_answered_in_their_order(bench: Bench) -> None:
    turn = call("double", x=1) + "\n" + call("divide", a=1, b=4)
    trajectory, requests = bench.solve([turn, ANSWER], functions=FunctionSet.of(DOUBLE, DIVIDE))
    assert [each.name for each in trajectory.calls] == ["double", "divide"]
    assert [(each.role, each.content) for each in requests[1].messages[-2:]] == [("tool", "2"), ("tool", "0.25")]


def test_a_python_block_is_run_and_its_output_shown(bench: Bench) -> None:
    trajectory, requests = bench.solve(["So:\n" + block("print(6 * 7)"), ANSWER])
    executed = trajectory.executed[0]
    assert (executed.name, executed.arguments, executed.ok) == ("python", {"code": "print(6 * 7)\n"}, True)
    assert (requests[1].messages[-1].role, last(requests[1])) == ("user", "Output of the code:\n42")
    assert trajectory.calls == (), "a block is not a call of a function"


def test_a_block_that_was_cut_before_its_fence_still_runs(bench: Bench) -> None:
    trajectory, _ = bench.solve(["```python\nprint(1 + 1)", ANSWER])
    assert trajectory.executed[0].result == "2"


def test_functions_can_be_called_from_the_block(bench: Bench) -> None:
    trajectory, requests = bench.solve([block("print(double(double(5)))"), ANSWER], functions=FunctionSet.of(DOUBLE))
    assert trajectory.executed[0].result == "20"
    assert "call the functions" in requests[0].messages[0].content
    _, without = bench.solve([ANSWER])
    assert "call the functions" not in without[0].messages[0].content


def test_wrong_arguments_go_back_to_the_model(bench: Bench) -> None:
    functions = FunctionSet.of(DOUBLE)
    script = [call("double", x="many"), call("double", x=1, y=2), call("double"), call("double", x=2), ANSWER]
    trajectory, requests = bench.solve(script, functions=functions)
    assert [each.ok for each in trajectory.calls] == [False, False, False, True]
    assert "argument x" in last(requests[1])
    assert "many" in last(requests[1])
    assert "no such argument: y" in last(requests[2])
    assert "'x' is a required property" in last(requests[3])


def test_an_unknown_function_is_answered_with_those_that_exist(bench: Bench) -> None:
    trajectory, requests = bench.solve([call("triple", x=1), ANSWER], functions=FunctionSet.of(DOUBLE, DIVIDE))
    assert last(requests[1]) == "Error: there is no function 'triple'; there are: double, divide"
    assert not trajectory.calls[0].ok
    assert trajectory.answer == "42"


def test_what_fails_is_shown_with_its_error_and_its_output(bench: Bench) -> None:
    script = [call("divide", a=1, b=0), block("print('so far')\nprint(undefined)"), ANSWER]
    trajectory, requests = bench.solve(script, functions=FunctionSet.of(DIVIDE))
    assert [each.ok for each in trajectory.executed] == [False, False]
    assert "ZeroDivisionError" in last(requests[1])
    assert "so far" in last(requests[2])
    assert "NameError" in last(requests[2])
    assert trajectory.stop_reason == "answer"


def test_code_that_hangs_is_ended_at_its_limit(bench: Bench) -> None:
    trajectory, requests = bench.solve([block("while True: pass"), ANSWER], timeout_s=0.5)
    assert not trajectory.executed[0].ok
    assert "Error:" in last(requests[1])
    assert trajectory.answer == "42"


def test_a_block_that_prints_nothing_says_so(bench: Bench) -> None:
    _, requests = bench.solve([block("x = 1"), ANSWER])
    assert "nothing was printed" in last(requests[1])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>42</answer>", "42"),
        ("I think <answer> a b \n</answer> done", "a b"),
        ("<answer>3/4", "3/4"),
        ("<answer>two\nlines</answer>", "two\nlines"),
        ("<answer>first</answer> <answer>second</answer>", "second"),
    ],
)
def test_answers_are_read(bench: Bench, text: str, answer: str) -> None:
    trajectory, requests = bench.solve([text])
    assert (trajectory.answer, trajectory.stop_reason, len(requests)) == (answer, "answer", 1)
    assert trajectory.steps[0].observations == ()


def test_code_comes_before_the_answer_of_the_same_turn(bench: Bench) -> None:
    trajectory, _ = bench.solve([f"{block('print(42)')}\n<answer>41</answer>", ANSWER])
    assert trajectory.executed[0].result == "42"
    assert trajectory.answer == "42", "an answer given before the output was seen does not count"


def test_a_turn_without_action_is_nudged_once_and_then_ends(bench: Bench) -> None:
    trajectory, requests = bench.solve(["Hmm.", "<answer></answer>", ANSWER])
    assert (trajectory.stop_reason, trajectory.answer, len(requests)) == ("no_action", None, 2)
    assert last(requests[1]) == NUDGE.format(opening="<answer>", closing="</answer>")
    trajectory, requests = bench.solve(["Hmm.", block("print(1)"), "Hmm.", ANSWER])
    assert trajectory.stop_reason == "answer", "only two such turns in a row end the attempt"


def test_without_an_interpreter_code_is_no_action(bench: Bench) -> None:
    trajectory, requests = bench.solve([block("print(1)"), ANSWER], interpreter=False)
    assert trajectory.executed == ()
    assert last(requests[1]) == NUDGE.format(opening="<answer>", closing="</answer>")


def test_turns_are_limited(bench: Bench) -> None:
    trajectory, requests = bench.solve(lambda _: block("print(1)"), max_turns=3)
    assert (trajectory.stop_reason, trajectory.answer, len(requests)) == ("max_turns", None, 3)
    assert len(trajectory.steps) == 3


def test_tokens_are_limited_per_turn_and_per_attempt(bench: Bench) -> None:
    def to_the_limit(request: ChatRequest) -> ChatReply:
        message = Message(role="assistant", content=block("print(1)"))
        return ChatReply(message=message, usage=Usage(requests=1, completion_tokens=request.sampling.max_tokens))

    trajectory, requests = bench.solve(to_the_limit, max_turn_tokens=20, max_tokens=50, max_turns=10)
    assert [request.sampling.max_tokens for request in requests] == [20, 20, 10]
    assert trajectory.stop_reason == "max_tokens"
    assert trajectory.usage.completion_tokens == 50
    assert trajectory.usage.requests == 3


def test_a_full_context_ends_the_attempt_with_what_there_is(bench: Bench) -> None:
    trajectory, _ = bench.solve([block("print(5)"), ContextOverflowError("too long")])
    assert (trajectory.stop_reason, trajectory.answer) == ("context", None)
    assert trajectory.executed[0].result == "5"


def test_a_dead_engine_is_no_trajectory(bench: Bench) -> None:
    with pytest.raises(EngineDeadError, match="gone"):
        bench.solve([EngineDeadError("gone")])


def test_long_results_are_cut_in_the_middle(bench: Bench) -> None:
    script = [call("lines", n=5000), block("print('a' * 3000 + 'z')"), ANSWER]
    trajectory, requests = bench.solve(script, functions=FunctionSet.of(LINES), max_result_chars=300)
    shown = last(requests[1])
    assert len(shown) < 400
    assert shown.startswith("first\n")
    assert shown.endswith("\nlast")
    assert "characters cut" in shown
    assert len(last(requests[2])) < 450
    assert last(requests[2]).endswith("z")
    assert trajectory.calls[0].result == shown, "what is kept is what the agent saw"


def test_the_expected_answer_is_in_no_request(bench: Bench) -> None:
    problem = Problem(
        id="p2", question="Say it.", answer="gold-4711", kind="k", metadata={"answer": "gold-4711", "hint": "gold-4711"}
    )
    script = [call("double", x="a"), block("1/0"), "Hmm.", block("print(2)"), "<answer>no</answer>"]
    _, requests = bench.solve(script, functions=FunctionSet.of(DOUBLE), problem=problem)
    assert len(requests) == 5
    assert not [request for request in requests if "gold-4711" in request.model_dump_json()]


def test_the_model_is_offered_the_functions_of_the_set_and_no_others(bench: Bench) -> None:
    _, requests = bench.solve([call("double", x=1), ANSWER], functions=FunctionSet.of(DOUBLE, DIVIDE))
    assert [[tool.name for tool in request.tools] for request in requests] == [["double", "divide"]] * 2
    assert requests[0].tools == FunctionSet.of(DOUBLE, DIVIDE).tool_specs()


def test_turns_are_constrained_as_configured(bench: Bench) -> None:
    _, requests = bench.solve([ANSWER], functions=FunctionSet.of(DOUBLE))
    constraint = requests[0].constraint
    assert constraint is not None
    assert constraint.kind == "turn"
    assert "python" in constraint.value
    _, requests = bench.solve([ANSWER], interpreter=False, think=False)
    assert requests[0].constraint is not None
    assert requests[0].constraint.value == f"({FORMS['tags'].pattern})"
    assert requests[0].constraint.max_thought_sentences == 0
    _, requests = bench.solve([ANSWER], constrain=False)
    assert requests[0].constraint is None


def test_the_constraint_lets_turns_through_and_stops_what_the_agent_cannot_use(bench: Bench) -> None:
    functions = FunctionSet.of(DOUBLE)
    config = AgentConfig(act_first=False)

    def strict(text: str) -> Attempt:
        model = ScriptedChatModel([text, ANSWER], strict=True)
        return bench.run(make_agent(model, bench.sandbox, config).solve(PROBLEM, functions, seed=0))

    for text in (call("double", x=1), f"Let me see.\n{block('print(1)')}", "```python\ns = '``'\n```"):
        assert strict(text).stop_reason == "answer"
    assert strict("I am sure.\n<answer>6</answer>").answer == "6"
    for text in ("Hmm.", block("print(1)") + ANSWER, "<answer></answer>", call("triple", x=1), call("double", x="1")):
        with pytest.raises(Exception, match="breaks the request's constraint"):
            strict(text)


def test_an_answer_must_wait_for_an_act(bench: Bench) -> None:
    def strict(*texts: str) -> Attempt:
        model = ScriptedChatModel(list(texts), strict=True)
        agent = make_agent(model, bench.sandbox, AgentConfig(act_first=True))
        return bench.run(agent.solve(PROBLEM, FunctionSet.of(DOUBLE), seed=0))

    with pytest.raises(Exception, match="breaks the request's constraint"):
        strict(ANSWER)
    with pytest.raises(Exception, match="breaks the request's constraint"):
        strict(block("print(1)"), ANSWER)
    assert strict(f"No function fits.\n{block('print(1)')}", ANSWER).stop_reason == "answer"
    assert strict(call("double", x=1), ANSWER).stop_reason == "answer"


def test_a_rollout_has_one_session_of_its_own(bench: Bench) -> None:
    script = [block("print(1)"), ANSWER]
    other = PROBLEM.model_copy(update={"id": "p9"})
    seen = []
    for functions, problem, seed in (
        (FunctionSet(), PROBLEM, 0),
        (FunctionSet(), PROBLEM, 1),
        (FunctionSet(), other, 0),
        (FunctionSet.of(DOUBLE), PROBLEM, 0),
    ):
        _, requests = bench.solve(script, functions=functions, problem=problem, seed=seed)
        assert len({request.conversation for request in requests}) == 1
        seen.append(requests[0].conversation)
    assert None not in seen
    assert len(set(seen)) == 4


def test_a_conversation_only_grows(bench: Bench) -> None:
    script = [call("double", x=3), "Hmm.", block("print(1)"), ANSWER]
    _, requests = bench.solve(script, functions=FunctionSet.of(DOUBLE))
    for earlier, later in itertools.pairwise(requests):
        assert later.messages[: len(earlier.messages)] == earlier.messages
        assert len(later.messages) > len(earlier.messages)


def test_greedy_turns_carry_no_seed_and_drawn_ones_the_rollouts(bench: Bench) -> None:
    _, requests = bench.solve([ANSWER], seed=7)
    assert (requests[0].sampling.temperature, requests[0].sampling.seed) == (0.0, None)
    _, requests = bench.solve([ANSWER], seed=7, temperature=0.5)
    assert (requests[0].sampling.temperature, requests[0].sampling.seed) == (0.5, 7)


def test_the_same_seed_gives_code_the_same_random_numbers(bench: Bench) -> None:
    script = [block("import random\nprint(random.random())"), ANSWER]
    results = [bench.solve(script, seed=seed)[0].executed[0].result for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_a_trajectory_survives_json(bench: Bench) -> None:
    script = [call("double", x=3), block("print('\\ud800 ä')"), ANSWER]
    trajectory, _ = bench.solve(script, functions=FunctionSet.of(DOUBLE))
    assert Attempt.model_validate_json(trajectory.model_dump_json()) == trajectory


def test_an_attempt_that_goes_round_in_circles_must_answer(bench: Bench) -> None:
    trajectory, requests = bench.solve([block("print(1)"), block("print(1)"), ANSWER])
    kinds = [request.constraint.kind for request in requests if request.constraint]
    assert kinds == ["turn", "turn", "regex"]
    assert requests[-1].constraint is not None
    assert requests[-1].constraint.value == FORMS["tags"].pattern
    assert "exactly this before" in last(requests[-1])
    assert trajectory.stop_reason == "answer"


def test_the_last_turn_must_answer(bench: Bench) -> None:
    trajectory, requests = bench.solve([block("print(1)"), block("print(2)"), ANSWER], max_turns=3)
    assert [request.constraint.kind for request in requests if request.constraint] == ["turn", "turn", "regex"]
    assert trajectory.answer == "42"


def test_a_single_turn_may_still_act(bench: Bench) -> None:
    _, requests = bench.solve([block("print(1)")], max_turns=1)
    assert [request.constraint.kind for request in requests if request.constraint] == ["turn"]
