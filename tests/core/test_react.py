"""What is specific to the ReAct agent: how its turns are read, and a single string instead of typed arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.agents.react import arguments_of, code_of, final_answer, input_of
from agentopt_local.chat import ChatRequest
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.trajectory import Attempt
from tests.tools.recorder import Recorder

DOUBLE = 'def double(x: int) -> int:\n    """Return twice x."""\n    return 2 * x\n'
SHOUT = 'def shout(text: str) -> str:\n    """Return text in capitals."""\n    return text.upper()\n'
JOIN = 'def join(a: str, b: int = 1) -> str:\n    """Return a, b times."""\n    return a * b\n'
PROBLEM = Problem(id="p", question="?", answer="gold")


def solve(turns: Sequence[str], *sources: str, **settings: Any) -> tuple[Attempt, list[Any], list[ChatRequest]]:
    """One attempt: its trajectory, what it did, and the requests it made."""
    model, sandbox = ScriptedChatModel(turns, strict=settings.pop("strict", False)), Recorder()
    agent = make_agent(model, sandbox, AgentConfig(kind="react", **settings))  # type: ignore[arg-type]
    trajectory = asyncio.run(agent.solve(PROBLEM, FunctionSet.of(*sources), seed=0))
    return trajectory, sandbox.did, model.requests


@pytest.mark.parametrize(
    ("turn", "did"),
    [
        ('Thought: easy\nAction: double\nAction Input: {"x": 4}', ("double", {"x": 4})),
        ('Action 1: double\nAction 1 Input: {"x": 4}', ("double", {"x": 4})),
        ('Action: `double`\nAction Input: {"x": 4} and so on', ("double", {"x": 4})),
        ('Action: double()\nAction Input:\n```json\n{"x": 4}\n```', ("double", {"x": 4})),
        ("Action: double\nAction Input: 4", ("double", {"x": 4})),
        ("Action: shout\nAction Input: hello there", ("shout", {"text": "hello there"})),
        ('Action: shout\nAction Input: "hello"', ("shout", {"text": "hello"})),
        ('Action: double\nAction Input: {"x": 4}\nThought: then\nAction: shout', ("double", {"x": 4})),
        ('Action: double\nAction Input: {"x": 4}\nFinal Answer: 9', ("double", {"x": 4})),
        ("Action: Python\nAction Input: ```python\nprint(1)\n```", "print(1)\n"),
        ("Action: python\nAction Input:\nx = 1\nprint(x)", "x = 1\nprint(x)"),
        ('Action: python\nAction Input: "print(1)"', "print(1)"),
        ("Let me see.\n```python\nprint(1)\n```", "print(1)\n"),
    ],
)
def test_an_action_that_was_clearly_meant_is_taken(turn: str, did: Any) -> None:
    _, done, _ = solve([turn, "Final Answer: 1"], DOUBLE, SHOUT)
    assert done == [did]


@pytest.mark.parametrize(
    "turn", ["Action: join\nAction Input: 4", "Action: double\nAction Input: four", "Action: double", "Action: join\n4"]
)
def test_an_input_without_arguments_is_answered_with_their_shape(turn: str) -> None:
    trajectory, done, requests = solve([turn, "Final Answer: 1"], DOUBLE, JOIN)
    assert done == []
    assert not trajectory.calls[0].ok
    assert "JSON object such as {" in requests[1].messages[-1].content


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Thought: done\nFinal Answer: 42", "42"),
        ("final answer: 4 2 \n", "4 2"),
        ("Final Answer: a\nb\nThought: hm", "a\nb"),
        ("Final Answer: \\boxed{\\frac12}", "\\frac12"),
        ("Final Answer: The answer is \\boxed{7}", "The answer is \\boxed{7}"),
        ("Final Answer: <answer>7</answer>", "7"),
        ("Final Answer:", None),
        ("The answer is 7", None),
    ],
)
def test_final_answers_are_read(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_an_answer_in_tags_or_a_box_counts_too() -> None:
    assert solve(["I think <answer>5</answer>"])[0].answer == "5"
    assert solve(["so \\boxed{5}."])[0].answer == "5"
    assert solve(["Final Answer: 3\nAction: python\nAction Input: 1"])[0].answer == "3"


def test_observations_that_the_model_made_up_are_cut_off() -> None:
    turn = 'Action: double\nAction Input: {"x": 4}\nObservation: 9\nThought: so\nFinal Answer: 9'
    trajectory, done, requests = solve([turn, "Final Answer: 8"], DOUBLE)
    assert (done, trajectory.answer) == ([("double", {"x": 4})], "8")
    assert "9" not in requests[1].messages[-2].content
    assert requests[1].messages[-1].content == "Observation: done"
    assert solve(["Observation: 5\nFinal Answer: 5", "Observation: 5"])[0].stop_reason == "no_action"


def test_functions_are_told_in_words_and_offered_in_no_other_form() -> None:
    _, _, requests = solve(["Final Answer: 1"], DOUBLE, JOIN)
    system = requests[0].messages[0].content
    assert requests[0].tools == ()
    assert 'double(x: int) -> int: Return twice x. Input: a JSON object such as {"x": <integer>}.' in system
    assert "python: runs Python code" in system
    assert "python" not in solve(["Final Answer: 1"], DOUBLE, interpreter=False)[2][0].messages[0].content
    assert "Thought:" in system
    assert "Thought:" not in solve(["Final Answer: 1"], think=False)[2][0].messages[0].content


def test_one_text_in_place_of_typed_arguments() -> None:
    settings: dict[str, Any] = {"one_string_argument": True, "strict": True}
    turns = ['Action: shout\nAction Input: "hi"', 'Action: double\nAction Input: {"x": 1}', "Final Answer: HI"]
    _, done, requests = solve(turns, SHOUT, DOUBLE, **settings)
    assert done == [("shout", {"text": "hi"}), ("double", {"x": 1})]
    system = requests[0].messages[0].content
    assert "Return text in capitals. Input: one text in double quotes." in system
    with pytest.raises(Exception, match="breaks the request's constraint"):
        solve(['Action: shout\nAction Input: {"text": "hi"}'], SHOUT, **settings)
    shout = Function(source=SHOUT)
    assert arguments_of(shout, "say hi", as_text=True) == {"text": "say hi"}
    assert arguments_of(shout, "42", as_text=True) == {"text": "42"}
    assert arguments_of(shout, '{"a": 1}', as_text=True) == {"text": '{"a": 1}'}
    assert arguments_of(shout, '{"text": "hi"}', as_text=True) == {"text": "hi"}


def test_inputs_and_code_are_cut_out() -> None:
    text = "Action: python\nAction Input:\n```python\n# Action: none\nThought: 1\n```\nThought: x"
    assert code_of(input_of(text, 14)) == "# Action: none\nThought: 1\n"
    assert code_of('{"code": "print(1)"}') == "print(1)"
    assert input_of("Action: a\nAction Input: 5\nFinal Answer: 6", 9) == "5"


def test_unknown_names_and_functions_without_parameters() -> None:
    now = 'def now() -> str:\n    """Return the time."""\n    return "12"\n'
    trajectory, done, _ = solve(["Action: now\nAction Input: {}", "Action: now\nAction Input:", "Final Answer: 1"], now)
    assert done == [("now", {}), ("now", {})]
    trajectory, done, requests = solve(["Action: Search[x]\nAction Input: cats", "Final Answer: 1"], now)
    assert done == []
    assert "there is no function" in requests[1].messages[-1].content
    assert trajectory.calls[0].arguments == {"input": "cats"}
