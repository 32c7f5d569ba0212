"""What every Agent promises, regardless of the form of its turns.

A :class:`Dialect` writes calls, code blocks and answers in the form that one kind of agent reads. To add a kind, add
its dialect to ``DIALECTS``. A creator has no turns for calls and answers, so only what asks for neither (``anyone``) is
tested with it here, and the rest in ``tests/core/test_creator.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pytest

from agentopt_local.agents.base import Agent
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.errors import ContextOverflowError, EngineDeadError, ModelError, RefusedPromptError
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import Script, ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.sandbox import Sandbox, open_sandbox
from agentopt_local.trajectory import Attempt

T = TypeVar("T")
DOUBLE = 'def double(x: int) -> int:\n    """Return twice x."""\n    return 2 * x\n'
DIVIDE = 'def divide(a: float, b: float) -> float:\n    """Return a / b."""\n    return a / b\n'
LINES = 'def lines(n: int) -> str:\n    """Return n lines."""\n    return "first\\n" + "x" * n + "\\nlast"\n'
PROBLEM = Problem(id="p1", question="What is twice 21?", answer="gold-4711", metadata={"hint": "gold-4711"})


class Dialect(Protocol):
    """How one kind of agent writes a turn."""

    def call(self, name: str, **arguments: Any) -> str: ...

    def block(self, code: str) -> str: ...

    def answer(self, text: str) -> str: ...


class FunctionCalling:
    """Calls in Hermes form, code in fences, answers in tags."""

    def call(self, name: str, **arguments: Any) -> str:
        return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"

    def block(self, code: str) -> str:
        return f"```python\n{code}\n```"

    def answer(self, text: str) -> str:
        return f"<answer>{text}</answer>"


class Boxed(FunctionCalling):
    """The same with the paper's form of an answer."""

    def answer(self, text: str) -> str:
        return f"\\boxed{{{text}}}"


class React:
    """Labelled lines."""

    def call(self, name: str, **arguments: Any) -> str:
        return f"Action: {name}\nAction Input: {json.dumps(arguments)}"

    def block(self, code: str) -> str:
        return f"Action: python\nAction Input:\n```python\n{code}\n```"

    def answer(self, text: str) -> str:
        return f"Final Answer: {text}"


class Creator(FunctionCalling):
    """Blocks of code alone."""

    def answer(self, text: str) -> str:
        return self.block(f"print({text!r})")


@dataclass(frozen=True)
class Kind:
    """A kind of agent: its dialect and its settings."""

    say: Dialect
    settings: dict[str, Any]

    def make(self, model: ScriptedChatModel, sandbox: Sandbox, **settings: Any) -> Agent:
        return make_agent(model, sandbox, AgentConfig(**{**self.settings, **settings}))


DIALECTS = [
    pytest.param(Kind(FunctionCalling(), {}), id="function_calling"),
    pytest.param(Kind(Boxed(), {"answer_form": "boxed"}), id="function_calling-boxed"),
    pytest.param(Kind(React(), {"kind": "react"}), id="react"),
    pytest.param(Kind(React(), {"kind": "react", "think": False}), id="react-without-thoughts"),
]
CREATOR = pytest.param(Kind(Creator(), {"kind": "creator"}), id="creator")


class Bench:
    """One event loop and one sandbox for all tests of this file, and the kind of agent under test."""

    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox, kind: Kind) -> None:
        self.runner = runner
        self.sandbox = sandbox
        self.kind = kind
        self.say = kind.say

    def run(self, job: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await job

        return self.runner.run(awaited())

    def solve(
        self,
        script: Script,
        *sources: str,
        problem: Problem = PROBLEM,
        seed: int = 0,
        strict: bool = False,
        **settings: Any,
    ) -> tuple[Attempt, list[ChatRequest]]:
        """One attempt with functions of ``sources``, and the requests that it made."""
        model = ScriptedChatModel(script, strict=strict)
        agent = self.kind.make(model, self.sandbox, **settings)
        return self.run(agent.solve(problem, FunctionSet.of(*sources), seed=seed)), model.requests


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[asyncio.Runner, Sandbox]]:
    sandbox = open_sandbox(workers=1)
    with asyncio.Runner() as runner:
        runner.run(sandbox.start())
        yield runner, sandbox
        runner.run(sandbox.aclose())


@pytest.fixture(params=DIALECTS)
def bench(request: pytest.FixtureRequest, opened: tuple[asyncio.Runner, Sandbox]) -> Bench:
    return Bench(*opened, request.param)


