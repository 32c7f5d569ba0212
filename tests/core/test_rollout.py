"""Rollouts: order, admission, the cache, and the difference between bad attempts and infrastructure failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentopt_local.admission import Admission
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import Usage
from agentopt_local.errors import ContextOverflowError, EngineDeadError, RefusedPromptError, SandboxError
from agentopt_local.functions import FunctionSet
from agentopt_local.graders.text import exact
from agentopt_local.grading import Grade
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.problem import Problem, Split
from agentopt_local.rollout import GradedAgent, MemoryStore, Rollouts
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Attempt, Trajectory, accuracy

PROBLEMS = tuple(Problem(id=f"p{i}", question=f"Question {i}", answer=f"{i}") for i in range(12))
ONE = FunctionSet.of('def one(x: int) -> int:\n    """Return x."""\n    return x\n')
NO_SANDBOX: Any = None
"""Nothing in this file runs code."""


class Numbers:
    """The task: an answer is right if it is the expected one."""

    name = "numbers"
    preload: tuple[str, ...] = ()

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        return PROBLEMS[:n]

    async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> Grade:
        return exact(answer or "", problem.answer)


class Solver:
    """An agent that waits and answers with the problem's number; counts who is under way at once."""

    def __init__(self, wait_s: Callable[[int], float] = lambda number: 0.0) -> None:
        self.wait_s = wait_s
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.active = self.most = 0

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Attempt:
        self.started.append(problem.id)
        self.active += 1
        self.most = max(self.most, self.active)
        try:
            await asyncio.sleep(self.wait_s(int(problem.id[1:])))
            self.fail(problem)
        except asyncio.CancelledError:
            self.cancelled.append(problem.id)
            raise
        finally:
            self.active -= 1
        return Attempt(
            problem_id=problem.id, functions=functions.fingerprint, seed=seed, steps=(), answer=self.answer(problem),
            stop_reason="answer", usage=Usage(), wall_s=0.0,
        )  # fmt: skip

    def answer(self, problem: Problem) -> str | None:
        return problem.id[1:]

    def fail(self, problem: Problem) -> None:
        """What goes wrong with ``problem``."""


class Job:
    """Rollouts of one agent in one event loop per run."""

    def __init__(self, agent: Any, *, concurrency: int = 64) -> None:
        self.agent, self.store = agent, MemoryStore()
        self.told: list[tuple[str, int, int]] = []
        self.concurrency = concurrency

    def run(
        self, problems: Sequence[Problem] = PROBLEMS, functions: FunctionSet = ONE, seed: int = 0
    ) -> tuple[Trajectory, ...]:
        async def job() -> tuple[Trajectory, ...]:
            rollouts = Rollouts(
                GradedAgent(self.agent, Numbers(), NO_SANDBOX),
                self.store,
                admission=Admission(self.concurrency),
                progress=lambda stage, *counts: self.told.append((str(stage), *counts)),
            )
            return await rollouts.run(functions, problems, seed=seed, stage=Stage(part="stage"))

        return asyncio.run(job())


def test_results_stand_in_the_order_of_the_problems() -> None:
    done = Job(Solver(lambda number: 0.002 * (12 - number))).run()
    assert [each.problem_id for each in done] == [each.id for each in PROBLEMS]
    assert all(each.correct for each in done)


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_the_admission_limit_is_used_and_kept(limit: int) -> None:
    agent = Solver(lambda number: 0.01)
    Job(agent, concurrency=limit).run()
    assert agent.most == min(limit, len(PROBLEMS))


def test_the_admission_limit_holds_over_concurrent_runs() -> None:
    agent = Solver(lambda number: 0.01)

    async def both() -> None:
        rollouts = Rollouts(GradedAgent(agent, Numbers(), NO_SANDBOX), MemoryStore(), admission=Admission(4))
        await asyncio.gather(
            rollouts.run(ONE, PROBLEMS, seed=0, stage=Stage(part="a")),
            rollouts.run(FunctionSet(), PROBLEMS, seed=0, stage=Stage(part="b")),
        )

    asyncio.run(both())
    assert agent.most == 4
    assert len(agent.started) == 24


def test_the_longest_start_first_and_the_order_of_results_stays() -> None:
    class Counting(Solver):
        async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Attempt:
            done = await super().solve(problem, functions, seed=seed)
            return done.model_copy(update={"usage": Usage(completion_tokens=int(problem.id[1:]) * 10)})

    agent = Counting()

    async def twice() -> tuple[Trajectory, ...]:
        rollouts = Rollouts(GradedAgent(agent, Numbers(), NO_SANDBOX), MemoryStore(), admission=Admission(1))
        await rollouts.run(ONE, PROBLEMS[:3], seed=0, stage=Stage(part="a"))
        agent.started.clear()
        return await rollouts.run(ONE, PROBLEMS[:5], seed=1, stage=Stage(part="b"))

    done = asyncio.run(twice())
    assert [each.problem_id for each in done] == ["p0", "p1", "p2", "p3", "p4"]
    assert agent.started == ["p3", "p4", "p2", "p1", "p0"]


def test_a_slow_rollout_holds_no_other_up() -> None:
    finished: list[str] = []

    class Watched(Solver):
        def fail(self, problem: Problem) -> None:
            finished.append(problem.id)

    Job(Watched(lambda number: 0.3 if number == 0 else 0.001), concurrency=2).run()
    assert finished[-1] == "p0", "the other eleven went through the second place meanwhile"


