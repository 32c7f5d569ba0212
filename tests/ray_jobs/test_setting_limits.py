"""Settings from elsewhere: numbers have limits, and no file stalls or breaks its reader (DEFECTS 13)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from agentopt_local.errors import ConfigError
from ray_jobs.cli import main
from ray_jobs.config import RunConfig, load_config
from ray_jobs.grid import load_sweep
from ray_jobs.toml_values import table, toml_value

TASK = '[task]\nspec = "reasoning_gym:spell_backward"\n'
HUGE = ("inf", "-inf", "nan", "1e999", "1" + "0" * 30, "-1" + "0" * 30, "0x1" + "0" * 5000, "9" * 5000)


def kinds(annotation: Any) -> set[Any]:
    return {annotation}.union(*(kinds(each) for each in get_args(annotation)))


def numbers(record: Any = RunConfig, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings that take a number."""
    for name, field in record.model_fields.items():
        if (inner := table(field.annotation)) is not None:
            yield from numbers(inner, f"{prefix}{name}.")
        elif kinds(field.annotation) & {int, float}:
            yield f"{prefix}{name}"


NUMBERS = tuple(numbers())


def written(path: Path, key: str, value: str) -> Path:
    section, _, last = key.rpartition(".")
    if section == "task":
        path.write_text(f"{TASK}{last} = {value}\n")
    else:
        path.write_text(f"{last} = {value}\n{TASK}" if not section else f"{TASK}[{section}]\n{last} = {value}\n")
    return path


