"""A thought is kept and shown, but never run, read for an answer, graded or shown to the optimizer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.reporting.data import run_page
from agentopt_local.reporting.html import report_html
from agentopt_local.run.reader import read_rollouts, read_run
from agentopt_local.run.writer import RunDir
from agentopt_local.showing import functions_text, transcripts_text
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Attempt
from tests.tools.recorder import Recorder

PROBLEM = Problem(id="p", question="?", answer="42")
DOUBLE = FunctionSet.of('def double(x: int) -> int:\n    """Return twice x."""\n    return 2 * x\n')
ACTS = {
    "function_calling": '```python\nprint(0)\n```\n<tool_call>{"name": "double", "arguments": {"x": 1}}</tool_call>',
    "react": 'Action: double\nAction Input: {"x": 1}',
}
SECRET = "SECRET-THOUGHT"
ENDS = "\n<answer>wrong</answer> \\boxed{wrong}\nFinal Answer: wrong"


def reply(content: str, thought: str) -> ChatReply:
    usage = Usage(requests=1, prompt_tokens=5, completion_tokens=900, thought_tokens=890)
    return ChatReply(message=Message(role="assistant", content=content, thought=thought), usage=usage)


def solve(kind: str, contents: Sequence[str], **settings: Any) -> tuple[Attempt, list[Any], list[ChatRequest]]:
    """One attempt whose every turn thinks of acts and answers: it, what was run, and the requests made."""
    thought = f"{SECRET}\n{ACTS[kind]}{ENDS}"
    model, sandbox = ScriptedChatModel([reply(each, thought) for each in contents]), Recorder()
    agent = make_agent(model, sandbox, AgentConfig.model_validate({"kind": kind, **settings}))  # type: ignore[arg-type]
    return asyncio.run(agent.solve(PROBLEM, DOUBLE, seed=0)), sandbox.did, model.requests


@pytest.mark.parametrize("kind", ACTS)
def test_what_a_thought_says_is_neither_run_nor_the_answer(kind: str) -> None:
    attempt, did, _ = solve(kind, ["", "Well."])
    assert (did, attempt.answer, attempt.stop_reason) == ([], None, "no_action")
    answer = "<answer>42</answer>" if kind == "function_calling" else "Final Answer: 42"
    attempt, did, _ = solve(kind, [answer], act_first=False)
    assert (did, attempt.answer) == ([], "42")


@pytest.mark.parametrize("kind", ACTS)
def test_only_the_field_for_thoughts_carries_them_to_the_next_turn(kind: str) -> None:
    attempt, _, requests = solve(kind, ["Well.", "<answer>42</answer>"])
    assert attempt.steps[0].message.thought.startswith(SECRET)
    said = requests[1].messages
    assert [each.thought.startswith(SECRET) for each in said] == [False, False, True, False]
    assert not any(SECRET in each.content for each in said)
    assert SECRET not in "".join(each.content for step in attempt.steps for each in step.observations)


def test_a_thought_does_not_use_up_the_budget_of_an_attempt() -> None:
    attempt, did, _ = solve("function_calling", ["```python\nprint(1)\n```", "<answer>42</answer>"], max_tokens=50)
    assert (len(did), attempt.stop_reason, attempt.usage.thought_tokens) == (1, "answer", 1780)


@pytest.mark.parametrize("kind", ACTS)
def test_the_optimizer_is_not_shown_thoughts(kind: str) -> None:
    attempt, did, _ = solve(kind, [ACTS[kind], "<answer>no</answer>"])
    assert did
    shown = [Evidence(problem=PROBLEM, trajectory=attempt.graded(Grade(reward=0.0, reason="wrong")))]
    text = transcripts_text(shown, 5000) + functions_text(DOUBLE, shown, 5000)
    assert "The agent answered: no" in text
    assert SECRET not in text


def test_a_run_keeps_thoughts_and_its_report_has_them_beside_what_was_said(tmp_path: Path) -> None:
    attempt, _, _ = solve("function_calling", ["```python\nprint(1)\n```", "<answer>42</answer>"])
    run = RunDir(tmp_path / "run", create=True)
    run.write_config({"task": {"spec": "jsonl:x"}, "model": {"name": "m"}})
    run.keep(attempt.graded(Grade(reward=1.0, reason="correct")), Stage.parse("test before"))
    run.close()
    assert [row.trajectory.steps for row in read_rollouts(run.path)] == [attempt.steps]
    page = run_page(read_run(run.path))
    _, _, _, _, turns, tokens = page.chunks[0][0]
    assert tokens == 1780
    for content, executed, observations, thought in turns:
        assert thought.startswith(SECRET)
        assert SECRET not in json.dumps([content, executed, observations])
    usage = {row["part"]: row["thought_tokens"] for row in page.summary["usage"]}
    assert usage == {"optimizer": 0, "test rollouts": 1780}
    assert SECRET not in report_html([page]), "it is in a packed chunk, which is unpacked when it is viewed"


def test_a_rollout_from_before_there_were_thoughts_has_none(tmp_path: Path) -> None:
    row = json.loads(solve("react", ["Final Answer: 42"], act_first=False)[0].model_dump_json())
    for step in row["steps"]:
        del step["message"]["thought"]
    del row["usage"]["thought_tokens"]
    old = Attempt.model_validate(row)
    assert (old.steps[0].message.thought, old.usage.thought_tokens) == ("", 0)
