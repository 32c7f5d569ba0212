"""What each function contributes, with a scripted agent and the real sandbox: some help, some hurt, some do nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentopt_local as ao
from agentopt_local.actions import AddFunction
from agentopt_local.chat import ChatReply, ChatRequest, Usage
from agentopt_local.errors import ConfigError, EngineDeadError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.run import files
from agentopt_local.run.contribution import Credit, FunctionCredit
from agentopt_local.run.credits import read_credit
from agentopt_local.run.reader import function_folders, read_report, read_state
from agentopt_local.run.rows import ActionRow, Score, StepRow
from agentopt_local.run.writer import RunDir
from agentopt_local.tool_calls import parse_reply
from agentopt_local.train_state import TrainState
from agentopt_local.update import Update
from ray_jobs.cli import main
from ray_jobs.config import build
from ray_jobs.crediting import credit
from ray_jobs.runs import new_run, read_config
from ray_jobs.training import train

REVERSE = 'def reverse(word: str) -> str:\n    """Return word reversed."""\n    return word[::-1]\n'
TWIN = REVERSE.replace("def reverse", "def twin")
CONFUSE = 'def confuse(x: int) -> str:\n    """Return something about x."""\n    return str(x)\n'
IDLE = 'def idle(x: int) -> str:\n    """Return x."""\n    return str(x)\n'
UPPER = 'def upper(word: str) -> str:\n    """Return word in capitals."""\n    return word.upper()\n'
SHOUT = 'def shout(word: str) -> str:\n    """Return word in capitals, and a mark."""\n    return upper(word) + "!"\n'
TABLE = (
    'def table(word: str) -> str:\n    """Return word reversed."""\n'
    '    return {"abcd": "dcba", "bcde": "edcb", "cdef": "fedc"}.get(word, word)\n'
)
SOURCES = {f.name: f for f in FunctionSet.of(REVERSE, TWIN, CONFUSE, IDLE, UPPER, SHOUT, TABLE).each()}
WORDS = {
    "train": ("abcd", "bcde", "cdef", "defg", "efgh", "fghi", "ghij", "hijk", "ijkl", "jklm", "klmn", "lmno"),
    "validation": ("tiger", "spider", "ox", "bee"),
    "test": ("eagle", "mouse"),
}
SCHEMA = 30
"""Prompt tokens of a function in the script's accounts."""


def rows() -> list[dict[str, Any]]:
    """Words to reverse and to shout, and numbers to double: 12 of each for training, 4 for validation, 2 to test."""

    def row(split: str, kind: str, given: object, answer: str) -> dict[str, Any]:
        question = f"{kind}: {given}"
        return {"id": question, "kind": kind, "question": question, "answer": answer, "split": split}

    words = [(split, number, word) for split, some in WORDS.items() for number, word in enumerate(some)]
    found = [row(split, "Reverse", word, word[::-1]) for split, _, word in words]
    found += [row(split, "Shout", word, f"{word.upper()}!") for split, _, word in words]
    first = {"train": 20, "validation": 40, "test": 60}
    return found + [row(split, "Double", first[split] + n, str(2 * (first[split] + n))) for split, n, _ in words]


def agent(request: ChatRequest) -> str:
    """Calls what there is for a problem; doubles numbers by code unless it is confused."""
    last = request.messages[-1]
    if last.role == "tool" or last.content.startswith("Output of the code:"):
        return f"<answer>{last.content.rpartition(chr(10))[2]}</answer>"
    kind, _, given = last.content.partition(": ")
    tools = {tool.name for tool in request.tools}
    wanted = {"Reverse": ("table", "reverse", "twin"), "Shout": ("shout",), "Double": ("confuse",)}[kind]
    name = next((each for each in wanted if each in tools), None)
    if name is None:
        return f"```python\nprint(2 * {given})\n```" if kind == "Double" else "<answer>dunno</answer>"
    arguments = {"x": int(given)} if kind == "Double" else {"word": given}
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def brain(request: ChatRequest) -> ChatReply:
    """The agent's reply, with the tokens of the tools that it was offered."""
    usage = Usage(requests=1, prompt_tokens=100 + SCHEMA * len(request.tools), completion_tokens=5)
    return ChatReply(message=parse_reply(agent(request), request.tools), usage=usage)


