"""The defects of the reference implementation (AutoGen 0.2's AgentOptimizer), each as a test that it would fail.

Defects 2 to 7 concern the loop and are in ``test_trainer.py`` under their numbers: removals that have no effect,
rolling back to the empty set, shifted labels, an unevaluated last update, ignored TERMINATE, the limit on actions.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from agentopt_local.actions import AddFunction, ReviseFunction
from agentopt_local.agents.base import Agent
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatModel, ChatReply, ChatRequest, Message, ToolCall, Usage
from agentopt_local.errors import ContextOverflowError, FunctionError
from agentopt_local.evidence import CHARS_PER_TOKEN, Evidence
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.graders.text import exact
from agentopt_local.grading import Grade
from agentopt_local.incoming import Incoming
from agentopt_local.models.openai import OpenAIChatModel
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.problem import Problem, Split
from agentopt_local.rollout import GradedAgent, MemoryStore, Rollouts, RolloutStore
from agentopt_local.run.rows import StepRow
from agentopt_local.run.writer import RunDir
from agentopt_local.sandbox import Sandbox, open_sandbox
from agentopt_local.tasks.jsonl import JsonlTask
from agentopt_local.train_state import FailedUpdate, TrainerConfig, TrainState
from agentopt_local.trainer import Trainer
from agentopt_local.trajectory import Attempt, Step, ToolRun, Trajectory, accuracy
from agentopt_local.update import OptimizerConfig, Update

T = TypeVar("T")
SHOUT = 'def shout(word: str) -> str:\n    """Return word in capitals."""\n    return word.upper()\n'
WORDS = ("sun", "moon", "stars")
PROBLEMS = tuple(Problem(id=word, question=f"Shout: {word}", answer=word.upper(), kind="shout") for word in WORDS)


class Shouting:
    """A task: words to be shouted."""

    name = "shouting"
    preload: tuple[str, ...] = ()

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        return PROBLEMS[:n]

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        return exact(answer or "", problem.answer)


class Bench:
    """One event loop and one sandbox for all tests of this file."""

    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox) -> None:
        self.runner = runner
        self.sandbox = sandbox

    def run(self, job: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await job

        return self.runner.run(awaited())

    def solve(self, turns: Sequence[str], *sources: str) -> tuple[Attempt, list[ChatRequest]]:
        """One attempt of the function-calling agent, and its requests."""
        model = ScriptedChatModel(turns)
        agent = make_agent(model, self.sandbox, AgentConfig())
        return self.run(agent.solve(PROBLEMS[0], FunctionSet.of(*sources), seed=0)), model.requests

    def propose(
        self, script: Any, functions: FunctionSet, attempts: Sequence[Evidence], **settings: Any
    ) -> tuple[Update, list[ChatRequest]]:
        """One step of the optimizer without grammars, so that the script can do what a free model can."""
        model = ScriptedChatModel(script)
        failures = settings.pop("failures", ())
        config = OptimizerConfig(
            **{"max_reflection_tokens": 0, "n_samples": 1, "max_actions": 1, "constrain": False, **settings}
        )
        optimizer = Optimizer(model, Shouting(), self.sandbox, config)
        return self.run(optimizer.propose(functions, Incoming(attempts), failures, seed=1)), model.requests


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    sandbox = open_sandbox(workers=1)
    with asyncio.Runner() as runner:
        runner.run(sandbox.start())
        yield Bench(runner, sandbox)
        runner.run(sandbox.aclose())


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def header(action: str, name: str = "") -> str:
    return json.dumps({"action": action, "name": name})


def attempted(problem: Problem, *executed: ToolRun, answer: str = "dunno", said: str = "...") -> Evidence:
    trajectory = Trajectory(
        problem_id=problem.id,
        functions="f",
        seed=0,
        steps=(Step(message=Message(role="assistant", content=said), executed=executed),),
        answer=answer,
        stop_reason="answer",
        usage=Usage(),
        wall_s=0.1,
        grade=Grade(reward=float(answer == problem.answer), reason="because"),
    )
    return Evidence(problem=problem, trajectory=trajectory)


FAILED = [attempted(problem) for problem in PROBLEMS]


def brain(request: ChatRequest) -> str:
    """A model that is agent and optimizer: it writes ``shout`` once it sees failures, and calls it once it has it."""
    last = request.messages[-1].content
    first = request.messages[0].content
    if (
        (request.conversation or "").startswith("optimizer/")
        or "You improve the set" in first
        or "problem_1: " in first
    ):
        words = re.findall(r"(problem_\d+): Shout: (\w+)", last)
        if "Write the complete source" in last:
            return SHOUT
        return json.dumps({key: {"word": word} for key, word in words}) if words else header("add_function", "shout")
    told = request.messages[-1]
    if told.role == "tool" or told.content.startswith("Observation: "):
        shown = told.content.removeprefix("Observation: ")
        return f"Final Answer: {shown}" if told.content != shown else f"<answer>{shown}</answer>"
    word = re.findall(r"Shout: (\w+)", last)[0]
    if "Action Input:" in request.messages[0].content:
        known = "- shout: " in request.messages[0].content
        return f'Action: shout\nAction Input: {{"word": "{word}"}}' if known else "Final Answer: dunno"
    return call("shout", word=word) if request.tools else "<answer>dunno</answer>"


# 1


def test_defect_1_late_binding_every_name_runs_its_own_function(bench: Bench) -> None:
    sources = [
        f'def {name}(x: int) -> str:\n    """Return who was called."""\n    return f"{name} {{x}}"\n'
        for name in ("f_one", "f_two", "f_three")
    ]
    turns = [call("f_one", x=1), call("f_three", x=3), call("f_two", x=2), "<answer>done</answer>"]
    trajectory, _ = bench.solve(turns, *sources)
    assert [each.result for each in trajectory.calls] == ["f_one 1", "f_three 3", "f_two 2"]
    code = "```python\nprint(f_one(1), f_two(2), f_three(3))\n```"
    trajectory, _ = bench.solve([code, "<answer>done</answer>"], *sources)
    assert trajectory.executed[0].result == "f_one 1 f_two 2 f_three 3"


# 8


def test_defect_8_a_retry_carries_the_error_and_a_fresh_seed(bench: Bench) -> None:
    bad = SHOUT.replace("return word.upper()", "return word.uper()")
    sources = iter([bad, SHOUT])

    def script(request: ChatRequest) -> str:
        last = request.messages[-1].content
        writes = "Write the complete source" in last or "write a different, correct source" in last
        return next(sources) if writes else brain(request)

    proposal, requests = bench.propose(script, FunctionSet(), FAILED, max_retries=1)
    assert proposal.functions == FunctionSet.of(SHOUT)
    first, second = (each for each in requests if "correct source" in each.messages[-1].content or _writes(each))
    assert "has no attribute 'uper'" in second.messages[-1].content
    assert second.messages != first.messages
    seeds = [request.sampling.seed for request in requests]
    assert None not in seeds
    assert len(set(seeds)) == len(requests)


def _writes(request: ChatRequest) -> bool:
    return "Write the complete source" in request.messages[-1].content


# 9


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (SHOUT.replace("def shout", "def yell"), "must be called 'shout', not 'yell'"),
        ("word.upper()\n", "exactly one top-level function"),
        ("shout = lambda word: word.upper()\n", "exactly one top-level function"),
        (SHOUT + SHOUT.replace("shout", "other"), "exactly one top-level function"),
    ],
)
def test_defect_9_a_source_that_is_not_the_named_function_is_refused(bench: Bench, source: str, said: str) -> None:
    def script(request: ChatRequest) -> str:
        writes = _writes(request) or "correct source" in request.messages[-1].content
        return source if writes else brain(request)

    proposal, requests = bench.propose(script, FunctionSet(), FAILED, max_retries=1)
    assert proposal.functions == FunctionSet()
    assert said in requests[-1].messages[-1].content


def test_defect_9_what_does_not_exist_cannot_be_revised_or_removed(bench: Bench) -> None:
    for action in ("revise_function", "remove_function"):
        script = [header(action, "ghost"), header("terminate")]
        proposal, requests = bench.propose(script, FunctionSet.of(SHOUT), FAILED, max_retries=1)
        assert proposal.functions == FunctionSet.of(SHOUT)
        assert "there is no function 'ghost'; there are: shout" in requests[1].messages[-1].content
    with pytest.raises(FunctionError, match="no function 'shout'"):
        ReviseFunction(function=Function(source=SHOUT)).apply(FunctionSet())


# 10


def test_defect_10_a_step_with_nothing_recorded_changes_nothing(bench: Bench) -> None:
    proposal, requests = bench.propose([], FunctionSet.of(SHOUT), [])
    assert (proposal.functions, proposal.actions, requests) == (FunctionSet.of(SHOUT), (), [])
    assert accuracy([]) == 0.0
    state = bench.run(training(bench, ScriptedChatModel([]), MemoryStore(), problems=()))
    assert (state.functions, state.step, state.stopped) == (FunctionSet(), 0, "solved")


# 11


def test_defect_11_accuracies_and_success_rates_are_shown_as_they_are(bench: Bench) -> None:
    ok, bad = (ToolRun(name="shout", arguments={"word": "w"}, ok=each, result="W") for each in (True, False))
    attempts = [attempted(PROBLEMS[0], ok, bad), attempted(PROBLEMS[1], ok, answer="MOON"), attempted(PROBLEMS[2])]
    failed = FailedUpdate(
        step=1, actions=("add_function x",), functions=FunctionSet(), accuracy=0.25, accuracy_before=1 / 3
    )
    _, requests = bench.propose([header("terminate")], FunctionSet.of(SHOUT), attempts, failures=[failed])
    prompt = requests[0].messages[0].content
    assert "called directly in 2 rollouts, 1 solved; 1 of 3 calls failed, most often: W." in prompt
    assert "add_function x: accuracy went from 0.33 to 0.25" in prompt
    assert "0-100" not in prompt
    assert "%" not in prompt


# 12


def test_defect_12_no_transcript_can_outgrow_the_budget(bench: Bench) -> None:
    huge = "x " * 200_000
    problem = PROBLEMS[0].model_copy(update={"question": "Shout: sun " + huge, "answer": huge})
    print_all = ToolRun(name="python", arguments={"code": huge}, ok=True, result=huge)
    attempts = [attempted(problem, print_all, answer="a" + huge, said=huge)] * 20
    budgets = {"evidence_tokens": 400, "functions_tokens": 200, "failures_tokens": 100}
    _, requests = bench.propose([header("terminate")], FunctionSet.of(SHOUT), attempts, **budgets)
    fixed = 3000  # the prompt's own words
    assert len(requests[0].messages[0].content) < 700 * CHARS_PER_TOKEN + fixed
    proposal, _ = bench.propose(lambda _: ContextOverflowError("too long"), FunctionSet.of(SHOUT), attempts)
    assert proposal.functions == FunctionSet.of(SHOUT), "a prompt that is too long all the same ends no step"


# 13


def test_defect_13_nothing_is_installed_and_packages_are_no_text_field(bench: Bench) -> None:
    assert set(AddFunction.model_fields) == {"kind", "function", "examples"}
    allowed = 'def root(x: int) -> str:\n    """Return its root."""\n    import sympy\n    return str(sympy.sqrt(x))\n'
    functions = FunctionSet.of(allowed)
    started = time.monotonic()
    results = [bench.run(bench.sandbox.call(functions.source, "root", {"x": x})).value for x in (4, 9, 16)]
    assert results == ["2", "3", "4"]
    assert time.monotonic() - started < 20, "a pip run per call would take longer"
    install = "import subprocess, sys\nprint(subprocess.run([sys.executable, '-m', 'pip', '--version']).returncode)"
    assert not bench.run(bench.sandbox.run(install)).ok

    foreign = SHOUT.replace("    return", "    import requests, pandas\n    return")

    def script(request: ChatRequest) -> str:
        return foreign if _writes(request) or "correct source" in request.messages[-1].content else brain(request)

    proposal, requests = bench.propose(script, FunctionSet(), FAILED, max_retries=1)
    assert proposal.functions == FunctionSet()
    assert "importing pandas, requests is not allowed; allowed are: " in requests[-1].messages[-1].content


# 14


def test_defect_14_required_arguments_and_types_are_in_the_schema_and_checked(bench: Bench) -> None:
    source = (
        'def scale(x: float, by: int, name: str = "s") -> str:\n    """Scale x."""\n    return f"{name} {x * by}"\n'
    )
    parameters = Function(source=source).parameters
    assert parameters["required"] == ["x", "by"]
    assert {key: value["type"] for key, value in parameters["properties"].items()} == {
        "x": "number",
        "by": "integer",
        "name": "string",
    }
    turns = [
        call("scale", x=1.5),
        call("scale", x="1.5", by=2),
        call("scale", x=1.5, by=2.5),
        call("scale", x=1.5, by=2),
    ]
    trajectory, requests = bench.solve([*turns, "<answer>3</answer>"], source)
    assert [each.ok for each in trajectory.calls] == [False, False, False, True]
    assert "'by' is a required property" in requests[1].messages[-1].content
    assert "is not of type 'number'" in requests[2].messages[-1].content
    assert "is not of type 'integer'" in requests[3].messages[-1].content
    assert trajectory.calls[-1].result == "s 3.0"
    with pytest.raises(FunctionError, match="needs a type"):
        Function(source=source.replace("by: int", "by"))


# 15


async def training(
    bench: Bench,
    model: ChatModel,
    store: Any,
    *,
    problems: Sequence[Problem] = PROBLEMS,
    agent: Agent | None = None,
    optimizer_model: ChatModel | None = None,
    state: TrainState | None = None,
) -> TrainState:
    """A training with the real loop; ``store``: a RunDir, or a MemoryStore with nothing written down."""
    rollouts_store: RolloutStore = store
    agent = agent or make_agent(model, bench.sandbox, AgentConfig())
    rollouts = Rollouts(GradedAgent(agent, Shouting(), bench.sandbox), rollouts_store)
    config = OptimizerConfig(n_samples=1, max_retries=0)
    optimizer = Optimizer(optimizer_model or model, Shouting(), bench.sandbox, config)
    log = store if isinstance(store, RunDir) else Forgetful()
    return await Trainer(optimizer, rollouts, log, TrainerConfig(max_epochs=1), seed=3).fit(
        problems, state or TrainState()
    )


class Forgetful:
    """A TrainingLog that keeps nothing."""

    def proposals(self) -> dict[tuple[int, int], Update]:
        return {}

    def keep_proposal(self, step: int, candidate: int, proposal: Update) -> None: ...

    def keep_step(self, row: StepRow) -> None: ...

    def keep_functions(self, step: int, functions: FunctionSet) -> None: ...

    def keep_state(self, state: TrainState) -> None: ...


def test_defect_15_a_training_is_kept_seeded_and_counted(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_dir = RunDir(path, create=True)
    run_dir.write_config({})
    model = ScriptedChatModel(brain)
    state = bench.run(training(bench, model, run_dir))
    run_dir.close()
    assert state.functions == FunctionSet.of(SHOUT)
    assert (path / "functions" / "0001" / "shout.py").read_text() == SHOUT
    row = json.loads((path / "steps.jsonl").read_text())
    spent = sum((Usage.model_validate(row["tokens"][key]) for key in ("optimizer", "rollouts")), Usage())
    baseline = [json.loads(line) for line in (path / "rollouts.jsonl").read_text().splitlines()]
    before = sum((Usage.model_validate(each["usage"]) for each in baseline if "before" in each["stage"]), Usage())
    assert spent + before == model.usage, "every token is accounted for"
    assert {each["seed"] for each in baseline} == {3}

    reopened, silent = RunDir(path), ScriptedChatModel([])
    assert reopened.resume() == state
    reopened.keep_state(TrainState())
    reopened.resume()  # as if the process had ended before it wrote its state
    again = bench.run(training(bench, silent, reopened))
    reopened.close()
    assert again == state
    assert silent.requests == [], "what was done is not done again"

    repeat = ScriptedChatModel(brain)
    bench.run(training(bench, repeat, MemoryStore()))
    keys = [(each.conversation, each.sampling.seed) for each in model.requests]
    assert sorted(keys, key=str) == sorted(
        ((each.conversation, each.sampling.seed) for each in repeat.requests), key=str
    )


def test_defect_15_the_held_out_set_shares_nothing_with_the_training_set(tmp_path: Path) -> None:
    rows = [{"question": f"Shout: {word}{i}", "answer": "X"} for i in range(100) for word in WORDS]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows]))
    for seed in (0, 1):
        task = JsonlTask(path, seed=seed)
        train, test = task.problems("train", 100), task.problems("test", 30)
        assert not {each.question for each in train} & {each.question for each in test}


# 16


class OwnAgent:
    """An agent of another make: one call of the first function it has, no chat at all."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Attempt:
        answer, steps = "dunno", ()
        if functions.names:
            word = problem.question.split()[-1]
            done = await self.sandbox.call(functions.source, functions.names[0], {"word": word})
            answer = str(done.value)
            executed = ToolRun(name=functions.names[0], arguments={"word": word}, ok=done.ok, result=answer)
            turn = Message(role="assistant", tool_calls=(ToolCall(name=executed.name, arguments=executed.arguments),))
            steps = (Step(message=turn, executed=(executed,)),)
        return Attempt(
            problem_id=problem.id,
            functions=functions.fingerprint,
            seed=seed,
            steps=steps,
            answer=answer,
            stop_reason="answer",
            usage=Usage(),
            wall_s=0.0,
        )


