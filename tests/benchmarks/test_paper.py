"""The paper's experiments at the smallest size: a scripted model, the real loop and sandbox, tables and pictures."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError, RunDirError
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.run.rows import Score, StepRow
from benchmarks.paper import protocol, tables
from benchmarks.paper.__main__ import chosen, main, run
from benchmarks.paper.cells import curve_points
from benchmarks.paper.protocol import Cell, Choice, Protocol
from benchmarks.paper.summary import difference, share
from ray_jobs.open_task import task_of

WORDS = ("ab", "cde", "fghi", "tree", "house", "garden", "xy", "river")
SOURCES = {
    "shout": 'def shout(word: str) -> str:\n    """Return word in capitals."""\n    return word.upper()\n',
    "reverse": 'def reverse(word: str) -> str:\n    """Return word backwards."""\n    return word[::-1]\n',
}
DO = {"shout": str.upper, "reverse": lambda word: word[::-1]}


def brain(request: ChatRequest) -> str:
    """Learns the function that is asked for. Untrained and asked several times, it is mostly right on short words."""
    last = request.messages[-1]
    if (request.conversation or "").startswith("optimizer/"):
        name, _ = re.findall(r"(shout|reverse): (\w+)", request.messages[0].content)[0]
        found = re.findall(r"(problem_\d+): \w+: (\w+)", last.content)
        if request.constraint is not None and request.constraint.kind == "json_schema":
            return json.dumps({key: {"word": word} for key, word in found})
        if request.constraint is not None and f'"def {name}(' in request.constraint.value:
            return SOURCES[name]
        return json.dumps({"action": "add_function", "name": name})
    if last.role == "tool":
        return f"<answer>{last.content}</answer>"
    name, word = last.content.split(": ")
    if name in {tool.name for tool in request.tools}:
        return f"<tool_call>{json.dumps({'name': name, 'arguments': {'word': word}})}</tool_call>"
    seed = request.sampling.seed
    lucky = seed is not None and len(word) < 4 and seed % 3 != 0
    return f"<answer>{DO[name](word) if lucky else 'dunno'}</answer>"


def plan(folder: Path, kind: str = "table") -> Protocol:
    for name, do in DO.items():
        rows = [
            {
                "question": f"{name}: {word}",
                "answer": do(word),
                "split": "train" if i < 4 else "test",
                "grader": "exact",
            }
            for i, word in enumerate(WORDS)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Protocol.model_validate(
        {
            "title": "A tiny table",
            "kind": kind,
            "base": {
                "concurrency": 4,
                "task": {"n_train": 4, "n_test": 4},
                "optimizer": {"n_samples": 1, "max_actions": 1, "max_retries": 0},
                "trainer": {"max_epochs": 2},
                "sandbox": {"workers": 1},
            },
            "axes": [
                {"name": "task", "values": {name: {"task": {"spec": f"jsonl:{{data}}/{name}.jsonl"}} for name in DO}}
            ],
            "paper": {"shout": [10, 20, 30, 40]},
        }
    )


def cells_of(tiny: Protocol, folder: Path, **more: Any) -> list[Cell]:
    choice = Choice(**{"model": "m", "seeds": 1, "data": str(folder), "output": str(folder / "out"), **more})
    return protocol.cells("tiny", tiny, choice)


def quiet(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


def go(
    tiny: Protocol,
    cells: list[Cell],
    model: ScriptedChatModel,
    wanted: list[Cell] | None = None,
    *,
    curves: bool = False,
) -> dict[str, str]:
    """Run the experiment; what it wrote, by ending."""
    job = run(tiny, cells, wanted or cells, quiet, model=model, curves=curves, say=lambda text: None)
    paths = asyncio.run(job)
    return {path.name.partition(".")[2]: path.read_text() for path in paths}


def test_a_table_from_trainings_to_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = plan(tmp_path)
    cells = cells_of(tiny, tmp_path, seeds=2)
    assert [cell.name for cell in cells] == ["shout_s0", "shout_s1", "reverse_s0", "reverse_s1"]
    model = ScriptedChatModel(brain)
    written = go(tiny, cells, model)
    assert set(written) == {"csv", "md", "svg"}
    rows = list(csv.DictReader(io.StringIO(written["csv"])))
    assert [row["task"] for row in rows] == ["shout", "reverse"]
    for row in rows:
        assert (row["n"], row["seeds"]) == ("4", "2")
        assert float(row["untrained"]) == 0.0
        assert float(row["trained"]) == 100.0
        assert float(row["one_shot"]) == 100.0, "the first proposal is the right one here"
        assert float(row["self_consistency"]) == 25.0, "the one short word of the test set is voted right"
        assert float(row["gain_over_self_consistency"]) == 75.0
        assert float(row["gain_over_untrained_p_holm"]) >= float(row["gain_over_untrained_p"])
        assert 0 < float(row["gain_over_untrained_low"]) < 10, "four problems prove little"
        assert row["gain_over_one_shot"] == "same set"
        assert float(row["votes"]) > 3
        budget = float(row["tokens_training"]) + float(row["tokens_trained"])
        assert 0.5 * budget < float(row["tokens_self_consistency"]) <= budget, "at most the same tokens"
    assert (rows[0]["paper_test_after"], rows[1]["paper_test_after"]) == ("40", "")
    assert "| shout | 10.0 → 20.0, 30.0 → 40.0 | 4 × 2 | 0.0 → 100.0 |" in written["md"]
    assert written["md"] in capsys.readouterr().out
    assert "+100.0, +100.0 (sd 0.0)" in written["md"]
    assert "What differs from the authors' regime" in written["md"]
    ET.fromstring(written["svg"])
    drawn = [task_of(cell.config).problems("train", 4) for cell in cells[:2]]
    assert drawn[0] != drawn[1], "each training draws its own training problems"
    assert len({str(json.loads((cell.path / "cell.json").read_text())["problems"]) for cell in cells[:2]}) == 1

    silent = ScriptedChatModel([])
    assert go(tiny, cells, silent) == written
    assert silent.requests == [], "finished cells are read"
    (cells[0].path / "cell.json").unlink()
    assert go(tiny, cells, silent) == written
    assert silent.requests == [], "nor is what a cell had done before it was measured done again"

    with pytest.raises(RunDirError, match="was made with other settings"):
        go(tiny, cells_of(tiny, tmp_path, seeds=2, overrides=("--trainer.max_epochs", "1")), model)


def test_a_cell_can_be_run_alone_and_an_interrupted_experiment_goes_on(tmp_path: Path) -> None:
    tiny = plan(tmp_path)
    cells = cells_of(tiny, tmp_path)
    written = go(tiny, cells, ScriptedChatModel(brain), chosen(cells, ["reverse_s0"]))
    assert [row["task"] for row in csv.DictReader(io.StringIO(written["csv"]))] == ["reverse"]
    assert "Not there yet: shout_s0." in written["md"]
    with pytest.raises(ConfigError, match="there is no such cell"):
        chosen(cells, ["shout_s7"])

    asked = 0

    def dies(request: ChatRequest) -> Any:
        nonlocal asked
        asked += 1
        return EngineDeadError("gone") if asked > 12 else brain(request)

    with pytest.raises(EngineDeadError):
        go(tiny, cells, ScriptedChatModel(dies))
    model = ScriptedChatModel(brain)
    written = go(tiny, cells, model)
    assert [row["trained"] for row in csv.DictReader(io.StringIO(written["csv"]))] == ["100", "100"]
    assert {(request.conversation or "").split("/")[1] for request in model.requests} <= {
        *(json.loads(line)["problem_id"] for line in (cells[0].path / "rollouts.jsonl").read_text().splitlines()),
        *(
            (request.conversation or "").split("/")[1]
            for request in model.requests
            if "optimizer/" in (request.conversation or "")
        ),
    }, "only the unfinished cell is worked on"


def test_a_cell_without_data_is_left_out_and_named(tmp_path: Path) -> None:
    tiny = plan(tmp_path)
    (tmp_path / "shout.jsonl").unlink()
    cells = cells_of(tiny, tmp_path)
    written = go(tiny, cells, ScriptedChatModel(brain))
    assert "Not there yet: shout_s0." in written["md"]
    (tmp_path / "reverse.jsonl").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        go(tiny, cells, ScriptedChatModel(brain))


def test_a_limit_makes_cells_smaller(tmp_path: Path) -> None:
    cells = cells_of(plan(tmp_path), tmp_path, limit=3)
    assert {(cell.config.task.n_train, cell.config.task.n_test) for cell in cells} == {(3, 3)}


def test_a_step_that_was_rolled_back_is_a_point_of_the_curve_too(tmp_path: Path) -> None:
    def row(step: int, decision: str, after: float) -> dict[str, Any]:
        before, tried = (Score(accuracy=each, reward=each, n=4) for each in (0.25, after))
        return StepRow(step=step, decision=decision, before=before, after=tried, seconds=1.0)

    rows = [row(1, "rolled_back", 0.0), row(2, "accepted", 0.75), row(3, "rolled_back", 0.5)]
    right = iter([False, True])  # of no functions, then of the set that was accepted
    looks: list[Any] = []

    async def roll_out(*_: Any, **__: Any) -> list[Any]:
        return [SimpleNamespace(correct=next(right))]

    session: Any = SimpleNamespace(
        config=SimpleNamespace(seed=0),
        rollouts=SimpleNamespace(run=roll_out),
        run_dir=SimpleNamespace(path=tmp_path, steps=lambda: rows, keep_look=lambda *look: looks.append(look)),
    )
    points = asyncio.run(curve_points(session, ()))
    assert [(point["step"], point["train"], point["test"]) for point in points] == [
        (0, 0.25, [False]),
        (1, 0.25, [False]),
        (2, 0.75, [True]),
        (3, 0.75, [True]),
    ]
    assert [(change.points, purpose) for _, change, purpose in looks] == [(100.0, "learning curve")]


def test_curves_test_each_accepted_set(tmp_path: Path) -> None:
    tiny = plan(tmp_path, "curves")
    cells = cells_of(tiny, tmp_path)
    written = go(tiny, cells, ScriptedChatModel(brain))
    points = json.loads((cells[0].path / "cell.json").read_text())["points"]
    assert [(point["step"], point["train"], sum(point["test"])) for point in points] == [(0, 0.0, 0), (1, 1.0, 4)]
    picture = ET.fromstring(written["curves.svg"])
    assert len(picture.findall(".//{*}polyline")) == 2
    assert any("Exploratory" in (text.text or "") for text in picture.findall(".//{*}text"))


def test_a_finished_table_can_be_given_its_curves(tmp_path: Path) -> None:
    tiny = plan(tmp_path)
    cells = cells_of(tiny, tmp_path)
    assert "curves.svg" not in go(tiny, cells, ScriptedChatModel(brain))
    model = ScriptedChatModel(brain)
    written = go(tiny, cells, model, curves=True)
    assert ET.fromstring(written["curves.svg"]).findall(".//{*}polyline")
    assert model.requests == [], "the accepted set was tested already"


def test_transfer_is_a_matrix_of_trained_on_and_tested_on(tmp_path: Path) -> None:
    tiny = plan(tmp_path, "transfer")
    cells = cells_of(tiny, tmp_path)
    written = go(tiny, cells, ScriptedChatModel(brain))
    rows = list(csv.DictReader(io.StringIO(written["matrix.csv"])))
    accuracy = {(row["trained_on"], row["tested_on"]): float(row["accuracy"]) for row in rows}
    assert accuracy == {
        ("shout", "shout"): 100.0,
        ("shout", "reverse"): 0.0,
        ("reverse", "shout"): 0.0,
        ("reverse", "reverse"): 100.0,
    }
    assert "| shout | 100.0 [" in written["matrix.md"]
    ET.fromstring(written["matrix.svg"])
    silent = ScriptedChatModel([])
    assert go(tiny, cells, silent) == written
    assert silent.requests == []


# The shipped protocols


@pytest.mark.parametrize(
    ("name", "n"),
    [("table1", 14), ("table2", 4), ("table3", 9), ("table4", 4), ("curves", 3), ("transfer", 3), ("batch", 4)],
)
def test_shipped_protocols_give_their_cells(name: str, n: int) -> None:
    loaded = protocol.load(name)
    cells = protocol.cells(name, loaded, Choice(model="m", seeds=2, data="/data", output="out"))
    assert len(cells) == 2 * n
    assert len({cell.name for cell in cells}) == 2 * n
    labels = {" / ".join(cell.labels) for cell in cells}
    assert set(loaded.paper) <= labels
    assert all("/data/" in cell.config.task.spec for cell in cells)
    assert {cell.config.preset for cell in cells} == {"paper"}
    assert all(math.isnan(value) or 0 <= value <= 100 for figures in loaded.paper.values() for value in figures)


def seven(request: ChatRequest) -> str:
    """Adds one function, then stops; answers 7 to everything, as a creator too."""
    if "write a tool" in request.messages[0].content:
        return "```python\n" + ("x = 7" if len(request.messages) == 2 else "print(x)") + "\n```"
    if (request.conversation or "").startswith("optimizer/"):
        constraint = request.constraint
        assert constraint is not None
        if constraint.kind == "json_schema":
            return json.dumps({key: {"text": "a"} for key in re.findall(r"problem_\d+", request.messages[-1].content)})
        if '"def seven(' in constraint.value:
            return 'def seven(text: str) -> str:\n    """Return seven."""\n    return "7"\n'
        again = "`seven(" in request.messages[0].content
        return json.dumps({"action": "terminate"} if again else {"action": "add_function", "name": "seven"})
    react = "Final Answer:" in request.messages[0].content
    return "Thought: I know it.\nFinal Answer: 7" if react else "It is \\boxed{7}."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MATH and TabMWP as they are, and a made-up GAIA."""
    shared = Path(os.environ.get("AGENTOPT_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    folder = tmp_path_factory.mktemp("data")
    for name in ("math", "tabmwp"):
        if not (shared / name).is_dir():
            pytest.skip(f"no data in {shared}; AGENTOPT_SHARED_DATA names its folder")
        (folder / name).symlink_to(shared / name)
    gaia = folder / "gaia" / "2023" / "validation"
    gaia.mkdir(parents=True)
    rows = [
        {"task_id": f"{n}-1", "Question": f"City {n}?", "Level": 1, "Final answer": str(n), "file_name": ""}
        for n in range(40)
    ]
    (gaia / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("name", protocol.names())
def test_shipped_protocols_run_end_to_end(name: str, data: Path, tmp_path: Path) -> None:
    overrides = ("--trainer.max_epochs", "2", "--trainer.patience", "1", "--sandbox.workers", "1")
    choice = Choice(model="m", seeds=1, limit=2, data=str(data), output=str(tmp_path), overrides=overrides)
    plan = protocol.load(name)
    cells = protocol.cells(name, plan, choice)
    job = run(plan, cells, cells, quiet, model=ScriptedChatModel(seven), max_votes=1, say=lambda text: None)
    written = {path.name.partition(".")[2]: path.read_text() for path in asyncio.run(job)}
    assert {"csv", "md", "svg"} <= set(written)
    assert "Not there yet" not in written["md"]
    assert ("matrix.svg" in written) == (plan.kind == "transfer")
    assert ("curves.svg" in written) == (plan.kind == "curves")
    for cell in cells:
        results = json.loads((cell.path / "cell.json").read_text())
        assert len(results["trained"]) == len(results["self_consistency"]) == 2
        assert {name: len(results[name]) for name in plan.arms} == dict.fromkeys(plan.arms, 2)
        row = json.loads((cell.path / "steps.jsonl").read_text().splitlines()[0])
        assert row["counts"]["applied"] >= 1
        assert {json.loads(line)["answer"] for line in (cell.path / "rollouts.jsonl").read_text().splitlines()} == {"7"}


def test_ablations_switch_what_they_name() -> None:
    table3 = protocol.cells("table3", protocol.load("table3"), Choice(model="m", seeds=1, data="d", output="o"))
    switches = {(c.labels[1], c.config.trainer.roll_back, c.config.optimizer.progressive) for c in table3}
    assert switches == {
        ("full", True, True),
        ("without roll-back and early stop", False, True),
        ("without progressive update", True, False),
    }
    batch = protocol.cells("batch", protocol.load("batch"), Choice(model="m", seeds=1, data="d", output="o"))
    assert [c.config.trainer.batch_size for c in batch] == [5, 10, 15, 20]


def test_the_command_names_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table9", "--model", "m"]) == 2
    assert "there are: batch, curves, table1" in capsys.readouterr().err
    assert main(["table1", "--model", "m", "--nonsense", "1"]) == 2
    assert "--nonsense is not a setting" in capsys.readouterr().err
    assert main(["table1", "--model", "m", "--agent.kind", "creator"]) == 2
    assert "no functions to learn" in capsys.readouterr().err
    assert main(["table1", "--model", "m", "--list", "--seeds", "1", "--output", str(tmp_path)]) == 0
    assert "number-theory_react_s0" in capsys.readouterr().out


# Figures


def test_one_seed_and_several_have_intervals() -> None:
    right = [True] * 30 + [False] * 10
    one, two = share([right]), share([right, right])
    assert one.value == two.value == 75.0
    assert one.low < 75 < one.high
    assert (two.low, two.high) == (one.low, one.high), "the same trainings add no problems"
    apart = share([right, [True] * 40])
    assert apart.low < two.low


def test_differences_are_paired() -> None:
    before = [False] * 30 + [True] * 10
    after = [False] * 20 + [True] * 20
    for seeds in (1, 3):
        found = difference([before] * seeds, [after] * seeds)
        assert found.value == 25.0
        assert 0 < found.low < 25 < found.high
        assert found.p_value is not None
        assert found.p_value < 0.01
    none = difference([before, after], [after, before])
    assert (none.value, none.p_value) == (0.0, 1.0)


def results(trained: list[list[bool]], *, same: bool = False) -> list[dict[str, Any]]:
    """Cells of one combination, tested on as many problems; the untrained agent solves none."""
    return [
        {
            "problems": [str(number) for number in range(len(right))],
            "functions": [] if same else ["def f() -> int: ..."],
            "sets": {"untrained": "empty", "trained": "empty" if same else f"set {seed}", "one_shot": "first"},
            "untrained": [False] * len(right), "trained": right, "one_shot": [False] * len(right),
            "self_consistency": [False] * len(right), "votes": 3, "called": 0,
            "tokens": {"training": 1, "untrained": 1, "trained": 1, "self_consistency": 1},
        }
        for seed, right in enumerate(trained)
    ]  # fmt: skip


def test_a_table_adjusts_its_p_values_and_tells_what_trainings_show_together() -> None:
    tiny = protocol.load("table1")
    gains = [[True] * gained + [False] * (60 - gained) for gained in (30, 17, 17)]
    table = tables.rows(tiny, {("a", "b"): results(gains), ("c", "d"): results([[False] * 60] * 3, same=True)})
    text = tables.markdown(tiny, table, [], ["The sky differs."])
    assert "adjusted (Holm) for the 5 of this table" in text
    first = table[0].gains["untrained"]
    assert table[0].p_holm["untrained"] == pytest.approx(min(1, 5 * (first.p_value or 0)))
    assert f"+35.6 [{first.low:+.1f}, {first.high:+.1f}], p = {first.p_value:.2g}, Holm" in text
    assert "a / b: +50.0, +28.3, +28.3 (sd 12.5); 49 more trainings to see 5 points, 1 more training to see" in text
    assert "| same set |" in text
    assert "+0.0 [+0.0, +0.0]" not in text
    assert "* The sky differs." in text
    parsed = list(csv.DictReader(io.StringIO(tables.as_csv(tiny, table))))
    assert parsed[0]["gain_over_untrained_each"].split()[0] == "50"
    assert float(parsed[0]["gain_over_untrained_p_holm"]) >= float(parsed[0]["gain_over_untrained_p"])
    assert parsed[1]["gain_over_untrained"] == "same set"

    alone = tables.markdown(tiny, tables.rows(tiny, {("a", "b"): results(gains[:1])}), [])
    assert "say nothing about other trainings" in alone
