"""CREATOR: a tool per problem, code that calls it, and another program after an error, never after a wrong result."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopt_local import prompts
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.creator import CREATION_TEMPERATURE, RECTIFICATIONS, SAMPLES, printed_answer
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.conversation import Conversation
from agentopt_local.errors import (
    ConfigError,
    ContextOverflowError,
    EngineDeadError,
    ModelError,
    RefusedPromptError,
)
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import Script, ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.sandbox import Sandbox, open_sandbox
from agentopt_local.trajectory import Attempt
from ray_jobs.config import build
from ray_jobs.evaluation import evaluate
from ray_jobs.grid import load_sweep
from ray_jobs.lifecycle import create_run
from ray_jobs.runs import new_run
from ray_jobs.training import train
from tests.contracts.test_agent_contract import DOUBLE, PROBLEM

TOOL = "def twice(x):\n    return 2 * x"
CALL = "print(twice(21))"
BROKEN = "def twice(x)\n    return 2 * x"


def block(code: str) -> str:
    return f"```python\n{code}\n```"


class Bench:
    """One event loop and one sandbox for all tests of this file."""

    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox) -> None:
        self.runner = runner
        self.sandbox = sandbox

    def solve(
        self,
        script: Script,
        *sources: str,
        problem: Problem = PROBLEM,
        seed: int = 0,
        strict: bool = False,
        **more: Any,
    ) -> tuple[Attempt, list[ChatRequest]]:
        model = ScriptedChatModel(script, strict=strict)
        agent = make_agent(model, self.sandbox, AgentConfig(kind="creator", **more))

        async def solved() -> Attempt:
            return await agent.solve(problem, FunctionSet.of(*sources), seed=seed)

        return self.runner.run(solved()), model.requests


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    sandbox = open_sandbox(workers=1)
    with asyncio.Runner() as runner:
        runner.run(sandbox.start())
        yield Bench(runner, sandbox)
        runner.run(sandbox.aclose())


def test_a_tool_is_written_then_called_and_what_it_prints_is_the_answer(bench: Bench) -> None:
    attempt, requests = bench.solve([block(TOOL), block(CALL)], strict=True)
    assert (attempt.answer, attempt.stop_reason, len(attempt.steps)) == ("42", "answer", 2)
    [run] = attempt.executed
    assert (run.name, run.ok, run.result) == ("python", True, "42")
    assert run.arguments["code"] == f"{TOOL}\n\n{CALL}\n"
    assert attempt.steps[-1].observations == ()
    assert requests[1].messages[: len(requests[0].messages)] == requests[0].messages
    assert TOOL in requests[1].messages[2].content
    assert requests[1].messages[3] == attempt.steps[0].observations[0]
    assert attempt.usage.requests == 2
    assert len({request.conversation for request in requests}) == 1


def test_the_tool_is_sampled_warm_and_the_rest_as_the_agent_is_set(bench: Bench) -> None:
    _, requests = bench.solve([block(BROKEN), block(TOOL), block(CALL)])
    assert [each.sampling.temperature for each in requests] == [CREATION_TEMPERATURE, CREATION_TEMPERATURE, 0]
    seeds = [each.sampling.seed for each in requests]
    assert None not in seeds[:2]
    assert seeds[0] != seeds[1]
    assert seeds[2] is None
    _, again = bench.solve([block(TOOL), block(CALL)], seed=1, temperature=0.7)
    assert again[0].sampling.seed not in seeds
    assert (again[1].sampling.temperature, again[1].sampling.seed) == (0.7, 1)


def test_a_tool_that_does_not_compile_is_sampled_again_without_a_word(bench: Bench) -> None:
    attempt, requests = bench.solve([block(BROKEN), block(BROKEN), block(TOOL), block(CALL)])
    assert attempt.answer == "42"
    assert requests[0].messages == requests[1].messages == requests[2].messages
    assert [run.ok for run in attempt.executed] == [False, False, True]
    assert "syntax error in line 1" in attempt.executed[0].result
    assert BROKEN not in str(requests[3].messages)


def test_a_tool_that_never_compiles_ends_the_attempt(bench: Bench) -> None:
    attempt, requests = bench.solve(lambda _: block(BROKEN))
    assert (attempt.stop_reason, attempt.answer, len(requests)) == ("no_action", None, SAMPLES)
    attempt, requests = bench.solve(["Twice 21 is 42."] * SAMPLES, constrain=False)
    assert (attempt.stop_reason, attempt.executed, len(requests)) == ("no_action", (), SAMPLES)


def test_an_error_is_shown_and_the_program_written_again(bench: Bench) -> None:
    script = [block(TOOL), block("print(thrice(21))"), block("print(twice(20 + 1))")]
    attempt, requests = bench.solve(script)
    assert (attempt.answer, [run.ok for run in attempt.executed]) == ("42", [False, True])
    assert "NameError" in requests[2].messages[-1].content
    assert requests[2].messages[-1] == attempt.steps[1].observations[0]
    assert attempt.executed[1].arguments["code"].startswith(TOOL), "a call alone is run with the tool"


def test_a_program_with_a_new_tool_runs_without_the_old_one(bench: Bench) -> None:
    wrong = "import no_such_module\n" + TOOL
    attempt, _ = bench.solve([block(wrong), block(CALL), block(f"{TOOL}\n{CALL}")])
    assert attempt.answer == "42"
    assert "no_such_module" in attempt.executed[0].result
    assert attempt.executed[1].arguments["code"] == f"{TOOL}\n{CALL}\n"


def test_an_error_that_stays_ends_the_attempt(bench: Bench) -> None:
    attempt, requests = bench.solve([block(TOOL), *[block("1 / 0")] * 9])
    assert (attempt.stop_reason, attempt.answer) == ("no_action", None)
    assert len(requests) == 2 + RECTIFICATIONS
    assert [run.ok for run in attempt.executed] == [False] * (1 + RECTIFICATIONS)


def test_a_wrong_result_is_not_rectified(bench: Bench) -> None:
    attempt, requests = bench.solve([block(TOOL), block("print('the tool said')\nprint(43)"), block(CALL)])
    assert (attempt.answer, attempt.stop_reason, len(requests)) == ("43", "answer", 2)
    attempt, requests = bench.solve([block(TOOL), block("x = twice(21)"), block(CALL)])
    assert (attempt.answer, attempt.stop_reason, len(requests)) == (None, "no_action", 2)


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("3 of 4\n\n 42 \n \n", "42"),
        ("7\nFinal answer: 42", "42"),
        ("The answer is 42", "42"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("<answer>42</answer>", "42"),
        ("42\nthere are some", "there are some"),
        (" \n", None),
        ("(nothing was printed)", None),
    ],
)
def test_the_answer_is_the_last_line(output: str, answer: str | None) -> None:
    assert printed_answer(output) == answer


def cut(text: str) -> ChatReply:
    message = Message(role="assistant", content=text)
    return ChatReply(message=message, finish_reason="length", usage=Usage(requests=1, completion_tokens=3))


def test_a_reply_that_was_cut_off_is_not_run_and_called_cut(bench: Bench) -> None:
    half = cut("```python\nprint('half')")
    attempt, requests = bench.solve([half, block(TOOL), half, block(CALL)])
    assert attempt.answer == "42"
    assert len(attempt.executed) == 1, "half a program does not run"
    assert requests[1].messages == requests[0].messages, "another sample"
    assert "cut off" in requests[3].messages[-1].content
    attempt, requests = bench.solve([half] * SAMPLES)
    assert (attempt.stop_reason, attempt.executed) == ("max_tokens", ())
    attempt, _ = bench.solve([block(TOOL), *[half] * 4])
    assert (attempt.stop_reason, attempt.answer, attempt.executed) == ("max_tokens", None, ())
    attempt, _ = bench.solve([block(TOOL), cut(block(CALL))])
    assert attempt.answer == "42", "a block that is closed is whole"


def test_a_turn_without_code_is_told_so(bench: Bench) -> None:
    attempt, requests = bench.solve([block(TOOL), "It is 42.", block(CALL)], constrain=False)
    assert (attempt.answer, attempt.stop_reason) == ("42", "answer")
    assert "```python" in requests[2].messages[-1].content
    attempt, requests = bench.solve([block(TOOL), *["It is 42."] * 9], constrain=False)
    assert (attempt.answer, attempt.stop_reason, len(requests)) == (None, "no_action", 2 + RECTIFICATIONS)


def test_turns_and_tokens_are_limited(bench: Bench) -> None:
    attempt, requests = bench.solve([block(TOOL), *[block("1 / 0")] * 9], max_turns=3)
    assert (attempt.stop_reason, len(requests)) == ("max_turns", 3)

    def to_the_limit(request: ChatRequest) -> ChatReply:
        code = TOOL if len(request.messages) == 2 else "1 / 0"
        usage = Usage(requests=1, completion_tokens=request.sampling.max_tokens)
        return ChatReply(message=Message(role="assistant", content=block(code)), usage=usage)

    attempt, requests = bench.solve(to_the_limit, max_turn_tokens=20, max_tokens=50)
    assert [request.sampling.max_tokens for request in requests] == [20, 20, 10]
    assert (attempt.stop_reason, attempt.usage.completion_tokens) == ("max_tokens", 50)


def test_a_full_context_and_a_refused_prompt_end_the_attempt(bench: Bench) -> None:
    attempt, _ = bench.solve([block(TOOL), block("1 / 0"), ContextOverflowError("too long")])
    assert (attempt.stop_reason, attempt.answer, len(attempt.steps)) == ("context", None, 2)
    refused = RefusedPromptError("flagged by the filter")
    refused.usage = Usage(requests=1, completion_tokens=7)
    attempt, _ = bench.solve([block(TOOL), refused])
    assert (attempt.stop_reason, attempt.error) == ("refused", "flagged by the filter")
    assert attempt.usage.requests == 2
    attempt, _ = bench.solve([ContextOverflowError("too long")])
    assert (attempt.stop_reason, attempt.steps) == ("context", ())


def test_a_broken_machine_is_no_attempt(bench: Bench) -> None:
    for line in (EngineDeadError("gone"), ModelError("the key is not accepted")):
        for script in ([line], [block(TOOL), line]):
            with pytest.raises(ModelError, match=str(line)):
                bench.solve(script)


def test_functions_that_it_is_given_are_shown_and_can_be_called(bench: Bench) -> None:
    attempt, requests = bench.solve(
        [block("def tool(x):\n    return double(double(x))"), block("print(tool(5))")], DOUBLE
    )
    assert attempt.answer == "20"
    assert "Return twice x." in requests[0].messages[0].content
    assert requests[0].tools == ()
    _, requests = bench.solve([block(TOOL), block(CALL)])
    assert "already defined" not in requests[0].messages[0].content


def test_no_request_holds_the_expected_answer(bench: Bench) -> None:
    script = [block(BROKEN), block(TOOL), block("1 / 0"), block(CALL)]
    _, requests = bench.solve(script)
    assert not [request for request in requests if "gold-4711" in request.model_dump_json()]
    _, same = bench.solve(script, problem=PROBLEM.model_copy(update={"answer": "42"}))
    assert same == requests


def test_turns_are_constrained_to_one_block(bench: Bench) -> None:
    thought = "A tool doubles.\n" + block(TOOL)
    assert bench.solve([thought, block(CALL)], strict=True)[0].answer == "42"
    for text, settings in (("It is 42.", {}), (thought, {"think": False})):
        with pytest.raises(ModelError, match="breaks the request's constraint"):
            bench.solve([text], strict=True, **settings)
    _, requests = bench.solve([block(TOOL), block(CALL)], constrain=False)
    assert {request.constraint for request in requests} == {None}


def test_a_conversation_shows_its_stages_and_not_what_nobody_was_told(bench: Bench) -> None:
    shown: list[str] = []
    conversation = Conversation(
        ScriptedChatModel([block(BROKEN), block(TOOL), block(CALL)]), lambda each: shown.append(each.content)
    )
    agent = make_agent(conversation, bench.sandbox, AgentConfig(kind="creator"))

    async def asked() -> Attempt:
        return await conversation.ask(agent, "What is twice 21?", FunctionSet())

    assert bench.runner.run(asked()).answer == "42"
    assert [each.strip() for each in shown] == [
        block(BROKEN),
        block(TOOL),
        prompts.fill("creator_decision"),
        block(CALL),
    ]
    assert BROKEN not in str(conversation.history)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    (folder / "task.jsonl").write_text(
        "".join(
            f'{{"question": "twice {n}", "answer": "{2 * n}", "split": "{split}", "grader": "exact"}}\n'
            for n, split in enumerate(("train", "train", "test", "test"))
        )
    )
    return {
        "run_dir": str(folder), "run_name": "run", "model": {"name": "m"}, "sandbox": {"workers": 1},
        "task": {"spec": f"jsonl:{folder}/task.jsonl", "n_train": 2, "n_test": 2}, "agent": {"kind": "creator"}, **more,
    }  # fmt: skip


def doubling(request: ChatRequest) -> str:
    """Solves the problems of :func:`settings`."""
    number = request.messages[1].content.split()[-1]
    return block(TOOL if len(request.messages) == 2 else f"print(twice({number}))")


def test_it_can_be_evaluated_and_not_trained(tmp_path: Path) -> None:
    config = build(settings(tmp_path), "a test")
    model = ScriptedChatModel(doubling)
    with pytest.raises(ConfigError, match="no functions to learn; train with"):
        asyncio.run(create_run(config, model=model))
    assert not (tmp_path / "run").exists()
    (tmp_path / "run.toml").write_text(
        f'preset = "default"\nmodel.name = "m"\ntask.spec = "jsonl:{tmp_path}/task.jsonl"\n'
    )
    (tmp_path / "sweep.toml").write_text('base = "run.toml"\n[grid]\n"agent.kind" = ["react", "creator"]\n')
    with pytest.raises(ConfigError, match="no functions to learn"):
        load_sweep(tmp_path / "sweep.toml")
    run_dir = new_run(config)
    try:
        with pytest.raises(ConfigError, match=r'agent\.kind = "creator"'):
            asyncio.run(train(config, run_dir, model=model))
        assert model.requests == []
        report = asyncio.run(evaluate(config, run_dir, split="test", n=2, model=model))
        assert report.test is not None
        assert (report.test.before.accuracy, report.test.n) == (1.0, 2)
        asked = len(model.requests)
        asyncio.run(evaluate(config, run_dir, split="test", n=2, model=model))
        assert len(model.requests) == asked, "finished rollouts are not repeated"
    finally:
        run_dir.close()


def test_it_needs_the_interpreter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave interpreter = false out"):
        build(settings(tmp_path, agent={"kind": "creator", "interpreter": False}), "a test")
