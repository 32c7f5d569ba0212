"""Rollouts in Ray workers: the same results, counted once, and errors reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import BudgetError, ConfigError, EngineDeadError, SandboxError
from agentopt_local.functions import FunctionSet
from agentopt_local.stage import Stage
from benchmarks import faults
from benchmarks.scripted import DOUBLE, REVERSE, NotingModel, brain, config_in
from ray_jobs.config import RunConfig
from ray_jobs.runs import new_run
from ray_jobs.session import Session, open_session
from serving.engine_config import EngineConfig, HostedModel
from tests.tools.ray_warnings import RAY_WARNS

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    *RAY_WARNS,
]
LEARNED = FunctionSet.of(DOUBLE, REVERSE)


def with_session(folder: Path, use: Callable[[Session], Awaitable[Any]], **changes: Any) -> Any:
    """``use`` of a session whose engine is the script in an actor; two rollout workers unless ``changes`` say else."""
    from serving.pool import host

    folder.mkdir(exist_ok=True)
    config: RunConfig = config_in(folder, **({"ray": {"rollout_workers": 2}} | changes))

    async def run() -> Any:
        make = partial(NotingModel, folder / "requests.txt", 0.02)
        pool = await host(make, EngineConfig(), HostedModel(model="scripted", device="cpu"))
        run_dir = new_run(config)
        try:
            async with open_session(config, run_dir, model=pool) as session:
                return await use(session)
        finally:
            run_dir.close()
            await pool.aclose()

    return asyncio.run(run())


async def roll(session: Session) -> tuple[Any, ...]:
    problems = session.task.problems("train", 12)
    done = await session.rollouts.run(LEARNED, problems, seed=0, stage=Stage(part="training"))
    kept = [json.loads(line) for line in (session.run_dir.path / "costs.jsonl").read_text().splitlines()]
    return done, kept, session.ledger.usage["agent"]


def test_rollouts_of_workers_equal_those_of_the_driver(tmp_path: Path) -> None:
    here, _, used_here = with_session(tmp_path / "here", roll, ray={"rollout_workers": 0})
    there, rows, used_there = with_session(tmp_path / "there", roll)
    assert [each.model_copy(update={"wall_s": 0.0}) for each in there] == [
        each.model_copy(update={"wall_s": 0.0}) for each in here
    ]
    assert all(each.correct and each.calls for each in there)
    assert used_there == used_here, "every attempt is counted, once"
    assert len(rows) == 12


def test_a_budget_ends_rollouts_of_workers(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"--budget\.max_tokens_total 400"):
        with_session(tmp_path, roll, budget={"max_tokens_total": 200}, concurrency=1)
    rollouts = (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()
    assert 1 <= len(rollouts) < 12


def test_workers_need_engines_of_our_own(tmp_path: Path) -> None:
    from agentopt_local.models.scripted import ScriptedChatModel

    config = config_in(tmp_path, ray={"rollout_workers": 1})
    run_dir = new_run(config)

    async def run() -> None:
        model = ScriptedChatModel(brain)
        async with open_session(config, run_dir, model=model):
            pass

    with pytest.raises(ConfigError, match=r"ray\.rollout_workers = 1: only an agent whose model is hosted here"):
        asyncio.run(run())
    run_dir.close()


class Refusing:
    """What a worker opens, on a node where it may not run."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __aenter__(self) -> Any:
        raise self.error

    async def __aexit__(self, *error: object) -> None:
        """Never reached."""


def test_an_attempt_that_reaches_a_restarted_worker_first_opens_it() -> None:
    """Ray restarts an idle actor and delivers the next call before the pool has noticed."""
    from ray_jobs.workers import WorkerActor

    opened = []

    class Echo:
        async def solve(self, problem: Any, functions: FunctionSet, *, seed: int) -> Any:
            return problem, seed

    @asynccontextmanager
    async def open_echo() -> AsyncIterator[Any]:
        opened.append(1)
        await asyncio.sleep(0.01)
        yield Echo()

    async def run() -> Any:
        actor = WorkerActor(open_echo)
        done = await asyncio.gather(*(actor.solve(f"p{n}", LEARNED, n) for n in range(3)))  # type: ignore[arg-type]
        await actor.close()
        return done

    assert asyncio.run(run()) == [("p0", 0), ("p1", 1), ("p2", 2)]
    assert opened == [1]


def refuse(*given: Any) -> Refusing:
    return Refusing(SandboxError("the kernel has no Landlock"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigError("sandbox.allow_weak = false, but the kernel has no Landlock"), "rollout worker 0: sandbox.allow"),
        (OSError("no room"), "rollout worker 0 died while it started: OSError: no room$"),
    ],
)
def test_a_worker_that_does_not_start_is_told(error: Exception, told: str, tmp_path: Path) -> None:
    import ray

    from agentopt_local.models.metered import Budget, Ledger
    from agentopt_local.run.writer import RunDir
    from ray_jobs.workers import RolloutWorkers, WorkerActor

    (tmp_path / "config.json").write_text("{}")

    async def run() -> None:
        run_dir = RunDir(tmp_path)
        actor = ray.remote(WorkerActor).options(num_cpus=0).remote(partial(Refusing, error))
        workers = RolloutWorkers([actor], config_in(tmp_path), Ledger(run_dir, Budget()))
        try:
            await workers.start()
        finally:
            await workers.aclose()
            run_dir.close()

    with pytest.raises((ConfigError, EngineDeadError), match=told):
        asyncio.run(run())


def test_a_node_that_cannot_run_code_is_told_with_a_way_round_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray_jobs import workers

    monkeypatch.setattr(workers, "grading_agent", refuse)
    with pytest.raises(EngineDeadError, match=r"(?s)worker 0 died.*no Landlock.*ray\.rollout_workers = 0 keeps"):
        with_session(tmp_path, roll, ray={"rollout_workers": 1})


def test_a_training_ends_as_the_undisturbed_one_when_workers_are_killed(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(["--only", "worker", "--kills", "2"]) == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert report["worker"]["wrong"] == []
    assert report["worker"]["kills"] > 0
