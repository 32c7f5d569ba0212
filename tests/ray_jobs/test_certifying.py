"""Certificates of whole trainings with the scripted model and the real sandbox: verdicts, alpha, resume, mistakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentopt_local as ao
from agentopt_local.chat import ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError, RunDirError
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.problem import Problem, Split, content_key
from agentopt_local.run.report import Certificate, Report
from agentopt_local.run.writer import RunDir
from benchmarks.scripted import DOUBLE, REVERSE, brain, config_in, rows
from ray_jobs import sweep
from ray_jobs.cli import main
from ray_jobs.config import RunConfig
from ray_jobs.lifecycle import certify_run, check_certificate, reopen, train_run
from ray_jobs.runs import new_run
from ray_jobs.terminal.printing import report_text
from ray_jobs.unused_problems import validation_problems

WORDS = ("cow", "fox", "hen", "owl", "rat", "sheep", "snake", "trout", "whale", "worm", "yak", "zebu")


def validation(kind: str = "Reverse") -> list[dict[str, Any]]:
    """Problems that the learned functions solve (Reverse), that they spoil (Keep), or that nobody solves (Guess)."""
    answers = {"Reverse": lambda word: word[::-1], "Keep": str, "Guess": lambda word: "?"}
    return [
        {"id": f"v-{word}", "question": f"{kind}: {word}", "answer": answers[kind](word), "split": "validation"}
        for word in WORDS
    ]


def plays(request: ChatRequest) -> Any:
    """Both roles; without functions, the agent also knows what stays as it is."""
    last = request.messages[-1].content
    if (request.conversation or "").startswith("optimizer/") or not last.startswith("Keep: "):
        return brain(request)
    return "<answer>dunno</answer>" if request.tools else f"<answer>{last.removeprefix('Keep: ')}</answer>"


def config_with(folder: Path, problems: list[dict[str, Any]], **changes: Any) -> RunConfig:
    """The settings of the scripted training, with validation problems."""
    config = config_in(folder, **changes)
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows(), *problems]), encoding="utf-8")
    return config


def trained(config: RunConfig, play: Callable[[ChatRequest], Any] = plays) -> tuple[Path, Report, ScriptedChatModel]:
    """A whole training, with its log."""
    model = ScriptedChatModel(play)
    run_dir = new_run(config)
    report = asyncio.run(train_run(config, run_dir, model=model))
    return run_dir.path, report, model


def certified(run: Path, model: ScriptedChatModel | None = None, **asked: Any) -> Certificate:
    """``agentopt certify RUN`` with the script."""
    model = ScriptedChatModel(plays) if model is None else model
    config, run_dir = reopen(run, model=model)
    return asyncio.run(certify_run(config, run_dir, model=model, **asked))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def staged(run: Path, split: str = "validation") -> list[dict[str, Any]]:
    return [row for row in lines(run / "rollouts.jsonl") if row["stage"].startswith(split)]


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, ScriptedChatModel]:
    """A training whose set helps."""
    return trained(config_with(tmp_path_factory.mktemp("helped"), validation()))


# Verdicts


def test_a_set_that_helps_is_certified(helped: tuple[Path, Report, ScriptedChatModel]) -> None:
    run, report, _ = helped
    certificate = report.certificate
    assert certificate is not None
    assert (certificate.verdict, certificate.n, certificate.gained, certificate.lost) == ("helps", 7, 7, 0)
    assert (certificate.n_max, certificate.alpha, certificate.evidence) == (12, 0.05, pytest.approx(31.875))
    assert certificate.summary() == "certified: helps (E = 31.9, 7 problems)"
    told = report_text(report)
    assert "\nCertificate: certified: helps (E = 31.9, 7 problems)\n" in told
    assert (
        "  compared with the untrained agent on validation problems: 7 gained, 0 lost; E >= 20 was needed (alpha 0.05)"
        in told
    )
    assert json.loads((run / "report.json").read_text())["certificate"]["verdict"] == "helps"
    log = (run / "run.log").read_text()
    assert "certificate: 2 of at most 12 validation problems, 2 gained, 0 lost, E = 2.33" in log
    assert "certificate: certified: helps (E = 31.9, 7 problems); compared with" in log
    assert ao.load(run).certificate == certificate
    parts = report.seconds.parts
    assert list(parts) == ["noise floor", "training", "credit", "certificate", "test"]
    assert 0 < sum(parts.values()) <= report.seconds.this_process


def test_what_a_batch_holds_beyond_the_decision_is_kept_and_not_counted(
    helped: tuple[Path, Report, ScriptedChatModel],
) -> None:
    run, report, _ = helped
    sides = [row["stage"] for row in staged(run)]
    assert (sides.count("validation before"), sides.count("validation after")) == (8, 8), "four batches of two"
    order = lines(run / "certificates.jsonl")[-1]["problems"]
    assert {row["problem_id"] for row in staged(run)} == set(order[:8])
    assert order != sorted(order)
    assert sorted(order) == [f"v-{word}" for word in WORDS]
    assert report.costs.stages["validation after"].tokens.requests == 16
    questions = {row["id"]: row["split"] for row in lines(run / "problems.jsonl")}
    assert {questions[name] for name in order[:8]} == {"validation"}


def test_the_optimizer_sees_nothing_of_these_problems(helped: tuple[Path, Report, ScriptedChatModel]) -> None:
    _, _, model = helped
    conversations = [request.conversation or "" for request in model.requests]
    asked = {row["question"] for row in validation()}
    first = next(i for i, request in enumerate(model.requests) if request.messages[-1].content in asked)
    assert not any(each.startswith("optimizer/") for each in conversations[first:]), "the training was over"
    seen = "\n".join(each.model_dump_json() for each in model.requests if "optimizer/" in (each.conversation or ""))
    assert "Reverse: horse" in seen
    assert [row["id"] for row in validation() if row["question"] in seen] == []


@pytest.mark.parametrize(
    ("kind", "verdict", "n", "told"),
    [
        ("Keep", "does_not_help", 3, "does not help (0 gained, 3 lost, 3 problems)"),
        ("Guess", "no_evidence", 12, "no evidence of help in 12 problems (E = 1)"),
    ],
)
def test_a_set_that_hurts_or_does_nothing_is_not_certified(
    kind: str, verdict: str, n: int, told: str, tmp_path: Path
) -> None:
    run, report, _ = trained(config_with(tmp_path, validation(kind)))
    assert report.certificate is not None
    assert (report.certificate.verdict, report.certificate.n) == (verdict, n)
    assert f"Certificate: {told}\n" in report_text(report)
    assert len(staged(run)) == 2 * (4 if n == 3 else 12)
    assert report.test is not None
    assert report.test.after.accuracy == 1.0, "the test is made whatever the certificate says"


def test_the_same_set_needs_no_problems(tmp_path: Path) -> None:
    def idle(request: ChatRequest) -> Any:
        return "dunno" if (request.conversation or "").startswith("optimizer/") else plays(request)

    run, report, _ = trained(config_with(tmp_path, validation(), trainer={"max_epochs": 1}), idle)
    assert report.certificate is not None
    assert "Certificate: same set: nothing to certify\n  compared with the untrained agent\n" in report_text(report)
    assert staged(run) == []


def test_a_start_set_is_what_the_trained_one_is_compared_with(tmp_path: Path) -> None:
    """Double is all that the training adds, and no validation problem needs it."""
    start = tmp_path / "start"
    start.mkdir()
    (start / "reverse.py").write_text(REVERSE)
    config = config_with(tmp_path, validation(), start_functions=str(start))
    run_dir = new_run(config, ao.FunctionSet.of(REVERSE))
    report = asyncio.run(train_run(config, run_dir, model=ScriptedChatModel(plays)))
    assert report.certificate is not None
    assert report.certificate.verdict == "no_evidence"
    assert "compared with the functions that the training started from on" in report.certificate.basis()
    against_none = certified(run_dir.path, against="untrained")
    assert (against_none.verdict, against_none.against, against_none.uses) == ("helps", "the untrained agent", 2)
    assert ao.load(run_dir.path).certificate == report.certificate, "the report's own certificate stays"


# Tasks with no or few validation problems


def test_a_task_without_validation_problems_has_no_certificate(tmp_path: Path) -> None:
    run, report, _ = trained(config_in(tmp_path))
    told = report_text(report)
    assert "Certificate: not possible: no validation problems, and a certificate needs at least 7 (" in told
    assert "needs at least 7 (the task has no more)\n" in told
    assert "no certificate will be possible: " in (run / "run.log").read_text().partition("step 1")[0]
    assert staged(run) == []


def test_too_few_problems_are_not_tried(tmp_path: Path) -> None:
    run, report, _ = trained(config_with(tmp_path, validation()[:6]))
    assert "not possible: 6 validation problems, and a certificate needs at least 7 (" in report_text(report)
    assert staged(run) == []


def test_no_certificate_is_made_where_none_is_wanted(tmp_path: Path) -> None:
    run, report, _ = trained(config_with(tmp_path, validation(), evaluation={"n_validation": 0}))
    assert report.certificate is None
    assert "Certificate" not in report_text(report)
    assert "certificate" not in json.loads((run / "report.json").read_text())
    assert staged(run) == []
    assert certified(run).verdict == "helps", "it can be had later"
    assert ao.load(run).certificate is not None


class Own:
    """A task given in Python whose validation problems are what ``more`` says."""

    def __init__(self, more: Callable[[int], list[Problem]]) -> None:
        self.more = more

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        if split == "validation":
            return tuple(self.more(n))
        return tuple(self.made(row) for row in rows() if row["split"] == split)[:n]

    async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> ao.Grade:
        return ao.Grade(reward=float(answer == problem.answer), reason="")

    @staticmethod
    def made(row: dict[str, Any]) -> Problem:
        return Problem(id=row["id"], question=row["question"], answer=row["answer"])


def raises(n: int) -> list[Problem]:
    return {"train": [], "test": []}["validation"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (raises, "no validation problems, and a certificate needs at least 7 (it raised KeyError)"),
        (lambda n: [], "(the task has no more)"),
        (
            lambda n: [Own.made(row) for row in rows()][:n],
            "no validation problems, and a certificate needs at least 7 (19 were used before, to train, to test or",
        ),
        (
            lambda n: [Own.made({**row, "id": old["id"]}) for row, old in zip(validation(), rows(), strict=False)][:n],
            "(12 were used before, to train, to test or to choose between sets; the task has no more",
        ),
    ],
)
def test_whatever_a_task_of_ones_own_says_the_training_ends_well(
    more: Callable[[int], list[Problem]], told: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = config_in(tmp_path).model_dump(
        include={"optimizer", "sandbox", "trainer", "concurrency"}
    )
    run = ao.train(
        Own(more),
        model=ScriptedChatModel(plays),
        n_train=12,
        n_test=7,
        run_dir=tmp_path,
        run_name="own",
        progress=False,
        **settings,
    )
    assert run.certificate is not None
    assert told in run.certificate.summary()
    assert run.accuracy is not None


def test_as_many_problems_are_found_as_there_are_and_excluded_ones_are_replaced() -> None:
    asked: list[int] = []

    class Few(Own):
        def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
            asked.append(n)
            if n > 137:
                raise ConfigError(f"there are only 137, not {n}. Ask for fewer")
            return tuple(Problem(id=str(i), question=f"question {i}", answer="") for i in range(n))

    task: Any = Few(lambda n: [])
    pool = validation_problems(task, 200, frozenset())
    assert (len(pool.problems), pool.missing) == (137, "the task has no more")
    assert len(asked) < 12
    trained_on = frozenset(content_key(f"question {i}") for i in (0, 3, 51))
    assert [each.id for each in validation_problems(task, 5, trained_on).problems] == ["1", "2", "4", "5", "6"]
    assert len(validation_problems(task, 137, trained_on).problems) == 134


def test_partial_rewards_count_by_their_sign(tmp_path: Path) -> None:
    def partial(answer: str, expected: str) -> float:
        return 0.5 if answer == expected else 0.4

    data = [{**row, "split": row.get("split")} for row in [*rows(), *validation()]]
    run = ao.train(
        ao.task(data, grader=partial, name="partial"),
        model=ScriptedChatModel(plays),
        n_train=12,
        n_test=7,
        run_dir=tmp_path,
        run_name="partial",
        progress=False,
        concurrency=4,
        optimizer={"n_samples": 1, "max_actions": 1, "max_retries": 0, "min_matches": 0},
        sandbox={"workers": 1},
    )
    assert run.accuracy is not None
    assert run.accuracy.after.value == 0.0, "no problem is solved"
    assert run.certificate is not None
    assert (run.certificate.verdict, run.certificate.gained) == ("helps", 7)


# Alpha is shared


def test_the_trainings_of_a_sweep_share_alpha(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_with(tmp_path, validation())
    (tmp_path / "base.toml").write_text(
        f'concurrency = 4\n[task]\nspec = "jsonl:{tmp_path}/problems.jsonl"\nn_train = 12\nn_test = 7\n'
        'settings = { grader = "exact" }\n[optimizer]\nn_samples = 1\nmax_actions = 1\nmax_retries = 0\n'
        "min_matches = 0\n[sandbox]\nworkers = 1\n"
    )
    (tmp_path / "grid.toml").write_text('base = "base.toml"\n[grid]\nseed = [0, 1]\n"trainer.patience" = [3, 4]\n')
    folder = tmp_path / "sweep"
    assert sweep.main([str(tmp_path / "grid.toml"), "--dir", str(folder)], model=ScriptedChatModel(plays)) == 0
    assert "Certificates: alpha 0.05 / 4 trainings" in capsys.readouterr().out
    rows_of = json.loads((folder / "table.json").read_text())["trainings"]
    assert [row["certificate"] for row in rows_of] == ["helps"] * 4
    for run in sorted(folder.glob("0*")):
        certificate = ao.load(run).certificate
        assert certificate is not None
        assert (certificate.trainings, certificate.n, certificate.level) == (4, 9, 0.05 / 4)
        assert "E >= 80 was needed (alpha 0.05 / 4 trainings)" in certificate.basis()
    orders = {tuple(lines(run / "certificates.jsonl")[-1]["problems"]) for run in folder.glob("0*")}
    assert len(orders) == 2, "the seed decides the order"


def test_another_pair_is_another_use_and_the_same_pair_is_free(
    helped: tuple[Path, Report, ScriptedChatModel], tmp_path: Path
) -> None:
    run = ao.load(helped[0]).save(tmp_path / "copy").path
    own = helped[1].certificate
    nothing = ScriptedChatModel([])
    before = (run / "certificates.jsonl").read_text()
    assert certified(run, nothing) == own
    assert certified(run, nothing, against="untrained") == own, "it started without functions"
    assert (nothing.requests, (run / "certificates.jsonl").read_text()) == ([], before)

    other = tmp_path / "other"
    config = config_with(tmp_path, validation(), run_name="other", trainer={"max_epochs": 1})
    config = config.model_copy(update={"task": config_of(run).task})
    trained(config)
    against = certified(run, against=other)
    assert (against.against, against.uses, against.level) == ("run other", 2, 0.025)
    assert against.verdict in ("helps", "no_evidence")
    assert "alpha 0.05 / 2 uses of these problems" in against.basis()
    assert certified(run, nothing, against=other) == against
    assert certified(run, nothing) == own
    again = certified(run, against=other, alpha=0.2)
    assert (again.uses, again.level) == (2, 0.1)
    assert ao.load(run).certificate == own


def test_problems_by_which_a_set_was_chosen_do_not_certify_it(
    helped: tuple[Path, Report, ScriptedChatModel], tmp_path: Path
) -> None:
    """As after pruning by validation problems: the pruned set is not certified on these."""
    run = ao.load(helped[0]).save(tmp_path / "copy").path
    run_dir = RunDir(run)
    rolled = [row for row in run_dir.rollouts() if str(row.stage) == "validation after"][:6]
    for row in rolled:
        run_dir.keep(row.trajectory.model_copy(update={"functions": "without double"}), row.stage)
    run_dir.keep_state(run_dir.resume().model_copy(update={"functions": ao.FunctionSet.of(REVERSE)}))
    run_dir.close()
    pruned = certified(run)
    assert "not possible: 6 validation problems, and a certificate needs at least 8 (6 were used before" in str(pruned)
    left = {row.trajectory.problem_id for row in rolled}
    whole = certified(run, n=12, alpha=0.4)
    assert (whole.verdict, whole.uses) == ("helps", 2)
    assert left.isdisjoint(lines(run / "certificates.jsonl")[-1]["problems"])


def config_of(run: Path) -> RunConfig:
    return RunConfig.model_validate_json((run / "config.json").read_text())


def test_more_problems_continue_where_fewer_ended(tmp_path: Path) -> None:
    run, report, _ = trained(config_with(tmp_path, validation("Guess"), evaluation={"n_validation": 8}))
    assert report.certificate is not None
    assert (report.certificate.verdict, report.certificate.n) == ("no_evidence", 8)
    first = lines(run / "certificates.jsonl")[-1]["problems"]
    more = certified(run, n=11)
    assert (more.n, more.uses) == (11, 1)
    later = lines(run / "certificates.jsonl")[-1]["problems"]
    assert (later[:8], len(later)) == (first, 11)
    assert certified(run, ScriptedChatModel([]), n=9).n == 9
    assert "not possible: 3 validation problems, and a certificate needs at least 7 (3 were allowed" in str(
        certified(run, n=3)
    )


# Interrupted


@pytest.mark.parametrize("nth", [1, 5, 11])
def test_an_interrupted_certificate_is_continued(
    nth: int, helped: tuple[Path, Report, ScriptedChatModel], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = 0

    def dies(request: ChatRequest) -> Any:
        nonlocal asked
        asked += any(f": {word}" in request.model_dump_json() for word in WORDS)
        return EngineDeadError("the engine is gone") if asked >= nth else plays(request)

    with pytest.raises(EngineDeadError):
        trained(config_with(tmp_path, validation()), dies)
    assert not (run / "report.json").exists()
    [begun] = lines(run / "certificates.jsonl")
    assert (begun["certificate"], begun["use"]) == (None, 1)
    with (run / "certificates.jsonl").open("a") as file:
        file.write('{"functions": "torn')
    model = ScriptedChatModel(plays)
    config, run_dir = reopen(run, model=model)
    report = asyncio.run(train_run(config, run_dir, model=model))
    assert report.certificate == helped[1].certificate
    keys = [(row["functions"], row["problem_id"], row["seed"]) for row in lines(run / "rollouts.jsonl")]
    assert len(keys) == len(set(keys)), "no rollout is repeated"
    assert lines(run / "certificates.jsonl")[-1]["problems"] == begun["problems"]
    assert len(staged(run)) == 16


# Mistakes


def test_runs_that_cannot_be_compared_are_told(
    helped: tuple[Path, Report, ScriptedChatModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = helped[0]
    model, task = config_in(tmp_path), config_of(run).task
    for name, values in {
        "model": {"task": task, "model": model.model.model_copy(update={"name": "another"})},
        "task": {},
    }.items():
        new_run(model.model_copy(update={"run_name": name, **values})).close()
    for arguments, told in {
        ("--n", "0"): "--n 0: certify on at least one problem",
        ("--alpha", "1"): "--alpha 1: it must be 1e-09 or more, and below 1, such as 0.05",
        ("--against", str(run)): "is the run itself; name another run, or 'untrained'",
        ("--against", str(tmp_path / "model")): "model: model.name = 'another', but",
        ("--against", str(tmp_path / "task")): "so name a run of the same task and model",
        ("--against", str(tmp_path)): "is not a run folder",
    }.items():
        assert main(["certify", str(run), *arguments]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "Traceback" not in error
        assert "To continue" not in error
    assert main(["certify", str(tmp_path / "nowhere")]) == 2
    with pytest.raises(ConfigError, match=r"ao\.certify: alpha 2: it must be 1e-09 or more"):
        ao.certify(run, alpha=2)
    with pytest.raises(RunDirError):
        check_certificate(run, against=tmp_path, n=None, alpha=None)


def test_settings_of_the_agent_that_differ_are_declared(
    helped: tuple[Path, Report, ScriptedChatModel], tmp_path: Path
) -> None:
    run = ao.load(helped[0]).save(tmp_path / "copy").path
    config = config_in(tmp_path, agent={"max_turns": 9}, run_name="other")
    other = new_run(config.model_copy(update={"task": config_of(run).task}))
    other.keep_state(ao_state(DOUBLE))
    other.close()
    certificate = certified(run, against=other.path)
    assert certificate.note == "both with the settings of copy, from which those of other differ in agent.max_turns"
    assert certificate.basis().endswith(certificate.note)


def ao_state(*sources: str) -> Any:
    from agentopt_local.train_state import TrainState

    return TrainState(functions=ao.FunctionSet.of(*sources), step=1, accepted=1)


# The command and the page


def test_the_command_certifies_a_run(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    splits = {"train": ["ab", "cd", "tree", "house"], "test": ["xy", "garden"], "validation": WORDS}
    problems = tmp_path / "shouting.jsonl"
    problems.write_text(
        "".join(
            json.dumps({"question": f"Shout: {word}", "answer": word.upper(), "split": split, "grader": "exact"}) + "\n"
            for split, words in splits.items()
            for word in words
        )
    )
    config = tmp_path / "run.toml"
    config.write_text(
        f'run_dir = "{tmp_path}"\nrun_name = "run"\n[task]\nspec = "jsonl:{problems}"\nn_train = 4\nn_test = 2\n'
        f'[model]\nname = "small"\nbase_url = "{endpoint}"\nstructured = "none"\n[agent]\nconstrain = false\n'
        "[optimizer]\nn_samples = 1\nmax_actions = 1\nmax_retries = 0\n[sandbox]\nworkers = 1\n"
    )
    assert main(["train", str(config), "--evaluation.n_validation", "0"]) == 0, capsys.readouterr().err
    assert "Certificate" not in capsys.readouterr().out
    run = tmp_path / "run"
    assert main(["certify", str(run), "--n", "12"]) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert told.out.startswith("Certificate: certified: helps (E = 31.9, 7 problems)\n  compared with the untrained")
    assert told.out.endswith(f"{run}\n")
    assert "validation after" in told.err
    assert main(["show", str(run)]) == 0
    assert "Certificate: certified: helps" in capsys.readouterr().err


def test_exports_and_reports_carry_it(helped: tuple[Path, Report, ScriptedChatModel], tmp_path: Path) -> None:
    from agentopt_local.reporting.data import run_page
    from agentopt_local.run.reader import read_run

    run, report, _ = helped
    package = ao.load(run).export("python", tmp_path / "tools")
    assert (
        "| certificate | certified: helps (E = 31.9, 7 problems); compared with" in (package / "README.md").read_text()
    )
    [row] = run_page(read_run(run)).summary["certificates"]
    assert (row["verdict"], row["summary"], row["needed"]) == ("helps", report.certificate.summary(), 20)  # type: ignore[union-attr]
    parts = {part["part"]: part["rollouts"] for part in run_page(read_run(run)).summary["usage"]}
    assert parts["validation rollouts"] == 16
    copy = ao.load(run).save(tmp_path / "copy").path
    (copy / "certificates.jsonl").write_text("{}\n")
    notes = read_run(copy).notes
    assert any("certificates.jsonl, line 1 cannot be read" in note for note in notes)
    RunDir(copy).close()
