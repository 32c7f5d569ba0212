"""Run folders from elsewhere: every command opens them as data, follows no link, and says in a line what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agentopt_local as ao
from agentopt_local.errors import AgentOptError, RunDirError
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.run import parsing
from agentopt_local.run.reader import read_run
from agentopt_local.run.writer import RunDir
from benchmarks import scripted
from ray_jobs import lifecycle
from ray_jobs.cli import main
from ray_jobs.commands import watch
from ray_jobs.config import build
from ray_jobs.runs import new_run
from ray_jobs.training import train

pytestmark = pytest.mark.usefixtures("stop_watching")

SECRET = "what no run may read or change"
ESCAPES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
Op = Callable[[Path], object]


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a file of every kind: certificate, credit, noise floor, baselines, looks."""
    folder = tmp_path_factory.mktemp("rich")
    words = ["apple", "river", "stone", "cloud", "grass", "bread"]
    more = [
        {
            "id": f"v-{word}",
            "kind": "reverse",
            "question": f"Reverse: {word}",
            "answer": word[::-1],
            "split": "validation",
        }
        for word in words
    ]
    problems = folder / "rows.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in [*scripted.rows(), *more]))
    values: dict[str, Any] = {
        "task": {"spec": f"jsonl:{problems}", "n_train": 12, "n_test": 7, "settings": {"grader": "exact"}},
        "run_dir": str(folder),
        "run_name": "run",
        "concurrency": 4,
        "model": {"name": "python:scripted"},
        "optimizer": {"n_samples": 1, "max_actions": 1, "max_retries": 0, "min_matches": 0},
        "sandbox": {"workers": 1},
        "trainer": {"max_epochs": 6},
        "evaluation": {"credit": "measure", "n_validation": 6, "baselines": ["placebo", "one_shot"]},
    }
    config = build(values, "test")
    run_dir = new_run(config)
    asyncio.run(train(config, run_dir, model=ScriptedChatModel(scripted.brain)))
    (run_dir.path / "run.log").write_text("")
    run_dir.close()
    return run_dir.path


@pytest.fixture
def run(rich: Path, tmp_path: Path) -> Path:
    shutil.copytree(rich, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of the user's, beside the run."""
    path = tmp_path / "mine"
    path.write_text(SECRET)
    return path


# The commands, each as a function of the run's folder


def command(*words: str) -> Op:
    def run_it(run: Path) -> None:
        filled = [word.replace("RUN", str(run)).replace("OUT", str(run.parent / "out")) for word in words]
        assert main(filled) in (0, 1, 2)

    return run_it


def in_python(run: Path) -> None:
    opened = ao.load(run)
    for name in (
        "functions",
        "report",
        "credit",
        "certificate",
        "accuracy",
        "settings",
        "curve",
        "rollouts",
        "problems",
    ):
        with contextlib.suppress(AgentOptError):
            str(getattr(opened, name))
    with contextlib.suppress(AgentOptError):
        repr(opened)
    opened.save(run.parent / "saved")


def answer(run: Path) -> None:
    with ao.load(run).agent(model=ScriptedChatModel(scripted.brain), progress=False) as agent:
        agent.solve("Reverse: cat")


def job(name: str) -> Op:
    def run_it(run: Path) -> None:
        model = ScriptedChatModel(scripted.brain)
        config, run_dir = lifecycle.reopen(run, model=model)
        try:
            if config.trainer.max_epochs > 6 or config.task.n_train > 12 or config.task.n_test > 7:
                return  # a long training, as its settings say
            asyncio.run(
                {
                    "resume": lambda: lifecycle.train_run(config, run_dir, model=model),
                    "evaluate": lambda: lifecycle.evaluate_run(config, run_dir, split="test", n=7, model=model),
                    "certify": lambda: lifecycle.certify_run(config, run_dir, model=model),
                    "credit": lambda: lifecycle.credit_run(config, run_dir, model=model),
                    "prune": lambda: lifecycle.credit_run(config, run_dir, prune=True, model=model),
                }[name]()
            )
        finally:
            run_dir.close()

    return run_it


VIEWERS: dict[str, Op] = {
    "show": command("show", "RUN"),
    "show --diff": command("show", "RUN", "--diff"),
    "report": command("report", "RUN"),
    "watch": command("watch", "RUN"),
    "compare": command("report", "RUN", "RUN/../other", "--output", "OUT.html"),
    "export openai": command("export", "RUN", "--format", "openai", "--output", "OUT.json"),
    "export mcp": command("export", "RUN", "--format", "mcp", "--output", "OUT.json"),
    "export inspect": command("export", "RUN", "--format", "inspect", "--output", "OUT.inspect"),
    "ask": command("ask", "RUN", "question"),
    "resume command": command("resume", "RUN"),
    "evaluate command": command("evaluate", "RUN"),
    "certify command": command("certify", "RUN", "--against", "RUN/../other"),
    "credit command": command("credit", "RUN"),
    "trust": command("trust", "RUN"),
    "ao.load": in_python,
}
JOBS: dict[str, Op] = {name: job(name) for name in ("resume", "evaluate", "certify", "credit", "prune")}
SANDBOXED: dict[str, Op] = {
    "export python": command("export", "RUN", "--format", "python", "--output", "OUT"),
    "import": command("import", "RUN", "--output", "OUT"),
    "agent": answer,
}


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """A hang fails the test."""

    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def stop_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    """``watch`` ends where it would wait for more."""

    class Clock:
        @staticmethod
        def sleep(seconds: float) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch, "time", Clock)


