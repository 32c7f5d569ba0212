"""X3: of an agent's turn that the limit of tokens has cut off, only what is whole is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.loop import CUT
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatReply, Message, ToolCall, Usage
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.trajectory import Attempt
from tests.tools.recorder import Recorder

AREA = 'def area(w: int, h: int) -> int:\n    """Return w * h."""\n    return w * h\n'
NOTE = 'def note(text: str) -> str:\n    """Note text."""\n    return text\n'
PROBLEM = Problem(id="p", question="How large?", answer="1234")


def turn(text: str, reason: Any = "length", calls: Sequence[ToolCall] = ()) -> ChatReply:
    message = Message(role="assistant", content=text, tool_calls=tuple(calls))
    return ChatReply(message=message, finish_reason=reason, usage=Usage(requests=1, completion_tokens=20))


def solve(*turns: ChatReply, **settings: Any) -> tuple[Attempt, list[Any], ScriptedChatModel]:
    sandbox, model = Recorder(), ScriptedChatModel(turns)
    agent = make_agent(model, sandbox, AgentConfig(max_turns=len(turns), constrain=False, **settings))  # type: ignore[arg-type]
    attempt = asyncio.run(agent.solve(PROBLEM, FunctionSet.of(AREA, NOTE), seed=0))
    return attempt, sandbox.did, model


CALL = ToolCall(name="area", arguments={"w": 3, "h": 4})
NOTED = ToolCall(name="note", arguments={"text": "x"})
ACTION = 'Action: area\nAction Input: {"w": 3, "h": 4}'
END = turn("<answer>1234</answer>", "stop")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("function_calling", "```python\nw = 3\nprint(w * "),
        ("function_calling", "```python\n"),
        ("function_calling", "Let me see.\n\n```py\nprint(12)\nprint(3"),
        ("function_calling", "The answer is <answer>12"),
        ("function_calling", "So \\boxed{12"),
        ("react", "Action: python\nAction Input:\n```python\nprint(1"),
        ("react", 'Action: area\nAction Input: {"w": 3, "h"'),
        ("react", "Thought: now\nFinal Answer: 12"),
    ],
)
def test_x3_nothing_half_written_is_run_or_taken_for_the_answer(kind: str, text: str) -> None:
    last = END if kind == "function_calling" else turn("Final Answer: 1234", "stop")
    attempt, did, model = solve(turn(text), last, kind=kind)
    assert did == []
    assert attempt.answer == "1234"
    assert CUT in model.requests[1].messages[-1].content
    assert "syntax" not in model.requests[1].messages[-1].content.lower()


@pytest.mark.parametrize(
    ("kind", "reply", "done"),
    [
        ("function_calling", turn("```python\nprint(12)\n```\nNow I print it and then I"), ["print(12)\n"]),
        ("function_calling", turn("", calls=[CALL]), [("area", CALL.arguments)]),
        ("function_calling", turn("so x", calls=[NOTED]), [("note", NOTED.arguments)]),
        ("react", turn(ACTION), [("area", CALL.arguments)]),
        ("react", turn(f"{ACTION}\nObservation: 12\nThought: it"), [("area", CALL.arguments)]),
    ],
)
def test_what_is_whole_in_a_cut_turn_is_done(kind: str, reply: ChatReply, done: list[Any]) -> None:
    last = END if kind == "function_calling" else turn("Final Answer: 1234", "stop")
    attempt, did, _ = solve(reply, last, kind=kind)
    assert did == done
    assert attempt.answer == "1234"


@pytest.mark.parametrize("text", ["<answer>12</answer>", "So \\boxed{12}. And so", "<answer>12</answer> as"])
def test_a_whole_answer_in_a_cut_turn_counts(text: str) -> None:
    attempt, _, _ = solve(turn(text), END)
    assert attempt.answer == "12"


@pytest.mark.parametrize("text", ["```python\nprint(12)", "<answer>12", "\\boxed{12}"])
def test_a_turn_that_the_model_ended_itself_is_read_as_before(text: str) -> None:
    attempt, did, _ = solve(turn(text, "stop"), END)
    assert did or attempt.answer == "12"


def test_x3_an_attempt_of_cut_turns_ends_for_its_tokens() -> None:
    attempt, _, _ = solve(turn("Well, let me"), turn("Well, let me"), END)
    assert attempt.stop_reason == "max_tokens"
    attempt, _, _ = solve(turn("Well.", "stop"), turn("Well.", "stop"), END)
    assert attempt.stop_reason == "no_action"