class OwnModel:
    """A ChatModel of another make."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        reply = await ScriptedChatModel(brain).complete(request)
        return reply.model_copy(update={"usage": Usage(requests=1)})

    async def aclose(self) -> None: ...


def endpoint() -> OpenAIChatModel:
    """A server that takes no tools and no constraints and answers with text."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(404)  # it lists no models
        body = json.loads(request.content)
        messages = [
            Message(role="tool" if "tool_call_id" in row else row["role"], content=row["content"] or "")
            for row in body["messages"]
        ]
        tools = FunctionSet.of(SHOUT).tool_specs() if body.get("tools") else ()
        text = brain(ChatRequest(messages=tuple(messages), tools=tools))
        return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": text}}]})

    return OpenAIChatModel(
        "http://server.test/v1", "m", structured="none", max_resamples=0, transport=httpx.MockTransport(answer)
    )


@pytest.mark.parametrize("kind", ["function_calling", "react", "own"])
@pytest.mark.parametrize("model", [lambda: ScriptedChatModel(brain), OwnModel, endpoint], ids=["script", "own", "http"])
def test_defect_16_any_model_and_any_agent_can_be_trained(bench: Bench, kind: str, model: Any) -> None:
    optimizer_model, agent_model = model(), model()
    agents = {
        "function_calling": lambda: make_agent(agent_model, bench.sandbox, AgentConfig()),
        "react": lambda: make_agent(agent_model, bench.sandbox, AgentConfig(kind="react")),
        "own": lambda: OwnAgent(bench.sandbox),
    }
    job = training(bench, agent_model, MemoryStore(), agent=agents[kind](), optimizer_model=optimizer_model)
    state = bench.run(job)
    bench.run(optimizer_model.aclose())
    bench.run(agent_model.aclose())
    assert state.functions == FunctionSet.of(SHOUT)
    assert state.accepted == 1
