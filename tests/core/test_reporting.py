"""Reports of run folders that are complete, interrupted, damaged, or contain text that looks like markup."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.actions import AddFunction, ReviseFunction
from agentopt_local.chat import Message, Usage
from agentopt_local.comparison import compare, function_results
from agentopt_local.errors import RunDirError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.problem import Problem
from agentopt_local.reporting.data import run_page
from agentopt_local.reporting.html import report_html
from agentopt_local.reporting.rollout_index import CHUNK
from agentopt_local.reporting.settings_toml import toml_text
from agentopt_local.run.reader import read_run
from agentopt_local.run.report import Report
from agentopt_local.run.rows import StepRow
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from agentopt_local.steps import score
from agentopt_local.train_state import TrainState
from agentopt_local.trajectory import Step, ToolRun, Trajectory
from agentopt_local.update import Update

FIRST = 'def twice(x: int) -> int:\n    """Return two times x."""\n    return x + 2\n'
BETTER = FIRST.replace("x + 2", "2 * x")
WORSE = FIRST.replace("x + 2", "x - 2")
HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u2028&amp;\ud800"
TRAIN = tuple(Problem(id=f"t{i}", kind="double", question=f"Double {i}?", answer=str(2 * i)) for i in range(4))
TEST = tuple(Problem(id=f"e{i}", kind=("double", "other")[i % 2], question=HOSTILE, answer="1") for i in range(6))


def attempt(problem: Problem, functions: FunctionSet, right: bool, call: str | None = None) -> Trajectory:
    """One attempt, with a call of ``call`` if given."""
    executed = (ToolRun(name=call, arguments={"x": float("nan")}, ok=True, result=HOSTILE),) if call else ()
    return Trajectory(
        problem_id=problem.id,
        functions=functions.fingerprint,
        seed=0,
        steps=(Step(message=Message(role="assistant", content=HOSTILE), executed=executed),),
        answer="1",
        stop_reason="answer",
        usage=Usage(requests=1, prompt_tokens=10, cached_tokens=5, completion_tokens=3),
        wall_s=0.5,
        grade=Grade(reward=float(right), reason="correct" if right else HOSTILE),
    )


def write_run(path: Path, *, upto: str = "report") -> None:
    """Three steps: added, rolled back, revised; then the evaluation. ``upto``: where the run was killed."""
    run = RunDir(path, create=True)
    run.write_config({"task": {"spec": "jsonl:x"}, "model": {"name": "m"}, "seed": 0})
    run.keep_problems("train", TRAIN)
    run.keep_problems("test", TEST)
    sets = [FunctionSet(), FunctionSet.of(FIRST), FunctionSet.of(WORSE), FunctionSet.of(BETTER)]

    def roll_out(number: int, problems: tuple[Problem, ...], n_right: int, stage: str) -> list[Trajectory]:
        call = "twice" if number else None
        done = [attempt(each, sets[number], i < n_right, call) for i, each in enumerate(problems)]
        for trajectory in done:
            run.keep(trajectory, Stage.parse(stage))
        return done

    untested = roll_out(0, TEST, 1, "test before")
    before = roll_out(0, TRAIN, 0, "step 1 before")
    if upto == "rollouts":
        return run.close()
    state = TrainState()
    for number, (n_right, decision) in enumerate([(2, "accepted"), (1, "rolled_back"), (4, "accepted")], 1):
        function = Function(source=sets[number].source.split("Union\n\n")[1])
        action: Any = (AddFunction if number == 1 else ReviseFunction)(function=function)
        proposal = Update(functions=sets[number], actions=(action,), matches=("1/3",))
        run.keep_proposal(number, 0, proposal)
        after = roll_out(number, TRAIN, n_right, f"step {number} after")
        row = {
            "step": number,
            "decision": decision,
            "actions": [{"kind": action.kind, "name": "twice", "matches": "1/3"}],
            "before": score(before),
            "after": score(after),
            "candidates": [{"actions": list(proposal.summaries()), "accuracy": n_right / 4}],
            "counts": {"sampled": 2, "legal": 2, "verified": 1, "applied": 1},
            "tokens": {"optimizer": Usage().model_dump(), "rollouts": Usage(completion_tokens=12).model_dump()},
            "seconds": 2.0,
        }
        run.keep_step(StepRow.model_validate(row))
        if decision == "accepted":
            before = after
            state = state.model_copy(update={"functions": sets[number]})
            run.keep_functions(number, sets[number])
        state = state.model_copy(update={"step": number})
        run.keep_state(state)
    if upto == "training":
        return run.close()
    run.keep_state(state.model_copy(update={"stopped": "solved"}))
    tested = roll_out(3, TEST, 5, "test after")
    report = Report(test=compare(TEST, untested, tested), functions=function_results(sets[3], tested))
    run.write_report("test", report)
    return run.close()


def page(path: Path) -> dict[str, Any]:
    return run_page(read_run(path)).summary


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    write_run(path)
    return path


def test_the_held_out_result_is_that_of_the_evaluation(whole: Path) -> None:
    summary, report = page(whole), json.loads((whole / "report.json").read_text())["test"]
    result = summary["results"][0]
    assert (result["split"], result["n"], result["complete"]) == ("test", 6, True)
    assert result["before"]["ci95"] == report["before"]["ci95"]
    assert result["difference"] == report["difference"]
    assert result["difference"]["points"] == pytest.approx(100 * 4 / 6, abs=0.01)
    assert {(row["kind"], row["n"]): round(row["after"][0], 3) for row in result["kinds"]} == {
        ("double", 3): 1.0,
        ("other", 3): 0.667,
    }
    train = summary["results"][1]
    assert (train["split"], train["n"], train["before"]["accuracy"], train["after"]["accuracy"]) == ("train", 4, 0, 1)
    assert summary["notes"] == []


def test_the_curve_has_every_step_with_its_interval(whole: Path) -> None:
    steps = page(whole)["steps"]
    assert [step["decision"] for step in steps] == ["accepted", "rolled_back", "accepted"]
    assert [step["after"][0] for step in steps] == [0.5, 0.25, 1.0]
    for step in steps:
        accuracy, low, high, n = step["after"]
        assert 0 <= low <= accuracy <= high <= 1
        assert n == 4


def test_a_function_has_its_history_and_what_was_solved_only_with_it(whole: Path) -> None:
    (function,) = page(whole)["functions"]
    assert (function["name"], function["status"], function["source"]) == ("twice", "learned", BETTER)
    assert [(edit["step"], edit["kind"], edit["kept"]) for edit in function["history"]] == [
        (1, "add_function", True),
        (2, "revise_function", False),
        (3, "revise_function", True),
    ]
    changed = [[line for line in edit["diff"] if line[0] in "+-"] for edit in function["history"]]
    assert changed[0] == ["+" + line for line in FIRST.splitlines()]
    assert changed[2] == ["-    return x + 2", "+    return 2 * x"], "a diff is against what was in force"
    assert function["use"]["test"]["only_with"] == ["e1", "e2", "e3", "e4"]
    told = json.loads((whole / "report.json").read_text())["functions"][0]
    assert {key: function["use"]["test"][key] for key in ("calls", "ok", "problems", "solved")} == {
        key: told[key] for key in ("calls", "ok", "problems", "solved")
    }
    assert function["all"]["calls"] == 3 * 4 + 6


def test_a_report_says_what_the_problems_were_offered(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    assert page(tmp_path / "run")["offers"] == {}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    report["offers"] = {"functions": 9, "mean": 3.0, "judged": 6, "misses": 2}
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    told = page(tmp_path / "run")["offers"]
    assert told["test"].startswith("Each problem was offered 3 of 9 functions on average; in 2 of 6 rollouts one")
    (tmp_path / "run" / "report.json").write_text(json.dumps({**report, "offers": report["offers"] | {"judged": 0}}))
    assert page(tmp_path / "run")["offers"]["test"].endswith("they were written for is not known")


def test_links_lead_to_the_rollout_that_they_name(whole: Path) -> None:
    shown = run_page(read_run(whole))
    rows, problems = shown.summary["rollouts"]["rows"], shown.summary["rollouts"]["problems"]
    for problem, position in shown.summary["only_with_index"]["test"].items():
        assert problems[rows[position][1]][0] == problem
        assert shown.summary["rollouts"]["stages"][rows[position][0]] == "test after"
    assert [row[8] for row in rows[-6:]] == [0, 1, 1, 1, 1, 0]
    detail = shown.chunks[(len(rows) - 1) // CHUNK][(len(rows) - 1) % CHUNK]
    assert detail[4][0][1] == [["twice", '{"x": null}', True, HOSTILE]]


@pytest.mark.parametrize("upto", ["rollouts", "training"])
def test_an_interrupted_run_has_a_report_that_says_what_is_missing(upto: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run", upto=upto)
    summary = page(tmp_path / "run")
    assert any(note.startswith("report.json is missing") for note in summary["notes"])
    splits = [result["split"] for result in summary["results"]]
    assert splits == ["train"], "the held-out problems have no second side"
    assert len(summary["steps"]) == (3 if upto == "training" else 0)
    assert report_html([run_page(read_run(tmp_path / "run"))]).count("<h1") == 0


def test_an_evaluation_that_was_cut_short_counts_what_both_agents_tried(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    path = tmp_path / "run" / "rollouts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    result = page(tmp_path / "run")["results"][0]
    assert (result["split"], result["n"], result["complete"]) == ("test", 4, False)
    assert (result["before"]["accuracy"], result["after"]["accuracy"]) == (0.25, 1.0)


def test_damage_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run)
    steps = (run / "steps.jsonl").read_bytes().splitlines(keepends=True)
    (run / "steps.jsonl").write_bytes(b"".join([steps[0], b"{broken\n", b'{"step": 3}\n', steps[1][:40]]))
    (run / "problems.jsonl").unlink()
    (run / "state.json").write_text('{"functions": {"functions": [{"source": "not python ("}]}}')
    (run / "report.json").write_text('{"test": {}}')
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    summary = page(run)
    notes = "\n".join(summary["notes"])
    assert "steps.jsonl ends in the middle of a line" in notes
    assert "steps.jsonl, line 2 and 1 more cannot be read" in notes
    for name in ("problems.jsonl is missing", "state.json cannot be read", "report.json cannot be read"):
        assert name in notes
    assert [step["step"] for step in summary["steps"]] == [1]
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before, "read only"


def test_a_run_that_is_under_way_is_read_without_its_lock(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    open_run = RunDir(tmp_path / "run")
    try:
        assert page(tmp_path / "run")["results"]
    finally:
        open_run.close()


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"is not a run folder: it has no config\.json"):
        read_run(tmp_path)


# The page


class Elements(HTMLParser):
    """The start tags of a page, and the content of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def test_hostile_text_makes_no_element(whole: Path) -> None:
    text = report_html([run_page(read_run(whole))])
    found = Elements(text)
    assert [tag for tag, _ in found.tags if tag == "img"] == []
    kinds = [attributes.get("type") for tag, attributes in found.tags if tag == "script"]
    assert kinds == ["application/json", "text/plain", "text/plain", None]
    assert "alert(1)" in found.scripts[0] or "alert(1)" in str(unpacked(text)), "the text itself is there"
    assert "<!--" not in text
    assert text.count("</script>") == 4