@pytest.fixture(params=[*DIALECTS, CREATOR])
def anyone(request: pytest.FixtureRequest, opened: tuple[asyncio.Runner, Sandbox]) -> Bench:
    return Bench(*opened, request.param)


def told(request: ChatRequest) -> str:
    """What the agent was told last."""
    return request.messages[-1].content


def test_a_call_of_a_learned_function_is_run_and_its_value_shown(bench: Bench) -> None:
    trajectory, requests = bench.solve([bench.say.call("double", x=21), bench.say.answer("42")], DOUBLE)
    assert (trajectory.answer, trajectory.stop_reason) == ("42", "answer")
    call = trajectory.steps[0].executed[0]
    assert (call.name, call.arguments, call.ok, call.result) == ("double", {"x": 21}, True, "42")
    assert trajectory.calls == (call,)
    assert "42" in told(requests[1])
    assert trajectory.functions == FunctionSet.of(DOUBLE).fingerprint
    assert type(trajectory) is Attempt, "grading is not the agent's business"


def test_code_is_run_with_the_functions_and_its_output_shown(bench: Bench) -> None:
    trajectory, requests = bench.solve([bench.say.block("print(double(double(5)))"), bench.say.answer("20")], DOUBLE)
    block = trajectory.executed[0]
    assert (block.name, block.ok, block.result) == ("python", True, "20")
    assert block.arguments["code"].strip() == "print(double(double(5)))"
    assert "20" in told(requests[1])
    assert trajectory.calls == (), "a block is not a call of a function"


def test_an_answer_ends_the_attempt(bench: Bench) -> None:
    trajectory, requests = bench.solve([bench.say.answer(" 3/4 ")])
    assert (trajectory.answer, trajectory.stop_reason, len(requests)) == ("3/4", "answer", 1)
    assert trajectory.steps[0].observations == ()


def test_an_act_comes_before_an_answer_of_the_same_turn(bench: Bench) -> None:
    turn = f"{bench.say.block('print(42)')}\n{bench.say.answer('41')}"
    trajectory, _ = bench.solve([turn, bench.say.answer("42")])
    assert trajectory.executed[0].result == "42"
    assert trajectory.answer == "42", "an answer given before the output was seen does not count"


def test_wrong_arguments_go_back_to_the_model(bench: Bench) -> None:
    say = bench.say
    turns = [say.call("double", x="many"), say.call("double", x=1, y=2), say.call("double"), say.call("double", x=2)]
    trajectory, requests = bench.solve([*turns, say.answer("4")], DOUBLE)
    assert [each.ok for each in trajectory.calls] == [False, False, False, True]
    assert "many" in told(requests[1])
    assert "no such argument: y" in told(requests[2])
    assert "'x' is a required property" in told(requests[3])


def test_an_unknown_function_is_answered_with_those_that_exist(bench: Bench) -> None:
    trajectory, requests = bench.solve([bench.say.call("triple", x=1), bench.say.answer("3")], DOUBLE, DIVIDE)
    assert "there is no function 'triple'; there are: double, divide" in told(requests[1])
    assert not trajectory.calls[0].ok


def test_what_fails_is_shown_with_its_error_and_its_output(bench: Bench) -> None:
    say = bench.say
    script = [say.call("divide", a=1, b=0), say.block("print('so far')\nprint(undefined)"), say.answer("none")]
    trajectory, requests = bench.solve(script, DIVIDE)
    assert [each.ok for each in trajectory.executed] == [False, False]
    assert "ZeroDivisionError" in told(requests[1])
    assert "so far" in told(requests[2])
    assert "NameError" in told(requests[2])
    assert trajectory.stop_reason == "answer"


def test_code_that_hangs_is_ended_at_its_limit(bench: Bench) -> None:
    script = [bench.say.block("while True: pass"), bench.say.answer("0")]
    trajectory, requests = bench.solve(script, timeout_s=0.5)
    assert not trajectory.executed[0].ok
    assert "Error:" in told(requests[1])


def test_without_an_interpreter_no_code_runs(bench: Bench) -> None:
    trajectory, _ = bench.solve([bench.say.block("print(6 * 7)"), bench.say.answer("42")], interpreter=False)
    assert not [each for each in trajectory.executed if each.ok]
    assert trajectory.answer == "42"


def test_a_turn_without_action_is_nudged_once_and_then_ends(bench: Bench) -> None:
    trajectory, requests = bench.solve(["Hmm.", "Hmm again.", bench.say.answer("1")])
    assert (trajectory.stop_reason, trajectory.answer, len(requests)) == ("no_action", None, 2)
    trajectory, _ = bench.solve(["Hmm.", bench.say.block("print(1)"), "Hmm.", bench.say.answer("1")])
    assert trajectory.stop_reason == "answer", "only two such turns in a row end the attempt"


