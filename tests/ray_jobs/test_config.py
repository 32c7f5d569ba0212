"""Settings: an error names the place, the value and the remedy, before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import ConfigError
from agentopt_local.train_state import PRESETS
from ray_jobs.config import RunConfig, all_keys, load_config, parse_overrides

CONFIGS = Path(__file__).resolve().parents[2] / "ray_jobs" / "configs"
TASK = '[task]\nspec = "reasoning_gym:spell_backward"\n'

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_config(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_config


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    return str(raised.value)


# Keys


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("[trainer]\nmax_epoch = 3\n", "trainer.max_epoch", "trainer.max_epochs"),
        ("[trainer]\npatients = 3\n", "trainer.patients", "trainer.patience"),
        ("[optimizer]\nn_sample = 3\n", "optimizer.n_sample", "optimizer.n_samples"),
        ("[model]\nnmae = 'x'\n", "model.nmae", "model.name"),
        ("[engine]\nreplica = 2\n", "engine.replica", "engine.replicas"),
        ("[trainer]\nn_samples = 4\n", "trainer.n_samples", "optimizer.n_samples"),
        ("[task]\nbatch_size = 4\n", "task.batch_size", "trainer.batch_size"),
    ],
)
def test_a_wrong_key_names_file_key_and_the_nearest_right_one(write: Write, text: str, key: str, meant: str) -> None:
    path = write(text if text.startswith("[task]") else TASK + text)
    said = refusal(path)
    assert said.startswith(f"{path}: {key} is not a setting")
    assert f"did you mean {meant}?" in said


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[agent]\nmax_epochs = 3\n", "trainer.max_epochs"),
        ("[engine]\nbase_url = 'http://x'\n", "model.base_url"),
        ("[trainr]\nmax_epochs = 3\n", "trainer"),
    ],
)
def test_the_right_key_in_the_wrong_section_names_the_right_section(write: Write, text: str, meant: str) -> None:
    assert f"did you mean {meant}" in refusal(write(TASK + text))


def test_a_key_without_its_section_names_the_section(write: Write) -> None:
    assert "did you mean trainer.max_epochs?" in refusal(write("max_epochs = 3\n" + TASK))


def test_a_key_like_no_other_lists_what_there_is(write: Write) -> None:
    said = refusal(write("zzzzqqqq = 1\n" + TASK))
    assert "the settings are:" in said
    assert all(key in said for key in all_keys())


def test_a_section_that_is_no_table_is_told(write: Write) -> None:
    said = refusal(write("trainer = 3\n" + TASK))
    assert "trainer = 3 must be a table: write [trainer]" in said


# Values


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[trainer]\nmax_epochs = 'many'\n", ["trainer.max_epochs", '"many"', "integer", "Updates to try"]),
        ("[trainer]\nmax_epochs = 0\n", ["trainer.max_epochs = 0", "greater than or equal to 1"]),
        ("[trainer]\ntry_edits = 'perhaps'\n", ["trainer.try_edits", '"perhaps"', "boolean"]),
        ("[optimizer]\ntop_p = 1.5\n", ["optimizer.top_p = 1.5", "less than or equal to 1"]),
        ("[engine]\ndevice = 'tpu'\n", ["engine.device", '"tpu"', "'auto', 'cpu' or 'gpu'"]),
        ("[sandbox]\nmemory_bytes = 5\n", ["sandbox.memory_bytes = 5", "16777216"]),
        ("[task.settings]\n[agent]\nthink = []\n", ["agent.think = []", "boolean"]),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_accepted(write: Write, text: str, parts: list[str]) -> None:
    path = write(TASK + text)
    said = refusal(path)
    assert said.startswith(f"{path}: ")
    for part in parts:
        assert part in said


def test_a_wrong_preset_names_those_that_exist(write: Write) -> None:
    said = refusal(write("preset = 'papre'\n" + TASK))
    assert "preset" in said
    assert "'default' or 'paper'" in said


def test_several_wrong_values_are_told_at_once(write: Write) -> None:
    said = refusal(write("seed = 'x'\nconcurrency = 0\n" + TASK))
    assert len(said.splitlines()) == 2


def test_a_missing_task_is_told(write: Write) -> None:
    assert "task is missing" in refusal(write("seed = 1\n"))
    said = refusal(write("[task]\nn_train = 3\n"))
    assert "task.spec is missing" in said
    assert "reasoning_gym:NAME" in said


# Files


def test_a_missing_file_names_a_similar_one(write: Write) -> None:
    path = write(TASK)
    assert f"does not exist; did you mean {path}?" in refusal(path.with_name("rum.toml"))
    assert refusal(path.parent / "nowhere" / "x.toml").endswith("does not exist")


def test_what_is_no_toml_is_told_with_its_line(write: Write, tmp_path: Path) -> None:
    assert re.search(r"is not valid TOML: .*line 3", refusal(write(TASK + "n_train 3\n")))
    assert "is a folder" in refusal(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8" in refusal(binary)


# Flags


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--trainer.max_epochs", "7"], "trainer.max_epochs", 7),
        (["--trainer.max_epochs=7"], "trainer.max_epochs", 7),
        (["--trainer.max-epochs", "7"], "trainer.max_epochs", 7),
        (["--trainer.acceptance", "mean"], "trainer.acceptance", "mean"),
        (["--optimizer.temperature", "0.25"], "optimizer.temperature", 0.25),
        (["--model.name", "qwen2.5-coder-0.5b"], "model.name", "qwen2.5-coder-0.5b"),
        (["--model.name=org/name=x"], "model.name", "org/name=x"),
        (["--model.base_url", "http://127.0.0.1:8000/v1"], "model.base_url", "http://127.0.0.1:8000/v1"),
        (["--optimizer.allowed_packages", '["math", "re"]'], "optimizer.allowed_packages", ("math", "re")),
        (["--trainer.batch_size", "none"], "trainer.batch_size", None),
        (["--model.structured", "none"], "model.structured", "none"),  # X1: a word the setting allows
        (["--optimizer_model.structured=none"], "optimizer_model.structured", "none"),
        (["--model.thinking", "off"], "model.thinking", "off"),
        (["--model.base_url", "none"], "model.base_url", None),
        (["--task.spec", "jsonl:/a b.jsonl"], "task.spec", "jsonl:/a b.jsonl"),
        (["--task.settings.spell_backward.min_word_len", "5"], "task.settings.spell_backward", {"min_word_len": 5}),
        (["--seed", "-1"], "seed", -1),
        (["--seed", "1", "--seed", "2"], "seed", 2),
    ],
)
def test_flags_override_the_file(write: Write, flags: list[str], key: str, value: Any) -> None:
    path = write("seed = 9\n[trainer]\nbatch_size = 4\nmax_epochs = 2\n" + TASK)
    found: Any = load_config(path, flags)
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


def test_a_flag_makes_its_section(write: Write) -> None:
    path = write("seed = 1\n")
    assert (
        load_config(path, ["--task.spec", "reasoning_gym:spell_backward"]).task.spec == "reasoning_gym:spell_backward"
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trainer.max_epoch", "7"], "--trainer.max_epoch is not a setting; did you mean trainer.max_epochs?"),
        (["--max_epochs", "7"], "--max_epochs is not a setting; did you mean trainer.max_epochs?"),
        (["--trainer", "7"], "--trainer is not a setting"),
        (["--seed"], "--seed needs a value: --seed VALUE"),
        (["seed", "7"], "'seed' is not understood; settings are given as --key value"),
        (["--trainer.max_epochs", "lots"], '--trainer.max_epochs = "lots": input should be a valid integer'),
        (["--trainer.patience=none"], "--trainer.patience = null: input should be a valid integer"),
    ],
)
def test_a_wrong_flag_is_named_as_it_was_written(write: Write, flags: list[str], said: str) -> None:
    assert said in refusal(write(TASK), *flags)


@pytest.mark.parametrize("name", ["2024", "2024-06-01", "1e3"])
def test_text_may_look_like_a_number_or_a_date(write: Write, name: str) -> None:
    assert load_config(write(TASK), ["--run_name", name]).run_name == name


def test_settings_that_are_no_table_are_told(write: Write) -> None:
    path = write(TASK + "settings = 3\n")
    refusal(path, "--task.settings.spell_backward.min_word_len", "5")


def test_flags_are_read_in_order() -> None:
    assert parse_overrides(["--seed=1", "--run-name", "x"]) == [("seed", 1), ("run_name", "x")]
    assert parse_overrides([]) == []


# Presets


def test_a_preset_is_a_set_of_defaults_that_the_users_values_win_over(write: Write) -> None:
    plain = load_config(write(TASK))
    assert plain.preset == "default"
    assert not plain.trainer.count_accepted
    path = write("preset = 'paper'\n" + TASK + "[trainer]\npatience = 4\n[optimizer]\nn_samples = 2\n")
    config = load_config(path)
    paper = PRESETS["paper"]
    assert config.trainer.count_accepted
    assert config.trainer.max_epochs == paper["trainer"]["max_epochs"]
    assert config.optimizer.max_retries == paper["optimizer"]["max_retries"]
    assert (config.trainer.patience, config.optimizer.n_samples) == (4, 2)
    flagged = load_config(path, ["--trainer.max_epochs", "2", "--optimizer.concurrent", "true"])
    assert (flagged.trainer.max_epochs, flagged.optimizer.concurrent) == (2, True)


def test_a_preset_can_be_chosen_by_flag(write: Write) -> None:
    assert load_config(write(TASK), ["--preset", "paper"]).trainer.acceptance == "paper"


def test_choosing_a_preset_leaves_the_presets_as_they_are(write: Write) -> None:
    before = repr(PRESETS)
    load_config(write("preset = 'paper'\n" + TASK), ["--trainer.patience", "1"])
    assert repr(PRESETS) == before


def test_every_preset_is_made_of_settings() -> None:
    keys = set(all_keys())
    for name, sections in PRESETS.items():
        for section, values in sections.items():
            assert {f"{section}.{key}" for key in values} <= keys, name


def test_every_setting_survives_json(write: Write) -> None:
    config = load_config(write("preset = 'paper'\n" + TASK))
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_configurations_load(path: Path) -> None:
    assert load_config(path).task.spec