def unpacked(text: str) -> list[Any]:
    blocks = re.findall(r'<script type="text/plain" id="chunk-[\d-]+">([^<]*)</script>', text)
    return [json.loads(gzip.decompress(base64.b64decode(block))) for block in blocks]


def test_everything_is_inside_and_the_policy_allows_only_that(whole: Path) -> None:
    text = report_html([run_page(read_run(whole))])
    assert re.findall(r'(?:src|href)="([^"#]+)', text) == ["data:,"]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    for block in (
        re.search(r"<style>(.*?)</style>", text, re.DOTALL),
        re.search(r"<script>(.*)</script>", text, re.DOTALL),
    ):
        assert block is not None
        assert base64.b64encode(hashlib.sha256(block[1].encode()).digest()).decode() in policy[1]


def test_the_same_run_gives_the_same_file_and_the_data_come_back(whole: Path) -> None:
    shown = run_page(read_run(whole))
    text = report_html([shown])
    assert text == report_html([run_page(read_run(whole))])
    assert unpacked(text) == json.loads(json.dumps(shown.chunks))


def test_settings_are_written_as_toml() -> None:
    defaults = {"seed": 0, "run_dir": "runs", "task": {"spec": "", "settings": {}}, "model": {"name": "m", "url": None}}
    values = {
        "seed": 3,
        "run_dir": "elsewhere",
        "task": {"spec": 'a "quoted" \x7f path\\', "settings": {"odd name": {"n": [1, 2]}}},
        "model": {"name": "m", "url": None},
    }
    import tomllib

    assert tomllib.loads(toml_text(values, defaults)) == {"seed": 3, "task": values["task"]}


@pytest.mark.parametrize(
    ("code", "used"),
    [
        ("print(reverse_word('ab'))", True),
        ("x = reverse_word (1)", True),
        ("def reverse_word(a):\n    return a", False),
        ("print(my_reverse_word(1))", False),
        ("# reverse_word", False),
    ],
)
def test_a_function_that_code_called_counts_as_used(code: str, used: bool) -> None:
    ran = ToolRun(name="python", arguments={"code": code}, ok=True, result="")
    step = Step(message=Message(role="assistant"), executed=(ran,))
    trajectory = Trajectory(
        problem_id="p", functions="f", seed=0, steps=(step,), answer="1", stop_reason="answer", usage=Usage(), wall_s=0,
        grade=Grade(reward=1.0, reason=""),
    )  # fmt: skip
    assert trajectory.used("reverse_word") is used