def test_turns_are_limited(bench: Bench) -> None:
    trajectory, requests = bench.solve(lambda _: bench.say.block("print(1)"), max_turns=3)
    assert (trajectory.stop_reason, trajectory.answer, len(requests)) == ("max_turns", None, 3)


def test_tokens_are_limited_per_turn_and_per_attempt(bench: Bench) -> None:
    def to_the_limit(request: ChatRequest) -> ChatReply:
        message = Message(role="assistant", content=bench.say.block("print(1)"))
        return ChatReply(message=message, usage=Usage(requests=1, completion_tokens=request.sampling.max_tokens))

    trajectory, requests = bench.solve(to_the_limit, max_turn_tokens=20, max_tokens=50, max_turns=10)
    assert [request.sampling.max_tokens for request in requests] == [20, 20, 10]
    assert trajectory.stop_reason == "max_tokens"
    assert (trajectory.usage.completion_tokens, trajectory.usage.requests) == (50, 3)


def test_a_full_context_ends_the_attempt_with_what_there_is(bench: Bench) -> None:
    trajectory, _ = bench.solve([bench.say.block("print(5)"), ContextOverflowError("too long")])
    assert (trajectory.stop_reason, trajectory.answer) == ("context", None)
    assert trajectory.executed[0].result == "5"


def test_a_refused_prompt_ends_the_attempt_with_its_reason(bench: Bench) -> None:
    refused = RefusedPromptError("flagged by the filter")
    refused.usage = Usage(requests=1, completion_tokens=7)
    attempt, requests = bench.solve([bench.say.block("print(5)"), refused, bench.say.answer("5")])
    assert (attempt.stop_reason, attempt.answer, attempt.error) == ("refused", None, "flagged by the filter")
    assert (attempt.executed[0].result, len(requests)) == ("5", 2)
    assert attempt.usage.requests == 2, "what the refused request cost counts"
    attempt, _ = bench.solve([RefusedPromptError("at once")])
    assert (attempt.stop_reason, attempt.steps) == ("refused", ())
    attempt, _ = bench.solve([ContextOverflowError("too long")])
    assert (attempt.stop_reason, attempt.error) == ("context", "")


def test_a_dead_engine_is_no_trajectory(anyone: Bench) -> None:
    with pytest.raises(EngineDeadError, match="gone"):
        anyone.solve([EngineDeadError("gone")])
    with pytest.raises(ModelError, match="the key is not accepted"):
        anyone.solve([ModelError("the key is not accepted")])


def test_long_results_are_cut_in_the_middle(bench: Bench) -> None:
    script = [bench.say.call("lines", n=5000), bench.say.answer("x")]
    trajectory, requests = bench.solve(script, LINES, max_result_chars=300)
    shown = told(requests[1])
    assert len(shown) < 420
    assert "first\n" in shown
    assert shown.endswith("\nlast")
    assert "characters cut" in shown
    assert trajectory.calls[0].result in shown, "what is kept is what the agent saw"


def test_no_request_holds_the_expected_answer_or_depends_on_it(bench: Bench) -> None:
    """Nor is an agent told that it is right: the same turns are answered alike whatever the expected answer is."""
    say = bench.say
    script = [say.call("double", x="a"), say.block("1/0"), "Hmm.", say.block("print(42)"), say.answer("42")]
    _, requests = bench.solve(script, DOUBLE)
    assert len(requests) == 5
    assert not [request for request in requests if "gold-4711" in request.model_dump_json()]
    right = PROBLEM.model_copy(update={"answer": "42"})
    trajectory, same = bench.solve(script, DOUBLE, problem=right)
    assert same == requests
    assert trajectory.steps[-1].observations == ()


def test_the_model_is_told_the_functions_of_the_set_and_no_others(bench: Bench) -> None:
    _, requests = bench.solve([bench.say.call("double", x=1), bench.say.answer("2")], DOUBLE, DIVIDE)
    for request in requests:
        text = request.model_dump_json()
        assert "Return twice x." in text
        assert "Return a / b." in text
    _, requests = bench.solve([bench.say.answer("2")], DIVIDE)
    assert "double" not in requests[0].model_dump_json()


