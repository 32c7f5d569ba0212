"""A grid of scripted trainings that share one model: the table, interruptions, and errors in the file."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.statistics import paired_difference
from benchmarks.scripted import brain, config_in
from ray_jobs import grid, sweep
from ray_jobs.config import RunConfig
from ray_jobs.grid import load_sweep
from ray_jobs.grid_tables import footnotes, over_seeds, table_text, with_holm
from ray_jobs.open_models import Models
from ray_jobs.open_task import task_of
from ray_jobs.sweep import main

BASE = """
concurrency = 4
[task]
spec = "jsonl:{folder}/problems.jsonl"
n_train = 12
n_test = 7
settings = {{ grader = "exact" }}
[optimizer]
n_samples = 1
max_actions = 1
max_retries = 0
min_matches = 0
[sandbox]
workers = 1
"""
SWEEP = 'base = "base.toml"\nparallel = 2\n[grid]\nseed = [0, 1]\n"trainer.max_epochs" = [1, 2]\n'


def sweep_in(folder: Path, text: str = SWEEP) -> Path:
    config_in(folder)  # writes the problems
    (folder / "base.toml").write_text(BASE.format(folder=folder))
    (folder / "grid.toml").write_text(text)
    return folder / "grid.toml"


def run(path: Path, model: ScriptedChatModel) -> int:
    return main([str(path), "--dir", str(path.parent / "sweep")], model=model)


def test_a_sweep_is_interrupted_continued_and_told_in_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_in(tmp_path)
    folder = tmp_path / "sweep"

    def dies(request: ChatRequest) -> Any:
        """As soon as the first training has ended."""
        dead = any(folder.glob("*/report.json"))
        return EngineDeadError("no engine is left: engine replica 0 has died") if dead else brain(request)

    assert run(path, ScriptedChatModel(dies)) == 1
    assert "engine replica 0 has died\nTo continue: python -m ray_jobs.sweep" in capsys.readouterr().err
    ended = {each.parent: each.stat().st_mtime_ns for each in folder.glob("*/report.json")}
    stored = sum(each.read_bytes().count(b"\n") for each in folder.glob("*/rollouts.jsonl"))
    assert 1 <= len(ended) < 4

    model = ScriptedChatModel(brain)
    assert run(path, model) == 0
    printed = capsys.readouterr().out
    table = json.loads((folder / "table.json").read_text())
    rows = table["trainings"]
    assert [(row["seed"], row["trainer.max_epochs"]) for row in rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [row["steps"] for row in rows] == [1, 2, 1, 2]
    # After one step words of two letters are reversed; after two, numbers are doubled too.
    assert [round(7 * row["after"]) for row in rows] == [2, 5, 2, 5]
    assert [row["seeds"] for row in table["over_seeds"]] == [2, 2]
    assert printed.splitlines()[0].split()[:2] == ["seed", "trainer.max_epochs"]
    assert printed.splitlines()[-1] == str(folder)
    assert ended.items() <= {each.parent: each.stat().st_mtime_ns for each in folder.glob("*/report.json")}.items()
    lines = [json.loads(line) for each in folder.glob("*/rollouts.jsonl") for line in each.read_text().splitlines()]
    started = {
        request.conversation for request in model.requests if not (request.conversation or "").startswith("optimizer/")
    }
    assert 0 < stored < len(lines)
    assert len(started) <= len(lines) - stored, "finished rollouts are not run again"

    silent = ScriptedChatModel([])
    assert run(path, silent) == 0, "a finished sweep is told again without a model"
    assert silent.requests == []
    assert capsys.readouterr().out == printed
    path.write_text(SWEEP.replace("[0, 1]", "[0, 2]"))
    assert run(path, silent) == 2
    assert "belongs to another sweep" in capsys.readouterr().err


def test_a_sweep_varies_the_model_and_shares_engines_per_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'base = "base.toml"\nparallel = 2\n[grid]\nseed = [0, 1]\n"model.name" = ["one", "other"]\n'
    path = sweep_in(tmp_path, text)
    opened: list[str] = []
    up: set[str] = set()
    asked: dict[str, ScriptedChatModel] = {}

    async def open_models(config: RunConfig, stack: AsyncExitStack, progress: Any, *, day: date | None) -> Models:
        name = config.model.name
        opened.append(name)
        assert not up, "the engines of one model end before those of the next start"
        up.add(name)
        stack.callback(up.discard, name)
        asked[name] = ScriptedChatModel(brain)
        return Models(asked[name], asked[name], "external")

    monkeypatch.setattr(grid, "open_models", open_models)
    monkeypatch.setattr(sweep, "check_model", lambda config: None)
    assert main([str(path), "--dir", str(tmp_path / "sweep")]) == 0
    assert opened == ["one", "other"]
    assert all(model.requests for model in asked.values())
    rows = json.loads((tmp_path / "sweep" / "table.json").read_text())["trainings"]
    wanted = [(0, "one"), (0, "other"), (1, "one"), (1, "other")]
    assert [(row["seed"], row["model.name"]) for row in rows] == wanted
    assert all("error" not in row for row in rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SWEEP.replace("seed =", '"ray.address" ='),
            r"grid\.ray\.address: trainings of one sweep share ray",
        ),
        (SWEEP.replace("[0, 1]", "[]"), r"grid\.seed = \[\]: give at least one value"),
        (SWEEP.replace("[0, 1]", "3"), r"grid\.seed: input should be a valid list"),
        (SWEEP.replace("seed", "sede"), "sede is not a setting.*did you mean"),
        (SWEEP.replace("[1, 2]", "[0]"), r"--trainer\.max_epochs = 0"),
        (SWEEP.replace("base.toml", "bass.toml"), r"bass\.toml does not exist; did you mean .*base\.toml"),
        ("parallel = 0\n" + SWEEP.replace("parallel = 2\n", ""), "parallel: input should be greater"),
        ("base = ", "not valid TOML"),
    ],
)
def test_mistakes_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(sweep_in(tmp_path, text))


def row(k: str, seed: int, gained: int, lost: int) -> dict[str, Any]:
    """A finished training that was tested on 40 problems, of which the untrained agent solves 10."""
    change = paired_difference([True] * lost + [False] * gained, [False] * lost + [True] * gained)
    return {
        "k": k, "seed": seed, "n": 40, "before": 0.25, "after": 0.25 + (gained - lost) / 40, "gained": gained,
        "lost": lost, "points": 2.5 * (gained - lost), "p": change.p_value,
    }  # fmt: skip


def test_means_are_over_seeds_only_with_an_interval_for_other_trainings() -> None:
    rows = [row("a", 0, 20, 0), row("a", 1, 8, 0), {"k": "bb", "seed": 0, "error": "wrong"}]
    (mean,) = over_seeds(rows, ["k", "seed"])
    assert {key: mean[key] for key in ("k", "seeds", "n", "before", "after", "points", "each", "sd")} == {
        "k": "a", "seeds": 2, "n": 40, "before": 0.25, "after": 0.6, "points": 35.0, "each": "+50.0 +20.0", "sd": 21.21,
    }  # fmt: skip
    assert (mean["low"], mean["high"]) == (-100.0, 100.0), "two trainings 30 points apart say little about others"
    assert mean["p"] == mean["p_holm"] == pytest.approx(0.257, abs=1e-3)
    assert (mean["more_for_5"], mean["more_for_mean"]) == (142, 4)
    (mean,) = over_seeds(rows, ["k", "seed"], points=10)
    assert mean["more_for_10"] == 36
    (alone,) = over_seeds(rows[:1], ["k", "seed"])
    assert (alone["sd"], alone["more_for_5"], alone["p"]) == (None, None, rows[0]["p"])
    assert "One training says nothing about other trainings" in footnotes(rows, [alone])


def test_p_values_are_adjusted_over_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a", 0, 6, 0), row("b", 0, 7, 0), {**row("c", 0, 0, 0), "p": None, "note": "same set"}]
    adjusted = with_holm(rows)
    assert [each.get("p_holm") for each in adjusted] == [0.03125, 0.03125, None]
    assert list(adjusted[0])[-2:] == ["p", "p_holm"]
    text = footnotes(rows, over_seeds(rows, ["k", "seed"]))
    assert "for the 2 p-values" in text
    assert "same set: nothing was learned" in text
    same = over_seeds(rows, ["k", "seed"])[2]
    assert (same["p"], same["low"], same["note"]) == (None, None, "same set")


def test_columns_are_aligned() -> None:
    rows = [row("a", 0, 20, 0), row("a", 1, 8, 0), {"k": "bb", "seed": 0, "error": "wrong"}]
    lines = table_text(rows).splitlines()
    assert lines[0].split()[:2] == ["k", "seed"]
    assert len({line.index(word) for line, word in zip(lines[:3], ("seed", "0", "1"), strict=True)}) == 1


def test_a_sweep_over_seeds_draws_other_training_problems_and_keeps_the_test(tmp_path: Path) -> None:
    path = sweep_in(tmp_path, SWEEP)
    _, _, trainings = load_sweep(path)
    assert [each.config.task.train_seed for each in trainings] == [0, 0, 1, 1]
    tasks = [task_of(each.config) for each in trainings]
    drawn = [[each.id for each in task.problems("train", 6)] for task in tasks]
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]
    assert len({tuple(each.id for each in task.problems("test", 7)) for task in tasks}) == 1
    text = SWEEP.replace("seed =", '"task.train_seed" = [7]\nseed =')
    assert {each.config.task.train_seed for each in load_sweep(sweep_in(tmp_path, text))[2]} == {7}
    other = '[grid]\n"trainer.max_epochs" = [1, 2]\n'
    _, _, trainings = load_sweep(sweep_in(tmp_path, f'base = "base.toml"\n{other}'))
    assert {each.config.task.train_seed for each in trainings} == {None}


@pytest.mark.parametrize("value", ["0", "-3", "many", "200"])
def test_the_gain_to_see_must_be_one(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(sweep_in(tmp_path)), "--see", value])
    assert "is not a gain in points, above 0 and at most 100" in capsys.readouterr().err