def test_all_sections_have_numbers() -> None:
    assert {"seed", "sandbox.timeout_s", "model.prices.input", "engine.kv_cache_gib", "budget.max_cost"} <= set(NUMBERS)
    assert len(NUMBERS) > 70


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_without_bounds(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in HUGE:
        path = written(tmp_path / "a.toml", key, value)
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        said = str(caught.value)
        assert str(path) in said
        assert len(said) < 1500
        if not value.startswith("9"):  # which is not even TOML
            assert key in said, said
        assert main(["train", str(path)]) == 2
    for value in ("inf", "nan", "1e999", "1" + "0" * 30, "9" * 5000):
        with pytest.raises(ConfigError, match=f"--{key}"):
            load_config(written(tmp_path / "b.toml", "seed", "1"), [f"--{key}", value])
    capsys.readouterr()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sandbox.timeout_s", "1e8"),
        ("agent.timeout_s", "1e300"),
        ("sandbox.memory_bytes", str(1 << 62)),
        ("sandbox.workers", "1000000"),
        ("task.n_train", "1000000000000"),
        ("task.n_test", "1000000000000"),
        ("optimizer.n_samples", "1000000000"),
        ("model.max_retries", "2000"),
        ("model.prices.output", "1e300"),
        ("model.requests_per_minute", "1e-320"),
        ("evaluation.alpha", "1e-320"),
        ("trainer.gate_alpha", "5e-324"),
    ],
)
def test_numbers_that_nothing_could_follow_are_refused(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_config(written(tmp_path / "a.toml", key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [("sandbox.timeout_s", "86400"), ("seed", "-1"), ("task.seed", str(2**62)), ("optimizer.n_samples", "64")],
)
def test_unusual_numbers_that_work_are_kept(key: str, value: str, tmp_path: Path) -> None:
    load_config(written(tmp_path / "a.toml", key, value))


@pytest.mark.parametrize("value", ["inf", "[nan]", "{b = 0x1" + "0" * 5000 + "}"])
@pytest.mark.parametrize("key", ["task.settings.a", "engine.vllm.a", "engine.speculative_config.a"])
def test_numbers_in_open_tables_are_finite_too(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key.rpartition(".")[0].replace(".", r"\.")):
        load_config(written(tmp_path / "a.toml", key, value))


# Files


N = 1 << 20
HOSTILE = {
    "dotted key": ".".join("a" for _ in range(N // 2)) + " = 1",
    "quoted parts": ".".join("'a'" for _ in range(N // 5)) + " = 1",
    "dotted header": "[" + ".".join("a" for _ in range(N // 3)) + "]",
    "dotted inline": "x = {" + ".".join("a" for _ in range(N // 3)) + " = 1}",
    "lists": "a = " + "[" * (N - 4),
    "tables": "a = " + "{a=" * (N // 3 - 4),
    "long number": "seed = " + "9" * (N - 10),
    "long key": "a" * (N - 10) + " = 1",
    "long text": 'run_dir = 3\nseed = "' + "x" * (N - 100) + '"',
    "quotes": '"' * N,
    "nulls": "\0" * N,
    "too long": "#" * (N + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_settings_file_stalls_or_breaks_the_reader(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(HOSTILE[name])
    started = time.thread_time()
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    with pytest.raises(ConfigError):
        load_sweep(path)
    assert len(str(caught.value)) < 5000
    assert time.thread_time() - started < 30, "a generous bound: an hour otherwise"


def test_dots_in_text_are_no_key(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f'run_dir = """{"." * 500}{"a." * 63}"""\n{TASK}')
    assert load_config(path).run_dir.startswith("...")


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "itself": lambda path: path.symlink_to(path),
    "terabyte": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    "not UTF-8": lambda path: path.write_bytes(b"\xff"),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", ODD)
def test_whatever_is_named_as_settings_there_is_one_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.toml"
    ODD[kind](path)
    assert main(["train", str(path)]) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert str(path) in said
    with pytest.raises(ConfigError, match=r"a\.toml"):
        load_sweep(path)


@pytest.mark.parametrize("kind", ["pipe", "device", "terabyte", "not UTF-8", "nothing"])
@pytest.mark.parametrize("command", ["jsonl", "template", "math", "grade", "start_functions", "home"])
def test_whatever_a_setting_names_there_is_one_line(
    kind: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, path = tmp_path / "odd", tmp_path / "a.toml"
    if command == "math":
        odd.mkdir()
        ODD[kind](odd / "train.jsonl")
        (odd / "test.jsonl").write_text("{}")
    elif command != "start_functions":
        ODD[kind](odd)
    spec = {"jsonl": f"jsonl:{odd}", "math": f"math:{odd}", "home": "jsonl:~nobody-here/x"}.get(command, "python:x")
    model = (
        f'[model]\nchat_template = "{odd}"\n' if command == "template" else '[model]\nbase_url = "http://127.0.0.1:9"\n'
    )
    start = 'start_functions = "~nobody-here/x"\n' if command == "start_functions" else ""
    path.write_text(f'{start}[task]\nspec = "{spec}"\n{model}')
    words = ["grade", "math", str(odd)] if command == "grade" else ["train", str(path), "--run_dir", str(tmp_path)]
    code = main(words)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert code == (0 if command == "grade" and kind == "not UTF-8" else 2)


def test_a_grid_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(TASK)
    path = tmp_path / "sweep.toml"
    values = ", ".join(map(str, range(100)))
    keys = ("seed", "task.seed", "trainer.patience", "agent.max_turns", "optimizer.n_samples")
    path.write_text('base = "base.toml"\n[grid]\n' + "".join(f'"{key}" = [{values}]\n' for key in keys))
    with pytest.raises(ConfigError, match="10000000000 combinations"):
        load_sweep(path)


def test_command_line_values_that_are_not_toml_are_text() -> None:
    for text in ("[" * 5000, "9" * 5000, "{a=" * 5000, ".".join("a" * 200)):
        assert toml_value(text) == text
    assert toml_value("[1, 2]") == [1, 2]
    assert toml_value("1\nw = 2") == "1\nw = 2"


@pytest.mark.parametrize(
    "words", [["--timeout", "nan"], ["--timeout", "inf"], ["--timeout", "1e300"], ["--http", "70000"]]
)
def test_numbers_of_flags_have_limits(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mcp")
    path = tmp_path / "f.py"
    path.write_text('def f(x: int) -> int:\n    """Return x."""\n    return x\n')
    assert main(["serve-mcp", str(path), *words]) == 2
    assert words[0] in capsys.readouterr().err