def test_a_constraint_lets_legal_turns_through_and_nothing_else(bench: Bench) -> None:
    say = bench.say
    legal = [say.call("double", x=1), say.block("print('`` `')"), say.answer("6")]
    trajectory, _ = bench.solve(legal, DOUBLE, strict=True, act_first=False)
    assert trajectory.stop_reason == "answer"
    for text in ("Hmm.", say.call("triple", x=1), say.call("double", x="1"), say.call("double"), say.answer("")):
        with pytest.raises(ModelError, match="breaks the request's constraint"):
            bench.solve([text, say.answer("6")], DOUBLE, strict=True, act_first=False)


def test_a_constrained_attempt_acts_before_it_answers(bench: Bench) -> None:
    say = bench.say
    with pytest.raises(ModelError, match="breaks the request's constraint"):
        bench.solve([say.answer("6")], DOUBLE, strict=True, act_first=True)
    assert bench.solve([say.call("double", x=3), say.answer("6")], DOUBLE, strict=True)[0].answer == "6"
    assert bench.solve([say.answer("6")], DOUBLE, strict=True, interpreter=False)[0].answer == "6"


def test_a_constraint_can_be_switched_off(anyone: Bench) -> None:
    attempt, requests = anyone.solve(lambda _: anyone.say.answer("6"), DOUBLE, constrain=False)
    assert attempt.answer == "6"
    assert {each.constraint for each in requests} == {None}


def test_one_function_may_be_called_like_the_beginning_of_another(bench: Bench) -> None:
    longer = DOUBLE.replace("double", "double_it")
    script = [bench.say.call("double_it", x=1), bench.say.call("double", x=1), bench.say.answer("2")]
    trajectory, _ = bench.solve(script, DOUBLE, longer, strict=True)
    assert [each.name for each in trajectory.calls] == ["double_it", "double"]


def test_a_rollout_has_one_session_of_its_own(anyone: Bench) -> None:
    script = [anyone.say.block("print(1)"), anyone.say.answer("1")]
    other = PROBLEM.model_copy(update={"id": "p9"})
    seen = set()
    for sources, problem, seed in (((), PROBLEM, 0), ((), PROBLEM, 1), ((), other, 0), ((DOUBLE,), PROBLEM, 0)):
        _, requests = anyone.solve(script, *sources, problem=problem, seed=seed)
        assert len({request.conversation for request in requests}) == 1
        seen.add(requests[0].conversation)
    assert None not in seen
    assert len(seen) == 4


def test_a_conversation_only_grows(bench: Bench) -> None:
    script = [bench.say.call("double", x=3), "Hmm.", bench.say.block("print(1)"), bench.say.answer("6")]
    _, requests = bench.solve(script, DOUBLE)
    for earlier, later in itertools.pairwise(requests):
        assert later.messages[: len(earlier.messages)] == earlier.messages
        assert len(later.messages) > len(earlier.messages)


def test_an_act_done_before_is_pointed_out(bench: Bench) -> None:
    _, requests = bench.solve([bench.say.block("print(1)"), bench.say.block("print(1)"), bench.say.answer("1")])
    assert "exactly this before" in told(requests[2])


def test_who_goes_round_in_circles_or_has_one_turn_left_must_answer(bench: Bench) -> None:
    say = bench.say
    circling = [say.block("print(1)"), say.block("print(1)")]
    assert bench.solve([*circling, say.answer("1")], strict=True)[0].answer == "1"
    for text in (say.block("print(2)"), "Hmm."):
        with pytest.raises(ModelError, match="breaks the request's constraint"):
            bench.solve([*circling, text, say.answer("1")], strict=True)
    with pytest.raises(ModelError, match="breaks the request's constraint"):
        bench.solve([say.block("print(1)"), say.call("double", x=1)], DOUBLE, strict=True, max_turns=2, act_first=False)


def test_greedy_turns_carry_no_seed_and_drawn_ones_the_rollouts(bench: Bench) -> None:
    _, requests = bench.solve([bench.say.answer("1")], seed=7)
    assert (requests[0].sampling.temperature, requests[0].sampling.seed) == (0.0, None)
    _, requests = bench.solve([bench.say.answer("1")], seed=7, temperature=0.5)
    assert (requests[0].sampling.temperature, requests[0].sampling.seed) == (0.5, 7)


def test_a_trajectory_survives_json(bench: Bench) -> None:
    script = [bench.say.call("double", x=3), bench.say.block("print('\\ud800 ä')"), bench.say.answer("6")]
    trajectory, _ = bench.solve(script, DOUBLE)
    assert Attempt.model_validate_json(trajectory.model_dump_json()) == trajectory
