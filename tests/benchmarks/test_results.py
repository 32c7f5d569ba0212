"""Plans of results at the smallest size: a scripted model, the real loop and sandbox, the table and its page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError, RunDirError
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.tasks.reasoning_gym import ReasoningGymTask
from agentopt_local.trainings import Mean
from benchmarks.results import page, plan
from benchmarks.results.__main__ import Options, main, run
from benchmarks.results.table import claim
from benchmarks.scripted import brain
from ray_jobs.config import load_config

GRADED = 'settings.grader = "exact"'
ROOT = Path(__file__).resolve().parents[2]
BASE = """
[base]
concurrency = 4
[base.task]
spec = "jsonl:{data}/doubling.jsonl"
n_train = 6
n_test = 5
settings.grader = "exact"
[base.optimizer]
n_samples = 1
max_actions = 1
max_retries = 0
[base.trainer]
max_epochs = 1
[base.evaluation]
n_validation = 12
[base.sandbox]
workers = 1
"""


def write_plan(folder: Path, top: str, more: str = "", base: str = BASE) -> Path:
    """A plan and the problems of its task: numbers to double, of each split in turn."""
    splits = ["train"] * 10 + ["validation"] * 12 + ["test"] * 5
    rows = [
        {"kind": "double", "question": f"Double: {x}", "answer": str(2 * x), "split": split}
        for x, split in enumerate(splits, 10)
    ]
    (folder / "doubling.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "tiny.toml"
    path.write_text(f'title = "Doubling"\n{top}\n{base}\n{more}')
    return path


def go(path: Path, model: ScriptedChatModel, say: Callable[[str], None] = lambda text: None, **options: Any) -> str:
    """Run a plan; its section."""
    folder = path.parent
    values = {"path": path, "output": str(folder / "out"), "data": str(folder), "command": "the command", **options}
    job = run(
        plan.load(path),
        Options(**values),
        lambda *_: None,
        model=model,
        say=say,
        results_page=folder / "RESULTS.md",
    )
    return asyncio.run(job)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines_of(section: str, arm: str) -> list[list[str]]:
    """The cells of the lines of an arm's trainings."""
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith(f"| {arm} |")]
    return [line for line in lines if line[1].isdecimal()]


def test_a_plan_from_trainings_to_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = '[arms.learns]\n[arms."learns nothing"]\noptimizer.min_matches = 9\n'
    more = BASE.replace(
        "n_validation = 12", 'n_validation = 12\nbaselines = ["placebo", "one_shot", "self_consistency"]'
    )
    path = write_plan(tmp_path, 'note = "Nobody looked before."\nseeds = 2\nbudget_tokens = 100_000', arms, more)
    section = go(path, ScriptedChatModel(brain))
    assert section in capsys.readouterr().out
    learned, nothing = lines_of(section, "learns"), lines_of(section, "learns nothing")
    assert [line[:4] for line in learned] == [["learns", seed, "0.0", "100.0"] for seed in "01"]
    assert re.match(r"\+100\.0 \[\+\d+\.\d, \+100\.0\], p = 0\.062, Holm 0\.12$", learned[0][4])
    assert learned[0][5].startswith("0.0 (+100.0 ["), "the placebo"
    assert "votes (+100.0 [" in learned[0][6], "the votes"
    assert learned[0][7] == "100.0 (same set)", "the first proposal"
    assert re.match(r"\*\*helps\*\*: (\d+) gained, 0 lost of \1 \(E = ", learned[0][8])
    assert learned[0][9:11] == ["1: `double`", "1 / 0 / 0"]
    kept = json.loads((tmp_path / "out/tiny/learns_s0/result.json").read_text())
    assert all(kept["tokens"][use]["completion_tokens"] > 0 for use in ("optimizer", "rollouts", "test", "checks"))
    assert [line[4] for line in nothing] == ["same set"] * 2
    assert nothing[0][8:10] == ["same set: nothing to certify", "0"]
    assert "Certificates share alpha over the trainings of the plan: 0.05 / 4." in section
    assert "* learns: mean gain +100.0 [" in section
    assert "* learns nothing: no function was kept in 2 trainings; they claim nothing about the method." in section
    assert "| double | 5 | 0 → 5, 0 → 5 | 0 → 0, 0 → 0 |" in section
    for said in ("Nobody looked before.", "`the command`", str(date.today()), "cores", "of 100,000 allowed"):
        assert said in section

    problems = [rows_of(tmp_path / f"out/tiny/learns_s{seed}/problems.jsonl") for seed in (0, 1)]
    drawn = [{row["id"] for row in rows if row["split"] == "train"} for rows in problems]
    assert drawn[0] != drawn[1], "each training draws its own problems"

    silent = ScriptedChatModel([])
    assert go(path, silent) == section
    monkeypatch.chdir(tmp_path)
    assert go(path, silent, output="out") == section
    assert silent.requests == [], "finished trainings are read, wherever they are named from"
    known = (tmp_path / "RESULTS.md").read_text()
    assert known.startswith("# Results\n")
    assert known.count(section) == 1

    with pytest.raises(RunDirError, match="made with other settings"):
        go(write_plan(tmp_path, "seeds = 3\nbudget_tokens = 1000", arms, more), silent)