def trained(folder: Path, *names: str, shown: dict[str, tuple[str, ...]] | None = None, **changes: Any) -> RunDir:
    """A run whose training has ended with these functions; ``shown``: ids of the problems that its edit was shown."""
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    values: dict[str, Any] = {
        "task": {"spec": f"jsonl:{path}", "n_train": 36, "n_test": 6, "settings": {"grader": "exact"}},
        "run_dir": str(folder),
        "run_name": "run",
        "concurrency": 4,
        "sandbox": {"workers": 1},
        "agent": {"act_first": False, "constrain": False},
        "trainer": {"max_epochs": 1, "noise_floor": False},
        "evaluation": {"n_validation": 0, "baselines": ["untrained"]},
        "model": {"name": "a-model"},
    }
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value}
    run_dir = new_run(build(values, "test"))
    functions = FunctionSet(functions=tuple(SOURCES[name] for name in names))
    ids = tuple((shown or {}).get(name, ()) for name in names)
    actions = tuple(AddFunction(function=Function(source=each.source)) for each in functions.each())
    run_dir.keep_proposal(1, 0, Update(functions=functions, actions=actions, shown=ids, matches=("3/3",) * len(names)))
    score = Score(accuracy=0.0, reward=0.0, n=36)
    added = tuple(ActionRow(kind="add_function", name=name) for name in names)
    row = StepRow(step=1, decision="accepted", actions=added, before=score, after=score, candidate=0, seconds=1.0)
    run_dir.keep_step(row)
    run_dir.keep_functions(1, functions)
    run_dir.keep_state(TrainState(functions=functions, step=1, accepted=1, stopped="max_epochs"))
    return run_dir


def measure(run_dir: RunDir, script: Callable[[ChatRequest], Any] = brain, **how: Any) -> Credit:
    """``agentopt credit`` with the script."""
    model = ScriptedChatModel(script)
    try:
        return asyncio.run(credit(read_config(run_dir.path), run_dir, model=model, **how))
    finally:
        run_dir.close()


def by_name(found: Credit) -> dict[str, FunctionCredit]:
    return {each.name: each for each in found.each}


# Verdicts


def test_functions_that_help_hurt_and_do_nothing_are_told_apart(tmp_path: Path) -> None:
    shown = {"reverse": ("Reverse: abcd", "Reverse: bcde", "Reverse: cdef"), "confuse": ("Double: 20",)}
    found = measure(run_dir := trained(tmp_path, "reverse", "confuse", "idle", shown=shown))
    assert {each.name: each.verdict for each in found.each} == {
        "reverse": "helps",
        "confuse": "hurts",
        "idle": "only costs tokens",
    }
    each = by_name(found)
    assert found.problems == {"train": 36, "validation": 12}
    # 48 problems; its author was shown three of the twelve training problems that it solves, so 9 + 4 count
    assert (each["reverse"].effect.n, each["reverse"].effect.gained, each["reverse"].effect.lost) == (45, 13, 0)
    assert (each["confuse"].effect.n, each["confuse"].effect.gained, each["confuse"].effect.lost) == (47, 0, 15)
    assert each["reverse"].kinds["Reverse"].gained == each["reverse"].kinds["Reverse"].n == 13
    assert each["reverse"].kinds["Double"].gained == 0
    assert each["idle"].effect.ci95[0] < 0 < each["idle"].effect.ci95[1]
    assert (each["reverse"].used, each["idle"].used) == (13, 0)
    assert found.masks == 0
    assert each["idle"].masks is None
    assert read_credit(run_dir.path) == found


def test_tokens_say_what_a_schema_costs(tmp_path: Path) -> None:
    idle = by_name(measure(trained(tmp_path, "reverse", "idle")))["idle"].tokens
    with_it, without_it = idle.read
    assert with_it - without_it == idle.schema_read > SCHEMA  # attempts of two requests read it twice
    assert idle.generated[0] == idle.generated[1]