def test_turns_of_different_rollouts_do_not_wait_for_each_other() -> None:
    model = ScriptedChatModel(lambda request: f"<answer>{request.messages[1].content.split()[1]}</answer>")
    model.latency_s = 0.02
    job = Job(make_agent(model, NO_SANDBOX, AgentConfig()), concurrency=5)
    assert accuracy(job.run()) == 1.0
    assert len(model.requests) == 12


def test_what_the_store_remembers_is_not_run_again() -> None:
    agent = Solver()
    job = Job(agent)
    first = job.run(PROBLEMS[:5])
    agent.started.clear()
    again = job.run()
    assert agent.started == [each.id for each in PROBLEMS[5:]]
    assert again[:5] == first
    for functions, seed in ((FunctionSet(), 0), (ONE, 1)):
        agent.started.clear()
        job.run(functions=functions, seed=seed)
        assert len(agent.started) == 12, "another set or another seed is another rollout"


@pytest.mark.parametrize("error", [EngineDeadError("gone"), SandboxError("no processes"), ValueError("a bug")])
def test_a_broken_machine_is_raised_as_itself_and_ends_the_rest(error: Exception) -> None:
    class Breaks(Solver):
        def fail(self, problem: Problem) -> None:
            if problem.id == "p2":
                raise error

    agent = Breaks(lambda number: 0.05 if number == 2 else 30.0 if number > 3 else 0.0)
    job = Job(agent, concurrency=6)
    with pytest.raises(type(error)) as raised:
        job.run()
    assert raised.value is error
    assert {"p4", "p5", "p6", "p7", "p8"} <= set(agent.cancelled)
    assert not {"p10", "p11"} & set(agent.started)
    assert agent.active == 0
    assert {problem for _, problem, _ in job.store.trajectories} == {"p0", "p1", "p3"}, "what had finished is kept"


def test_the_error_of_a_grader_of_the_users_ends_the_run() -> None:
    class Strict(Numbers):
        async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> Grade:
            raise KeyError("grader")

    async def job() -> None:
        solver = GradedAgent(Solver(), Strict(), NO_SANDBOX)
        await Rollouts(solver, MemoryStore()).run(ONE, PROBLEMS, seed=0, stage=Stage(part="s"))

    with pytest.raises(KeyError, match="grader"):
        asyncio.run(job())


def test_a_wrong_answer_and_no_answer_are_data() -> None:
    class Wrong(Solver):
        def answer(self, problem: Problem) -> str | None:
            return {"p0": "wrong", "p1": None}.get(problem.id, problem.answer)

    done = Job(Wrong()).run()
    assert [each.correct for each in done] == [False, False] + [True] * 10
    assert all(each.grade is not None and each.grade.reason for each in done)
    assert accuracy(done) == pytest.approx(10 / 12)
    assert accuracy(()) == 0.0


def test_a_full_context_is_data() -> None:
    model = ScriptedChatModel(lambda _: ContextOverflowError("too long"))
    done = Job(make_agent(model, NO_SANDBOX, AgentConfig())).run(PROBLEMS[:2])
    assert [(each.stop_reason, each.correct) for each in done] == [("context", False)] * 2


def test_a_refused_prompt_is_data_and_the_grade_says_why() -> None:
    def script(request: Any) -> Any:
        number = request.messages[1].content.split()[1]
        return RefusedPromptError("flagged as unsafe") if number == "1" else f"<answer>{number}</answer>"

    job = Job(make_agent(ScriptedChatModel(script), NO_SANDBOX, AgentConfig()))
    done = job.run(PROBLEMS[:3])
    assert [(each.stop_reason, each.correct) for each in done] == [
        ("answer", True), ("refused", False), ("answer", True),
    ]  # fmt: skip
    assert done[1].error == "flagged as unsafe"
    assert done[1].grade.reason == "no answer was given: flagged as unsafe"
    job.agent = make_agent(ScriptedChatModel([]), NO_SANDBOX, AgentConfig())
    assert job.run(PROBLEMS[:3]) == done, "a refused prompt is remembered, not asked again"


def test_a_rollout_is_kept_graded_as_soon_as_it_ends() -> None:
    kept: list[Trajectory] = []

    class Slow(Solver):
        def fail(self, problem: Problem) -> None:
            if problem.id == "p1":
                assert [each.problem_id for each in kept] == ["p0"]

    class Store(MemoryStore):
        def keep(self, trajectory: Trajectory, stage: Stage) -> None:
            kept.append(trajectory)
            assert str(stage) == "stage"

    job = Job(Slow(lambda number: 0.1 * number))
    job.store = Store()
    job.run(PROBLEMS[:2])
    assert [each.correct for each in kept] == [True, True]


def test_progress_counts_every_rollout_and_those_remembered() -> None:
    job = Job(Solver())
    job.run(PROBLEMS[:3])
    assert job.told == [("stage", done, 3) for done in range(4)]
    job.told.clear()
    job.run(PROBLEMS[:4])
    assert job.told == [("stage", done, 4) for done in range(5)]
    job.told.clear()
    assert job.run(()) == ()
    assert job.told == [("stage", 0, 0)]


def test_cancelling_a_run_cancels_its_rollouts() -> None:
    agent = Solver(lambda number: 30.0)

    async def job() -> None:
        rollouts = Rollouts(GradedAgent(agent, Numbers(), NO_SANDBOX), MemoryStore(), admission=Admission(3))
        task = asyncio.create_task(rollouts.run(ONE, PROBLEMS, seed=0, stage=Stage(part="s")))
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(job())
    assert len(agent.cancelled) == 3
    assert len(agent.started) == 3
