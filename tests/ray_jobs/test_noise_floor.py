"""The noise floor in a whole training: measured once before step 1, told, written down, and skipped."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatRequest
from agentopt_local.errors import EngineDeadError
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.noise_floor import with_placebo
from agentopt_local.reporting.data import run_page
from agentopt_local.run.reader import read_noise_floor, read_run
from agentopt_local.run.report import NoiseFloor, Report
from agentopt_local.run.rows import StepRow
from agentopt_local.run.writer import RunDir
from benchmarks.scripted import DOUBLE, brain, config_in
from ray_jobs.commands.watch import watch
from ray_jobs.config import RunConfig, build
from ray_jobs.rollout_counts import FLOOR_SHARE, floor_problems, step_rollouts
from ray_jobs.runs import new_run, read_config
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import floor_lines, report_text
from ray_jobs.training import train


def noisy(request: ChatRequest) -> str:
    """The script, but a placebo makes the agent right where a number is even, and another seed where it is odd."""
    last = request.messages[-1].content
    if last.startswith("Double: ") and "double" not in {tool.name for tool in request.tools}:
        number = int(last.partition(": ")[2])
        if request.tools and number % 2 == 0:
            return f"<answer>{2 * number}</answer>"
    return brain(request)


def trained(run_dir: RunDir, script: Any = noisy, **more: Any) -> Report:
    try:
        return asyncio.run(train(read_config(run_dir.path), run_dir, model=ScriptedChatModel(script), **more))
    finally:
        run_dir.close()


def stages(run: Path) -> Counter[str]:
    return Counter(json.loads(line)["stage"] for line in (run / "rollouts.jsonl").read_text().splitlines())


class Order(Callback):
    """What happens, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.floors: list[NoiseFloor] = []

    def on_noise_floor(self, floor: NoiseFloor) -> None:
        self.heard.append("floor")
        self.floors.append(floor)

    def on_rollout(self, stage: Any, trajectory: Any) -> None:
        if self.heard[-1:] != [str(stage)]:
            self.heard.append(str(stage))

    def on_step(self, row: StepRow) -> None:
        self.heard.append(f"end of step {row.step}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, Order, str]:
    run_dir = new_run(config_in(tmp_path_factory.mktemp("whole"), trainer={"max_epochs": 30, "patience": 30}))
    order = Order()
    console = Console(file=io.StringIO(), width=300)
    report = trained(run_dir, callbacks=[order, Display(console)])
    return run_dir.path, report, order, console.file.getvalue()  # type: ignore[attr-defined]


def test_it_is_measured_before_step_1_and_its_first_run_is_that_step_s(whole: tuple[Path, Report, Order, str]) -> None:
    run, report, order, _ = whole
    counts = stages(run)
    assert (counts["step 1 before"], counts["floor again"], counts["floor placebo"]) == (12, 12, 12)
    keys = Counter(
        (row["functions"], row["problem_id"], row["seed"])
        for row in map(json.loads, (run / "rollouts.jsonl").read_text().splitlines())
    )
    assert set(keys.values()) == {1}
    [floor] = order.floors
    before = order.heard[: order.heard.index("floor")]
    assert set(before) == {"step 1 before", "floor again", "floor placebo"}, "nothing else has begun"
    assert (floor.n, floor.again.rate, floor.placebo.gained, floor.placebo.lost) == (12, 0.0, 3, 0)
    assert report.noise_floor == floor == read_noise_floor(run)
    assert json.loads((run / "meta.json").read_text())["noise_floor"]["placebo"]["rate"] == 0.25


def test_it_is_told_in_plain_lines_everywhere(whole: tuple[Path, Report, Order, str]) -> None:
    run, report, order, printed = whole
    lines = floor_lines(order.floors[0])
    assert lines == [
        "Noise floor of 12 training problems, nothing learned: outcomes changed in 0 % (0 to 24; 0 gained, 0 lost) "
        "with another seed, in 25 % (9 to 53; 3 gained, 0 lost) with a placebo function",
        "With 12 training problems you will not see a gain of less than 70 points (84 if chance is at the upper end), "
        "with 7 test problems you will not see any gain",
    ]
    assert printed.index(lines[0]) < printed.index(lines[1]) < printed.index("step 1: ")
    assert all(line in report_text(report) for line in lines)
    page = run_page(read_run(run)).summary
    assert page["noise_floor"] == json.loads((run / "meta.json").read_text())["noise_floor"]
    assert not any("noise_floor" in key for key in page["meta"])
    assert {row["part"]: row["rollouts"] for row in page["usage"]}["rollouts of the noise floor"] == 24
    assert report.costs.stages["noise floor"].tokens.requests >= 24

    console = Console(file=io.StringIO(), width=300)
    assert watch(run, display=Display(console), poll_s=0) == 0
    assert console.file.getvalue().count(lines[1]) == 1  # type: ignore[attr-defined]


def test_the_report_s_untrained_side_is_the_run_s_seed_alone(tmp_path: Path) -> None:
    """Without an evaluation the report counts rollouts, of which those of the floor are no part."""

    def other(request: ChatRequest) -> str:
        last = request.messages[-1].content
        lucky = request.sampling.seed == 0 and last.startswith("Double")
        return f"<answer>{2 * int(last[8:])}</answer>" if lucky else brain(request)

    run_dir = new_run(config_in(tmp_path, trainer={"max_epochs": 30, "patience": 30}, agent={"temperature": 0.7}))
    trained(run_dir, other)
    rows = [json.loads(line) for line in (run_dir.path / "rollouts.jsonl").read_text().splitlines()]
    right = sum(row["grade"]["reward"] for row in rows if row["stage"] == "step 1 before")
    assert right != sum(row["grade"]["reward"] for row in rows if row["stage"] == "floor again"), "seeds matter here"
    result = next(each for each in run_page(read_run(run_dir.path)).summary["results"] if each["split"] == "train")
    assert result["before"]["accuracy"] == right / 12


def test_a_placebo_that_changes_nothing(tmp_path: Path) -> None:
    run_dir = new_run(config_in(tmp_path, trainer={"max_epochs": 30, "patience": 30}))
    floor = trained(run_dir, brain).noise_floor
    assert floor is not None
    assert (floor.placebo.rate, floor.train.points) == (0.0, 51.7)
    assert "12 training problems you will not see a gain of less than 52 points" in floor_lines(floor)[1]


def test_it_can_be_skipped(tmp_path: Path) -> None:
    run_dir = new_run(config_in(tmp_path, trainer={"max_epochs": 1, "noise_floor": False}))
    order = Order()
    report = trained(run_dir, callbacks=[order])
    assert report.noise_floor is None
    assert "noise_floor" not in json.loads((run_dir.path / "meta.json").read_text())
    assert not order.floors
    assert not any(name.startswith("floor") for name in stages(run_dir.path))
    assert run_page(read_run(run_dir.path)).summary["noise_floor"] is None


def test_it_starts_from_what_the_training_starts_from(tmp_path: Path) -> None:
    config = config_in(tmp_path, trainer={"max_epochs": 1})
    start = FunctionSet.of(DOUBLE)
    run_dir = new_run(config, start)
    trained(run_dir)
    rows = [json.loads(line) for line in (run_dir.path / "rollouts.jsonl").read_text().splitlines()]
    used = {row["stage"]: row["functions"] for row in rows}
    assert used["floor again"] == used["step 1 before"] == start.fingerprint
    assert used["floor placebo"] == with_placebo(start).fingerprint
    assert used["test before"] == FunctionSet().fingerprint


@pytest.mark.parametrize("at", [5, 20, 60])
def test_a_resume_repeats_no_rollout_of_it(at: int, tmp_path: Path) -> None:
    asked = 0

    def dies(request: ChatRequest) -> Any:
        nonlocal asked
        asked += 1
        return EngineDeadError("gone") if asked >= at else noisy(request)

    run_dir = new_run(config_in(tmp_path, trainer={"max_epochs": 30, "patience": 30}))
    with pytest.raises(EngineDeadError):
        trained(run_dir, dies)
    order = Order()
    floor = trained(RunDir(run_dir.path), callbacks=[order]).noise_floor
    counts = stages(run_dir.path)
    assert (counts["step 1 before"], counts["floor again"], counts["floor placebo"]) == (12, 12, 12)
    assert floor is not None
    assert floor.placebo.gained == 3
    assert len(order.floors) == 1, "it is told again before step 1"


def test_a_resume_after_step_1_does_not_look_back(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_step(self, row: StepRow) -> None:
            raise RuntimeError("enough")

    run_dir = new_run(config_in(tmp_path))
    with pytest.raises(RuntimeError, match="enough"):
        trained(run_dir, callbacks=[Stop()])
    order = Order()
    report = trained(RunDir(run_dir.path), callbacks=[order])
    assert order.floors == []
    assert report.noise_floor is not None, "it is in the report"


def test_with_batches_it_uses_those_of_step_1(tmp_path: Path) -> None:
    run_dir = new_run(config_in(tmp_path, trainer={"max_epochs": 8, "patience": 8, "batch_size": 5}))
    floor = trained(run_dir).noise_floor
    assert floor is not None
    assert floor.n == floor.train.n == 5
    assert stages(run_dir.path)["step 1 before"] == 5


def test_a_damaged_noise_floor_is_none(tmp_path: Path) -> None:
    run_dir = new_run(config_in(tmp_path))
    run_dir.write_meta({"noise_floor": {"n": "many"}})
    run_dir.close()
    assert read_noise_floor(run_dir.path) is None


# What it may cost


def config(**more: Any) -> RunConfig:
    return build({"task": {"spec": "reasoning_gym:gcd"}, **more}, "test")


def test_a_default_training_can_afford_all_its_problems() -> None:
    assert floor_problems(config()) == 24
    assert floor_problems(config(trainer={"noise_floor": False})) == 0


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"preset": "paper"},
        {"trainer": {"max_epochs": 1}},
        {"trainer": {"max_epochs": 1, "try_edits": False}, "task": {"spec": "reasoning_gym:gcd", "n_test": 0}},
        {"trainer": {"batch_size": 8}},
        {"trainer": {"n_candidates": 4}},
    ],
)
def test_it_costs_at_most_15_percent_of_the_rollouts(more: dict[str, Any]) -> None:
    settings = config(**more)
    n, steps = settings.task.n_train, min(settings.trainer.max_epochs, settings.trainer.patience)
    n = min(n, settings.trainer.batch_size or n)
    rollouts = n + steps * step_rollouts(settings) + 2 * settings.task.n_test
    assert 1 <= floor_problems(settings) <= n
    assert 2 * floor_problems(settings) <= FLOOR_SHARE * rollouts