def test_a_helper_is_left_out_together_with_what_calls_it(tmp_path: Path) -> None:
    each = by_name(measure(trained(tmp_path, "upper", "shout")))
    assert each["upper"].left_out == ("upper", "shout")
    assert each["shout"].left_out == ("shout",)
    assert each["upper"].verdict == each["shout"].verdict == "helps"
    assert "upper was left out together with shout" in str(measure(RunDir(tmp_path / "run")))


def test_half_masks_see_functions_that_stand_in_for_each_other(tmp_path: Path) -> None:
    found = measure(run_dir := trained(tmp_path, "reverse", "twin", "confuse", "idle", "upper", "shout"))
    each = by_name(found)
    assert found.masks == 8
    assert each["reverse"].verdict == each["twin"].verdict == "only costs tokens"  # either does the other's work
    effects = {name: one.masks for name, one in each.items() if one.masks is not None}
    assert set(effects) == set(each)
    # a third of the problems each; reverse helps where twin was not drawn, upper where shout was drawn
    expected = {"reverse": 16.7, "twin": 16.7, "confuse": -33.3, "idle": 0.0, "upper": 16.7, "shout": 33.3}
    inside = [name for name, one in effects.items() if one.ci95[0] <= expected[name] <= one.ci95[1]]
    assert len(inside) >= 5, effects
    for name in ("reverse", "twin", "upper", "shout"):
        assert effects[name].ci95[0] > 0
    assert effects["confuse"].ci95[1] < 0
    assert effects["idle"].ci95[0] < 0 < effects["idle"].ci95[1]
    assert {one.n for one in effects.values()} == {48}
    done = [json.loads(line) for line in (run_dir.path / "rollouts.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in done} >= {"credit", "credit without idle", "credit halves"}
    assert len({(row["functions"], row["problem_id"]) for row in done}) == len(done)


def test_problems_are_never_those_of_the_test_and_leave_the_certificate_its_own(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "reverse", "idle", evaluation={"n_validation": 5})
    found = measure(run_dir, n=14)
    assert found.problems == {"train": 7, "validation": 7}
    split = {each.id: each.split for each in ao.load(run_dir.path)._files.questions.values()}
    assert set(split.values()) == {"train", "validation"}
    run = RunDir(run_dir.path)
    certified = {each["id"] for each in rows() if each["split"] == "validation"} - set(split)
    assert len(certified) == 5
    assert measure(run, split="train", n=100).problems == {"train": 36}
    assert measure(RunDir(run_dir.path), split="validation").problems == {"validation": 7}


def test_too_few_problems_of_its_kinds_say_nothing(tmp_path: Path) -> None:
    shown = {"idle": tuple(f"Double: {x}" for x in range(20, 30)), "reverse": ("Reverse: abcd",)}
    found = measure(trained(tmp_path, "reverse", "idle", shown=shown), split="train")
    assert by_name(found)["idle"].verdict == "too few problems"


def test_a_run_that_does_not_say_what_was_shown_leaves_training_problems_out(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "reverse")
    path = run_dir.path / "proposals.jsonl"
    row = json.loads(path.read_text())
    del row["proposal"]["shown"]
    path.write_text(json.dumps(row) + "\n")
    found = measure(run_dir)
    assert found.problems == {"validation": 12}
    assert "does not say which problems the edits of reverse were shown" in str(found)


# Memorising


def test_a_table_of_shown_answers_is_flagged_and_an_honest_function_is_not(tmp_path: Path) -> None:
    shown = {"table": ("Reverse: abcd", "Reverse: bcde", "Reverse: cdef"), "confuse": ("Double: 20",)}
    found = measure(trained(tmp_path, "table", "confuse", shown=shown))
    [sign] = found.memorising
    assert sign.name == "table"
    assert set(sign.literals) >= {"dcba", "edcb", "fedc"}
    assert sign.answers is not None
    assert (sign.answers.shown, sign.answers.others) == ((3, 3), (0, 13))
    assert sign.solved is not None
    assert (sign.solved.shown, sign.solved.others) == ((3, 3), (0, 13))
    assert by_name(found)["table"].effect.gained == 0
    assert "Warning: table may have memorised answers" in str(found)


def test_a_training_warns_of_a_function_that_looks_memorised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray_jobs.commands.running import run_job
    from ray_jobs.terminal.display import Display

    shown = {"table": ("Reverse: abcd", "Reverse: bcde", "Reverse: cdef")}
    run_dir = trained(tmp_path, "table", "shout", "upper", shown=shown)
    job = train(read_config(run_dir.path), run_dir, model=ScriptedChatModel(brain))
    assert run_job(run_dir, Display(), job) == 0
    assert "Warning: table may have memorised answers: literals in its source" in capsys.readouterr().out
    report = read_report(run_dir.path)
    assert report is not None
    assert [each.name for each in report.memorising] == ["table"]


# Pruning


def test_what_hurts_or_only_costs_tokens_is_removed_before_the_test(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "reverse", "confuse", "idle", evaluation={"credit": "prune"})
    report = asyncio.run(train(read_config(run_dir.path), run_dir, model=ScriptedChatModel(brain)))
    run_dir.close()
    assert [each.name for each in report.functions] == ["reverse"]
    found = read_credit(run_dir.path)
    assert found is not None
    assert found.pruned is not None
    assert (found.pruned.removed, found.pruned.kept, found.pruned.run) == (("confuse", "idle"), ("reverse",), None)
    assert (found.pruned.effect.gained, found.pruned.effect.lost) == (16, 0)
    state = read_state(run_dir.path)
    assert state is not None
    assert state.functions == FunctionSet.of(REVERSE)
    folders = [[path.stem for path in sorted(folder.glob("*.py"))] for _, folder in function_folders(run_dir.path)]
    assert folders == [["confuse", "idle", "reverse"], ["reverse"]]


def test_the_smaller_set_of_two_that_do_the_same_is_kept(tmp_path: Path) -> None:
    found = measure(run_dir := trained(tmp_path, "reverse", "twin"), prune=True)
    assert found.pruned is not None
    assert len(found.pruned.removed) == 1, "both together would cost every word"
    assert (found.pruned.effect.gained, found.pruned.effect.lost) == (0, 0)
    state = read_state(run_dir.path)
    assert state is not None
    assert len(state.functions) == 1


def test_a_tested_run_stays_as_it_is_and_a_copy_is_pruned(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "reverse", "confuse")
    path = run_dir.path
    asyncio.run(train(read_config(path), run_dir, model=ScriptedChatModel(brain)))
    run_dir.close()
    before = {name: (path / name).read_text() for name in ("state.json", "report.json", "config.json", "steps.jsonl")}
    found = measure(RunDir(path), prune=True)
    assert found.pruned is not None
    assert found.pruned.run == "run-pruned"
    assert {name: (path / name).read_text() for name in before} == before
    copy = tmp_path / "run-pruned"
    assert read_report(copy) is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["problems.jsonl", "run", "run-pruned"]
    again = measure(RunDir(path), prune=True)  # the same copy, not another one
    assert (again, sorted(tmp_path.glob("run*"))) == (found, [path, copy])
    resumed = RunDir(copy)
    report = asyncio.run(train(read_config(copy), resumed, model=ScriptedChatModel(brain)))
    resumed.close()
    assert [each.name for each in report.functions] == ["reverse"]
    assert report.training.steps == 1, "a pruned set is not trained any further"


@pytest.mark.parametrize("after", [3, 40, 150, 250])
def test_a_killed_pruning_is_continued_without_repeating_work(tmp_path: Path, after: int) -> None:
    """The model dies after so many requests; the resumed run ends like an undisturbed one, with as many rollouts."""
    names = ("reverse", "twin", "confuse", "idle")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = trained(tmp_path / "one", *names, evaluation={"credit": "prune"})
    expected = asyncio.run(train(read_config(whole.path), whole, model=ScriptedChatModel(brain)))
    whole.close()
    left = after

    def dying(request: ChatRequest) -> ChatReply | Exception:
        nonlocal left
        left -= 1
        return brain(request) if left >= 0 else EngineDeadError("killed")

    killed = trained(tmp_path / "two", *names, evaluation={"credit": "prune"})
    with pytest.raises(EngineDeadError):
        asyncio.run(train(read_config(killed.path), killed, model=ScriptedChatModel(dying)))
    killed.close()
    resumed = RunDir(killed.path)
    report = asyncio.run(train(read_config(resumed.path), resumed, model=ScriptedChatModel(brain)))
    resumed.close()
    assert report.test == expected.test
    assert read_credit(resumed.path) == read_credit(whole.path)
    keys = [
        [(row["functions"], row["problem_id"], row["seed"]) for row in map(json.loads, lines)]
        for path in (whole.path, resumed.path)
        if (lines := (path / "rollouts.jsonl").read_text().splitlines())
    ]
    assert sorted(keys[0]) == sorted(keys[1])
    assert len(set(keys[1])) == len(keys[1])


@pytest.mark.parametrize("written", ["credit", "functions", "state"])
def test_a_kill_between_the_writes_of_pruning_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    run_dir = trained(tmp_path, "reverse", "idle")
    method = {"credit": "keep_pruned_functions", "functions": "keep_state", "state": "close"}[written]
    if written != "state":
        with monkeypatch.context() as patch:
            patch.setattr(RunDir, method, lambda *given: (_ for _ in ()).throw(EngineDeadError("killed")))
            with pytest.raises(EngineDeadError):
                measure(run_dir, prune=True)
    else:
        measure(run_dir, prune=True)
    if written != "state":
        assert read_state(run_dir.path).functions.names == ("reverse", "idle")  # type: ignore[union-attr]
        measure(RunDir(run_dir.path), prune=True)
    assert read_state(run_dir.path).functions.names == ("reverse",)  # type: ignore[union-attr]
    pruned = read_credit(run_dir.path).pruned  # type: ignore[union-attr]
    assert pruned is not None
    assert pruned.removed == ("idle",)
    measure(RunDir(run_dir.path))  # measured again, the run still knows that it was pruned
    assert read_credit(run_dir.path).pruned == pruned  # type: ignore[union-attr]


# The command and the API


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = trained(tmp_path)
    run_dir.close()
    path = str(run_dir.path)

    def told(*arguments: str) -> str:
        assert main(["credit", *arguments]) == 2
        return capsys.readouterr().err

    assert "no-such is not a run folder" in told(str(tmp_path / "no-such"))
    assert "--n 0: measure on at least one problem" in told(path, "--n", "0")
    with pytest.raises(SystemExit):
        main(["credit", path, "--split", "test"])
    assert "invalid choice: 'test'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="has learned no function, so there is nothing to measure"):
        measure(RunDir(run_dir.path))
    with pytest.raises(ConfigError, match="split = 'test' is not possible"):
        ao.credit(path, split="test", model=ScriptedChatModel(brain))
    with pytest.raises(ConfigError, match="n = 0: measure on at least one problem"):
        ao.credit(path, n=0, model=ScriptedChatModel(brain))


def test_a_training_that_goes_on_is_not_pruned(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "reverse", "idle")
    run_dir.keep_state(TrainState(functions=FunctionSet.of(REVERSE, IDLE), step=1, accepted=1))
    with pytest.raises(ConfigError, match="the training has not ended"):
        measure(run_dir, prune=True)
    assert measure(RunDir(run_dir.path)).pruned is None


def test_without_problems_the_command_says_why_and_a_training_goes_on(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "reverse", evaluation={"n_validation": 12, "credit": "measure"})
    with pytest.raises(ConfigError, match="the first 12 validation problems are kept for the certificate"):
        measure(run_dir, split="validation")
    everything = {"reverse": tuple(row["id"] for row in rows() if row["split"] == "train")}
    (tmp_path / "two").mkdir()
    run_dir = trained(
        tmp_path / "two", "reverse", shown=everything, evaluation={"n_validation": 12, "credit": "measure"}
    )
    report = asyncio.run(train(read_config(run_dir.path), run_dir, model=ScriptedChatModel(brain)))
    run_dir.close()
    assert report.test is not None
    assert read_credit(run_dir.path) is None


def test_python_measures_and_reads_it(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "reverse", "idle")
    run_dir.close()
    found = ao.credit(run_dir.path, n=20, model=ScriptedChatModel(brain), progress=False)
    assert ao.load(run_dir.path).credit == found
    assert "only costs tokens" in str(found)
    assert files.CREDIT in {each.name for each in run_dir.path.iterdir()}