def test_sections_of_other_plans_stay(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    for name, text in (("a", "## A\n\n1\n"), ("b", "## B\n\n2\n"), ("a", "## A\n\n3 \\1 <!-- x -->\n")):
        page.put(file, name, text)
    known = file.read_text()
    assert known.startswith(page.HEAD)
    assert known.index("## B\n\n2\n") < known.index("## A\n\n3 \\1 <!-- x -->\n"), "new ones come first"
    assert "1\n<" not in known
    page.put(file, "a", "## A\n\n3 \\1 <!-- x -->\n")
    assert file.read_text() == known


def test_without_a_test_the_problems_not_shown_are_measured(tmp_path: Path) -> None:
    path = write_plan(tmp_path, "seeds = 1\nbudget_tokens = 100_000", base=BASE.replace("n_test = 5", "n_test = 0"))
    section = go(path, ScriptedChatModel(brain))
    assert "Measured on 12 validation problems, none of which was shown in training." in section
    [line] = lines_of(section, "trained")
    assert line[2:4] == ["0.0", "100.0"]
    assert "**helps**" in line[-8]
    assert "* trained: one training, which claims nothing about the method." in section
    assert "| double | 12 | 0 → 12 |" in section
    result = json.loads((tmp_path / "out/tiny/trained_s0/result.json").read_text())
    assert result["certificate"]["n"] < 12, "the certificate was decided before the last problem"


def test_a_killed_plan_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    path = write_plan(tmp_path, "seeds = 2\nbudget_tokens = 100_000")
    whole, begun = ScriptedChatModel(brain), []

    def say(text: str) -> None:
        if text.startswith("training"):
            begun.append(len(whole.requests))

    section = go(path, whole, say)
    assert begun[0] == 0
    other = tmp_path / "killed"
    other.mkdir()
    path = write_plan(other, "seeds = 2\nbudget_tokens = 100_000")
    asked = 0

    def dies(request: ChatRequest) -> Any:
        nonlocal asked
        asked += 1
        return EngineDeadError("gone") if asked > begun[1] + 10 else brain(request)

    with pytest.raises(EngineDeadError):
        go(path, ScriptedChatModel(dies))
    assert not (other / "RESULTS.md").exists()
    first = other / "out/tiny/trained_s0"
    before = {file.name: file.read_bytes() for file in first.iterdir() if file.is_file()}
    rest = ScriptedChatModel(brain)
    again = go(path, rest)
    assert {file.name: file.read_bytes() for file in first.iterdir() if file.is_file()} == before
    assert 0 < len(rest.requests) < len(whole.requests) - begun[1], "finished rollouts are not made again"
    assert [line[2:5] for line in lines_of(again, "trained")] == [line[2:5] for line in lines_of(section, "trained")]


def test_a_plan_ends_when_its_tokens_are_used_up_and_goes_on_with_more(tmp_path: Path) -> None:
    path = write_plan(tmp_path, "seeds = 2\nbudget_tokens = 50")
    said: list[str] = []
    section = go(path, ScriptedChatModel(brain), said.append)
    assert [line[1] for line in lines_of(section, "trained")] == ["0"], "the training that had begun was finished"
    assert "Not run, because the tokens are used up: trained_s1" in section
    more = re.search(r"to go on: the command --budget-tokens (\d+)", "\n".join(said))
    assert more is not None
    silent = ScriptedChatModel([])
    assert go(path, silent) == section
    assert silent.requests == []
    section = go(path, ScriptedChatModel(brain), budget_tokens=int(more[1]))
    assert [line[1] for line in lines_of(section, "trained")] == ["0", "1"]
    assert "Not run" not in section


def test_an_interrupted_plan_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f'name = "m"\nbase_url = "http://127.0.0.1:{server.getsockname()[1]}/v1"'
        path = write_plan(tmp_path, "seeds = 1\nbudget_tokens = 100_000", f"[base.model]\n{where}")
        asked: list[socket.socket] = []

        def interrupt() -> None:  # when the model is asked, which never answers
            asked.append(server.accept()[0])
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        code = main([str(path), "--output", str(tmp_path / "out"), "--data", str(tmp_path)])
        thread.join()
        asked[0].close()
    said = " ".join(capsys.readouterr().err.split())
    assert code == 130
    assert f"To continue: python -m benchmarks.results {path} --output {tmp_path / 'out'}" in said


def test_a_trial_is_small_and_leaves_the_page_alone(tmp_path: Path) -> None:
    path = write_plan(tmp_path, "seeds = 1\nbudget_tokens = 100_000")
    section = go(path, ScriptedChatModel(brain), limit=3)
    assert "Measured on 3 test problems" in section
    assert "a certificate needs at least" in section
    assert not (tmp_path / "RESULTS.md").exists()
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == ["tiny-limit-3"], "a folder of its own"


def test_arms_can_be_run_alone_and_must_differ(tmp_path: Path) -> None:
    arms = "[arms.one]\n[arms.two]\ntrainer.patience = 1\n[arms.three]\n"
    path = write_plan(tmp_path, "seeds = 1\nbudget_tokens = 100_000", arms)
    with pytest.raises(ConfigError, match=r'arms."three" has the settings of arms."one".* --arms "one"'):
        go(path, ScriptedChatModel([]))
    with pytest.raises(ConfigError, match="no such arm; there are: one, two, three"):
        go(path, ScriptedChatModel([]), arms=("four",))
    section = go(path, ScriptedChatModel(brain), arms=("two",))
    assert (len(lines_of(section, "one")), len(lines_of(section, "two"))) == (0, 1)
    assert "Not run yet: one_s0, three_s0" in section


def test_trainings_that_run_at_once_keep_their_logs_apart(tmp_path: Path) -> None:
    arms = "[arms.one]\n[arms.two]\ntrainer.patience = 1\n"
    path = write_plan(tmp_path, "seeds = 1\nbudget_tokens = 100_000", arms)
    under_way: list[int] = []

    class Model(ScriptedChatModel):
        async def complete(self, request: ChatRequest) -> ChatReply:
            under_way.append(len(list((tmp_path / "out/tiny").glob("*_s0"))))
            return await super().complete(request)

    said: list[str] = []
    section = go(path, Model(brain), said.append, parallel=2)
    assert under_way[0] == 2
    assert (len(lines_of(section, "one")), len(lines_of(section, "two"))) == (1, 1)
    for arm in ("one", "two"):
        log = (tmp_path / f"out/tiny/{arm}_s0/run.log").read_text()
        assert log.count("edit 1, double:") == 1
    assert said[:2] == ["training 1 of 2: one_s0", "training 2 of 2: two_s0"]


# The rule


KINDS = ("lcm", "gcd", "chain_sum", "spell_backward", "word_sorting")
RULE = """
[rule]
count = 2
include = ["word_sorting"]
seed = 77
n = 4
bounds = [0.25, 0.75]
block = 2
"""


def rule_plan(folder: Path, more: str = RULE) -> Path:
    others = [kind for kind in plan.all_kinds() if kind not in KINDS]
    base = BASE.replace('spec = "jsonl:{data}/doubling.jsonl"\n', "").replace('settings.grader = "exact"\n', "")
    return write_plan(folder, "seeds = 1\nbudget_tokens = 100_000", f"{more}exclude = {json.dumps(others)}\n", base)


def knows(path: Path, solved: dict[int, int]) -> Callable[[ChatRequest], str]:
    """Solves so many of the four training problems of the kind at each place of the order, and learns nothing."""
    rule = plan.load(path).rule
    assert rule is not None
    order = plan.in_order(rule)
    problems = ReasoningGymTask(",".join(order), seed=rule.seed).problems("train", rule.n * len(order))
    answers = {}
    for place, kind in enumerate(order):
        mine = [each for each in problems if each.kind == kind]
        answers.update({each.question: each.answer for each in mine[: solved[place]]})

    def reply(request: ChatRequest) -> str:
        if (request.conversation or "").startswith("optimizer/"):
            return json.dumps({"action": "terminate"})
        return f"<answer>{answers.get(request.messages[-1].content, 'dunno')}</answer>"

    return reply


def test_kinds_are_chosen_by_the_rule_and_kept(tmp_path: Path) -> None:
    path = rule_plan(tmp_path)
    rule = plan.load(path).rule
    assert rule is not None
    order = plan.in_order(rule)
    assert sorted(order) == sorted(KINDS[:4])
    assert order == plan.in_order(rule)
    assert order != plan.in_order(rule.model_copy(update={"seed": 78})), "the seed decides the order"
    said: list[str] = []
    section = go(path, ScriptedChatModel(knows(path, {0: 4, 1: 2, 2: 0, 3: 1})), said.append)
    figures = f"{order[0]} 4, **{order[1]}** 2, {order[2]} 0, **{order[3]}** 1"
    assert f"25 to 75 % of 4 training problems (in bold). Solved: {figures}. Always taken: word_sorting." in section
    config = json.loads((tmp_path / "out/tiny/trained_s0/config.json").read_text())
    assert config["task"]["spec"] == f"reasoning_gym:word_sorting,{order[1]},{order[3]}"
    block = tmp_path / "out/tiny/rule-0"
    rows = rows_of(block / "problems.jsonl")
    assert {row["split"] for row in rows} == {"train"}, "never the test"
    assert len(rows) == 8
    trained = rows_of(tmp_path / "out/tiny/trained_s0/problems.jsonl")
    assert not {row["id"] for row in rows} & {row["id"] for row in trained if row["split"] != "train"}
    (block / "block.json").unlink()
    silent = ScriptedChatModel([])
    assert go(path, silent) == section
    assert silent.requests == [], "blocks are read, and the rollouts of one that was killed at its end too"


def test_a_rule_stops_with_the_tokens_and_says_when_it_cannot_be_met(tmp_path: Path) -> None:
    path = rule_plan(tmp_path)
    model = ScriptedChatModel(knows(path, {0: 4, 1: 2, 2: 0, 3: 0}))
    section = go(path, model, budget_tokens=1)
    assert "The kinds by rule are not chosen yet." in section
    assert "No training is finished." in section
    assert not (tmp_path / "out/tiny/rule-1").exists()
    with pytest.raises(ConfigError, match=r"of 4 kinds only 1 are within rule.bounds = \[0.25, 0.75\]"):
        go(path, model)


# Plans


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = 1", "seedz = 1"), "seedz is not a key of a plan (did you mean 'seeds'?)"),
        (("seeds = 1", ""), "seeds is missing"),
        (("seeds = 1", "seeds = 0"), "seeds = 0: input should be greater than or equal to 1"),
        (("max_epochs = 1", "max_epoch = 1"), "trainer.max_epoch is not a setting; did you mean trainer.max_epochs?"),
        (("max_epochs = 1", 'max_epochs = "x"'), 'trainer.max_epochs = "x"'),
        (('spec = "jsonl:{data}/doubling.jsonl"', ""), "base.task.spec and [rule] are both missing"),
        (("[base]", "[rule]\ncount = 1\nseed = 9\n[base]"), "base.task.spec and [rule] are both given"),
        (("[base.sandbox]", "[arms.a]\nmodel.name = 'm'\n[arms.b]\n[base.sandbox]"), "arms.\"b\" changes 'model'"),
        (("[base.sandbox]", '[arms."+"]\n[base.sandbox]'), 'arms."+": give it a name'),
        ((GRADED, f"n_test = 0\n{GRADED}\n[base.evaluation]\ncredit = 'prune'"), "chooses functions; set task.n_test"),
        (("concurrency = 4", "concurrency = 4\nstart_functions = 'x'"), "leave out start_functions"),
        (("[base]", "[base"), "is not valid TOML"),
    ],
)
def test_a_bad_plan_is_refused_with_its_file_and_key(
    change: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_plan(tmp_path, "seeds = 1\nbudget_tokens = 100_000")
    text = path.read_text()
    assert change[0] in text
    if "credit" in change[1]:
        text = text.replace("n_test = 5\n", "").replace("[base.evaluation]\nn_validation = 12\n", "")
    path.write_text(text.replace(*change))
    assert main([str(path), "--output", str(tmp_path / "out"), "--data", str(tmp_path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert str(path) in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('include = ["word_sorting"]', 'include = ["word_sort"]'), "rule.include = 'word_sort' is no kind"),
        (("seed = 77", "seed = 0"), "rule.seed = 0 is also the train_seed of a training"),
        (("count = 2", "count = 5"), "rule.count = 5, but only 4 kinds"),
        (("[0.25, 0.75]", "[0.75, 0.25]"), "the first must not be above the second"),
        (("[0.25, 0.75]", "[0.25, 75]"), "rule.bounds.1 = 75"),
        (("block = 2", "blocks = 2"), "rule.blocks is not a key of a plan (did you mean 'block'?)"),
    ],
)
def test_a_bad_rule_is_refused(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    assert change[0] in RULE
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan.load(rule_plan(tmp_path, RULE.replace(*change)))


def test_the_command_names_the_plans(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert "there are: ablation, cpu-2h, demo, gpu-7min, math-cpu, math-gpu, tabmwp-cpu" in capsys.readouterr().err


@pytest.mark.parametrize("name", plan.names())
def test_shipped_plans_give_their_trainings(name: str) -> None:
    path = plan.plan_path(name)
    loaded = plan.load(path)
    kinds = () if loaded.rule is None else (*loaded.rule.include, *plan.in_order(loaded.rule)[: loaded.rule.count])
    cells = plan.cells(path, loaded, kinds, data="/data", output="out", limit=None)
    assert len({cell.name for cell in cells}) == len(cells) == loaded.seeds * len(loaded.arms)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells), "whole seeds first"
    assert {cell.config.task.seed for cell in cells} == {cells[0].config.task.seed}, "one test"
    assert {cell.config.task.train_seed for cell in cells} == set(range(loaded.seeds))
    assert {cell.config.evaluation.trainings for cell in cells} == {len(cells)}


def test_the_plan_of_the_demo_has_the_settings_of_the_demo() -> None:
    path = plan.plan_path("demo")
    [first, *_] = plan.cells(path, plan.load(path), (), data="d", output="o", limit=None)
    demo = load_config(ROOT / "ray_jobs/configs/demo.toml").model_dump()
    mine = first.config.model_dump()
    for settings in (demo, mine):
        del settings["run_dir"], settings["run_name"], settings["evaluation"]["trainings"]
        del settings["task"]["train_seed"]
    assert mine == demo


def test_the_plan_of_tabmwp_trains_on_dev_and_tests_on_test(tmp_path: Path) -> None:
    shared = Path(os.environ.get("AGENTOPT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (shared / "tabmwp").is_dir():
        pytest.skip(f"no data in {shared}; AGENTOPT_SHARED_DATA names its folder")

    def dunno(request: ChatRequest) -> str:
        optimizes = (request.conversation or "").startswith("optimizer/")
        return json.dumps({"action": "terminate"}) if optimizes else "<answer>dunno</answer>"

    path = plan.plan_path("tabmwp-cpu")
    values = {"path": path, "output": str(tmp_path), "data": str(shared), "command": "c", "limit": 2}
    job = run(plan.load(path), Options(**values), lambda *_: None, model=ScriptedChatModel(dunno), say=lambda _: None)
    section = asyncio.run(job)
    assert len(lines_of(section, "trained")) == 3
    rows = rows_of(tmp_path / "tabmwp-cpu-limit-2/trained_s0/problems.jsonl")
    assert {row["split"] for row in rows} >= {"train", "test"}
    for row in rows:
        official = "test" if row["split"] == "test" else "dev"
        texts = json.loads((shared / f"tabmwp/problems_{official}.json").read_text()).values()
        assert any(f"Question: {each['question']}" in row["question"] for each in texts)


def test_what_a_mean_over_trainings_claims() -> None:
    wide = Mean(value=10.0, low=-8.0, high=28.0, each=(0.0, 20.0), left_open=4.0)
    assert "With ±18.0 points they claim nothing about the method" in claim(wide)
    assert claim(wide.model_copy(update={"low": 2.0})) == "On average, trainings with these settings gain."
    assert "lose" in claim(wide.model_copy(update={"low": -20.0, "high": -2.0}))