def check(name: str, op: Op, run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run ``op``; what it said. Anything but an error of this package fails, and so does a hang or an escape."""
    said = ""
    with at_most(60):
        try:
            op(run)
        except AgentOptError as error:
            said = str(error)
    shown = "".join(capsys.readouterr())
    assert not ESCAPES.search(shown), name
    assert SECRET not in shown + said, name
    return shown + said


# Links (DEFECTS 6)

FILES = (
    ".lock", "certificates.jsonl", "config.json", "costs.jsonl", "credit.json", "looks.jsonl", "meta.json",
    "metrics.jsonl", "problems.jsonl", "proposals.jsonl", "report.json", "rollouts.jsonl", "run.log", "state.json",
    "steps.jsonl", "test_set.json", "functions/0001/reverse.py", "report.html", "report.validation.json",
    "task_rows.jsonl",
)  # fmt: skip
TEMPORARY = (".report.html.new", ".state.json.new", ".config.json.new")


@pytest.mark.parametrize("name", [*FILES, *TEMPORARY, "functions", "functions/0001", "tensorboard"])
def test_no_link_is_followed(name: str, run: Path, mine: Path, rich: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = mine
    place = run / name
    if name in ("functions", "functions/0001", "tensorboard"):
        victim = mine.with_name("folder")
        shutil.copytree(place, victim) if place.exists() else victim.mkdir()
        (victim / "mine.py").write_text(SECRET)
        shutil.rmtree(place, ignore_errors=True)
    elif place.exists():
        place.unlink()
    place.symlink_to(victim)
    shutil.copytree(rich, run.parent / "other")
    before = {each: each.read_bytes() for each in sorted(victim.rglob("*")) if each.is_file()}
    for each, op in {**VIEWERS, **JOBS}.items():
        if name in TEMPORARY and each not in ("report", "resume", "evaluate"):
            continue
        said = check(each, op, run, capsys)
        if name not in TEMPORARY:
            assert "is a link" in said, each
    assert mine.read_text() == SECRET
    assert {each: each.read_bytes() for each in sorted(victim.rglob("*")) if each.is_file()} == before
    for written in (run / "report.html", run.parent / "out.html"):
        if written.is_file() and not written.is_symlink():
            assert SECRET not in written.read_text()


def test_a_link_that_appears_later_is_not_followed(run: Path, mine: Path) -> None:
    """After the folder was opened."""
    run_dir = RunDir(run)
    try:
        for name in ("state.json", "meta.json", "credit.json"):
            (run / name).unlink()
            (run / name).symlink_to(mine)
        for name in (".state.json.new", "looks.jsonl"):
            (run / name).unlink(missing_ok=True)
            (run / name).symlink_to(mine)
        with pytest.raises(RunDirError, match="is a link"):
            run_dir.resume()
        run_dir.write_meta({"a": 1})
        with pytest.raises(RunDirError, match="is a link"):
            run_dir.keep_look("f", run_dir_change())
        shutil.rmtree(run / "functions")
        (mine.with_name("folder") / "0005").mkdir(parents=True)
        (run / "functions").symlink_to(mine.with_name("folder"))
        with pytest.raises(RunDirError, match="cannot be written"):
            run_dir.keep_functions(5, ao.FunctionSet.of(scripted.DOUBLE))
    finally:
        run_dir.close()
    assert mine.read_text() == SECRET
    assert [each.name for each in mine.with_name("folder").rglob("*")] == ["0005"]


def run_dir_change() -> Any:
    from agentopt_local.statistics import paired_difference

    return paired_difference([True], [False])


def test_a_file_with_a_second_name_is_not_appended_to(run: Path, tmp_path: Path) -> None:
    """``cp -al`` of a run, or somebody's hard link."""
    os.link(run / "rollouts.jsonl", tmp_path / "mine")
    before = (tmp_path / "mine").read_bytes()
    run_dir = RunDir(run)
    try:
        row = next(run_dir.rollouts())
        with pytest.raises(RunDirError, match="hard link"):
            run_dir.keep(row.trajectory, row.stage)
    finally:
        run_dir.close()
    assert (tmp_path / "mine").read_bytes() == before


def test_a_run_that_is_reached_by_a_link_is_opened(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latest = run.with_name("latest")
    latest.symlink_to(run)
    (run / "notes").mkdir()
    (run / "notes" / "link").symlink_to(run)  # what is not ours is left alone
    (run / "plot.png").symlink_to("elsewhere.png")
    assert main(["show", str(latest)]) == 0
    assert main(["report", str(latest)]) == 0
    ao.load(latest).save(run.with_name("copy"))
    assert (run.with_name("copy") / "plot.png").is_symlink(), "and not copied as what it points to"


# Pipes, devices, folders, sizes and depths (DEFECTS 10, 13)

ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "terabyte": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    "deep list": lambda path: path.write_text("[" * 200_000),
    "deep object": lambda path: path.write_text('{"a":' * 200_000 + "\n"),
    "endless number": lambda path: path.write_text('{"step": ' + "9" * 20_000 + "}\n"),
    "infinite": lambda path: path.write_text('{"step": 1e999, "seconds": NaN}\n'),
    "zeros": lambda path: path.write_bytes(b"\0" * 5000),
    "not UTF-8": lambda path: path.write_bytes(b'{"a": "\xff\xfe"}\n'),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text('"text"\n'),
    "null": lambda path: path.write_text("null\n"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", FILES)
def test_whatever_is_at_a_name_there_is_one_line(
    name: str, kind: str, run: Path, rich: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = run / name
    place.unlink(missing_ok=True)
    ODD[kind](place)
    (run.parent / "other").symlink_to(rich)
    turn = FILES.index(name) + list(ODD).index(kind)
    for each in {"report", list(VIEWERS)[turn % len(VIEWERS)], list(VIEWERS)[(turn * 5 + 2) % len(VIEWERS)]}:
        check(each, VIEWERS[each], run, capsys)
    if kind == "pipe":
        said = check("report", VIEWERS["report"], run, capsys)
        assert f"agentopt: {place}: it is a pipe, not a file" in said


def test_step_folders_with_odd_names_are_passed_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1²", "٣", "9" * 200, "x", "0001.old"):
        (run / "functions" / name).mkdir()
    assert main(["show", str(run), "--diff"]) == 0
    assert main(["report", str(run)]) == 0


WEIRD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, -1e308, 10**30, 10**400, 2**63 - 1, -(2**63), "", "x", "\x1b[2J\u202e", "\ud800",
    "a\0b", "x" * 5000, [], {}, [[]], [1, "a", None], {"a": {"b": [1]}}, float("inf"), float("nan"), "9" * 5000,
)  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def changed(rng: random.Random, value: Any) -> Any:
    """``value`` with one place changed."""
    path = rng.choice(list(places(value)))
    new = rng.choice([*WEIRD, nested(120), nested(280), nested(400)])
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    how = rng.choice(["set", "set", "set", "drop", "wrap", "rename"])
    if how == "drop":
        inner.pop(path[-1])
    elif how == "rename" and isinstance(inner, dict):
        inner[rng.choice(["\x1b[31m", "extra", "\ud800", "", "x" * 300])] = inner.pop(path[-1])
    else:
        inner[path[-1]] = [inner[path[-1]]] if how == "wrap" else new
    return value


def tampered(rng: random.Random, run: Path) -> str:
    """Change one file of ``run``; what was done."""
    path = rng.choice(sorted(each for each in run.rglob("*") if each.is_file() and "tensorboard" not in each.parts))
    data = path.read_bytes()
    how = rng.choice(["value"] * 8 + ["cut", "bytes", "twice"])
    if how == "value" and path.suffix in (".json", ".jsonl") and data:
        lines = [data] if path.suffix == ".json" else data.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(changed(rng, json.loads(lines[at]))).encode()
        data = b"\n".join(lines) + b"\n"
    elif how == "cut":
        data = data[: rng.randrange(len(data) + 1)]
    elif how == "twice":
        data *= 2
    elif data:
        some = bytearray(data)
        for _ in range(rng.choice([1, 5, 50])):
            some[rng.randrange(len(some))] = rng.randrange(256)
        data = bytes(some)
    path.write_bytes(data)
    return f"{path.name}: {how}"


@pytest.mark.parametrize("seed", range(24))
def test_tampering_gives_a_line_and_no_traceback(
    seed: int, run: Path, rich: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    tampered(rng, run)
    (run.parent / "other").symlink_to(rich)
    for each, op in VIEWERS.items():
        check(each, op, run, capsys)
    for each in rng.sample(sorted({**JOBS, **SANDBOXED}), 1):
        check(each, {**JOBS, **SANDBOXED}[each], run, capsys)


MOST = 2**63 - 1
NUMBERS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "fewer than no problems": ("steps.jsonl", lambda row: row["before"].update(n=-3)),
    "more solved than there are": ("report.json", lambda row: row["test"]["kinds"]["reverse"].update(n=0, before=5)),
    "no use": ("certificates.jsonl", lambda row: row["certificate"].update(uses=0)),
    "no alpha": ("certificates.jsonl", lambda row: row["certificate"].update(alpha=0.0)),
    "use": ("certificates.jsonl", lambda row: row.update(use=-5)),
    "time": ("metrics.jsonl", lambda row: row.update(time=1e300, seconds=1e300)),
    "sums of costs": ("costs.jsonl", lambda row: row["usage"].update(prompt_tokens=MOST, completion_tokens=MOST)),
    "sums of rollouts": ("rollouts.jsonl", lambda row: row["usage"].update(prompt_tokens=MOST, cached_tokens=MOST)),
    "no date": ("meta.json", lambda row: row.update(started="yesterday")),
    "last date": ("meta.json", lambda row: row.update(started="9999-12-31T23:59:59-23:59")),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_cannot_be_are_left_out(
    case: str, run: Path, rich: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row by itself has numbers of the right type; what is computed with them would fail."""
    name, change = NUMBERS[case]
    lines = (run / name).read_text().splitlines() if name.endswith("l") else [(run / name).read_text()]
    row = json.loads(lines[-1])
    change(row)
    lines[-1] = json.dumps(row)
    (run / name).write_text("\n".join(lines) + "\n")
    (run.parent / "other").symlink_to(rich)
    for each, op in {**VIEWERS, "resume": JOBS["resume"]}.items():
        check(each, op, run, capsys)


def test_a_file_of_wrong_rows_is_not_read_to_its_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MAX_WRONG", 10)
    good = (run / "steps.jsonl").read_bytes().splitlines(keepends=True)[0]
    for wrong, seen, said in ((10, 2, "line 2 and 9 more"), (11, 1, "line 2 and 10 more, and all after them,")):
        (run / "steps.jsonl").write_bytes(good + b"\n" * wrong + good)
        found = read_run(run)
        assert len(found.steps) == seen
        assert [note for note in found.notes if f"steps.jsonl, {said} cannot be read" in note]


# What a run's text does on a terminal and on a page (DEFECTS 11)


def test_no_text_of_a_run_controls_a_terminal(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;x\x07\x9b2J\r\u202e[/red][bold]"
    for path in sorted(run.glob("*.json*")):
        text = path.read_text().replace("reverse", json.dumps(f"reverse{hostile}")[1:-1])
        path.write_text(text.replace("Reverse", json.dumps(f"Reverse{hostile}")[1:-1]))
    odd = run.with_name(f"run{hostile.replace('/', '')}")
    run.rename(odd)
    shutil.copytree(odd, tmp_path / "other")
    for each, op in VIEWERS.items():
        check(each, op, odd, capsys)
    page = (odd / "report.html").read_text() + (tmp_path / "out.html").read_text()
    assert not ESCAPES.search(page)
    assert not re.search(r"\\u(001b|009b|202e)", page)


def test_progress_with_the_marks_of_a_console_is_drawn_as_text() -> None:
    from rich.console import Console

    from agentopt_local.stage import Stage
    from ray_jobs.terminal.display import Display

    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    display = Display(console)
    with display.live():
        display.on_progress(Stage(part="[/x] \x1b]0;t\x07"), 0, 3)
        console.print(display.bars)
    shown = console.file.getvalue()
    assert "[/x] \ufffd]0;t\ufffd" in shown


def test_messages_of_the_parser_and_warnings_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "run", "--format", "\x1b[2J"])
    with pytest.raises(SystemExit):
        main(["\x1b[2J"])
    main(["show", "--\x1b[2J", "x"])
    shown = "".join(capsys.readouterr())
    assert "invalid choice" in shown
    assert "\x1b" not in shown
    assert logging.lastResort is not None  # prints warnings where no run is logged
    record = logging.LogRecord("agentopt_local", logging.WARNING, "f", 1, "\x1b[2J", (), None)
    assert logging.lastResort.format(record) == "\ufffd[2J"


def test_the_log_of_a_run_is_printable(run: Path) -> None:
    from ray_jobs.terminal.run_log import log_to, stop_logging

    handler = log_to(run / "run.log")
    logging.getLogger("agentopt_local.test").warning("said \x1b[2J")
    stop_logging(handler)
    assert (run / "run.log").read_text().endswith("said \ufffd[2J\n")


# What the settings of a run reach (DEFECTS 10, 14)

REACHING: dict[str, tuple[str, dict[str, Any]]] = {
    "endpoint": ("model.base_url", {"model": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "HOME"}}),
    "optimizer": ("optimizer_model.base_url", {"optimizer_model": {"name": "x", "base_url": "https://example.org/v1"}}),
    "weak sandbox": ("sandbox.allow_weak", {"sandbox": {"allow_weak": True}}),
    "remote code": ("engine.trust_remote_code", {"engine": {"trust_remote_code": True}}),
    "vLLM": ("engine.vllm", {"engine": {"vllm": {"worker_cls": "evil.Worker"}}}),
    "cluster": ("ray.address", {"ray": {"address": "ray://example.org:10001"}}),
    "grader": ("task.settings.grader", {"task": {"settings": {"grader": "named_by_the_run:grade"}}}),
}
USING: dict[str, tuple[str, ...]] = {
    "resume": ("resume", "RUN"),
    "evaluate": ("evaluate", "RUN"),
    "certify": ("certify", "RUN"),
    "credit": ("credit", "RUN"),
    "ask": ("ask", "RUN", "question"),
    "serve-mcp": ("serve-mcp", "RUN"),
    "export": ("export", "RUN", "--format", "python", "--output", "OUT"),
}


def set_in(run: Path, values: dict[str, Any]) -> None:
    config = json.loads((run / "config.json").read_text())
    for table, keys in values.items():
        config[table] = {**(config[table] or {}), **keys}
    (run / "config.json").write_text(json.dumps(config))


@pytest.fixture
def no_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_by_the_run.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("how", REACHING)
@pytest.mark.usefixtures("no_import")
def test_settings_of_a_run_from_elsewhere_are_asked_about_once(
    how: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(run.parent / "state"))
    key, values = REACHING[how]
    set_in(run, values)
    table = key.partition(".")[0]
    using = ["resume", "evaluate", "certify", "credit"]
    using += ["ask"] if table in ("model", "engine", "sandbox", "ray") else []
    using += ["serve-mcp", "export"] if table == "sandbox" else []
    for name in using:
        said = check(name, refused(*USING[name]), run, capsys)
        assert "was not started by you on this machine" in said, name
        assert f"{key} = " in said, name
        assert f"agentopt trust {run}" in said, name
    with pytest.raises(AgentOptError, match="was not started by you"):
        ao.resume(run, progress=False)
    assert f"{key} = " in check("trust", command("trust", "RUN"), run, capsys)
    for name in ("evaluate", "ask"):
        if how != "grader":
            said = check(name, command(*USING[name]), run, capsys)
            assert "was not started by you" not in said, name


def refused(*words: str) -> Op:
    def run_it(run: Path) -> None:
        filled = [word.replace("RUN", str(run)).replace("OUT", str(run.parent / "out")) for word in words]
        assert main(filled) == 2

    return run_it


@pytest.mark.usefixtures("no_import")
def test_viewers_import_and_ask_nothing(run: Path, rich: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _, values in REACHING.values():
        set_in(run, values)
    (run.parent / "other").symlink_to(rich)
    for name in ("show", "show --diff", "report", "watch", "compare", "export openai", "export mcp", "ao.load"):
        assert "was not started" not in check(name, VIEWERS[name], run, capsys)
    with pytest.raises(SystemExit, match="0"):
        main(["credit", "--help"])


def test_what_the_user_started_or_gives_now_needs_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "name": "x", "api_key_env": "NO_SUCH_KEY"}
    values = {"task": {"spec": "reasoning_gym:spell_backward"}, "run_dir": str(tmp_path), "run_name": "own"}
    new_run(build({**values, "model": endpoint}, "test")).close()
    set_in(run, {"model": endpoint})
    assert "was not started" not in check("evaluate", command("evaluate", "RUN"), run, capsys)  # the same endpoint
    set_in(run, {"model": {"base_url": "http://127.0.0.1:8/v1"}})
    assert "was not started" in check("ask", command("ask", "RUN", "q"), run, capsys)
    own = command("ask", "RUN", "q", "--model.base_url", "http://127.0.0.1:7/v1", "--model.max_retries", "0")
    assert "was not started" not in check("ask", own, run, capsys)
    with pytest.raises(AgentOptError, match="was not started"):
        ao.load(run).agent()
    answer(run)  # with a model of one's own


def test_a_file_of_agreements_that_others_can_write_counts_for_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = run.parent / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    set_in(run, REACHING["endpoint"][1])
    assert main(["trust", str(run)]) == 0
    assert "was not started" not in check("ask", command("ask", "RUN", "q"), run, capsys)
    (state / "agentopt-local").chmod(0o777)
    assert "was not started" in check("ask", command("ask", "RUN", "q"), run, capsys)
    assert main(["trust", str(run)]) == 2
