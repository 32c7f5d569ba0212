"""``model.thinking`` and ``model.chat_template`` in the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import Thinking
from agentopt_local.errors import ConfigError
from agentopt_local.models.scripted import ScriptedChatModel
from ray_jobs.config import RunConfig, build, load_config
from ray_jobs.open_models import check_thinking, optimizer_of
from serving.facts import EngineFacts

HERE = {"task": {"spec": "reasoning_gym:spell_backward"}}


def settings(**tables: Any) -> RunConfig:
    return build({**HERE, **tables}, "here.toml")


@pytest.mark.parametrize(
    ("value", "agent", "optimizer"),
    [
        ("auto", Thinking(effort="least", max_tokens=2048), Thinking(effort="on", max_tokens=4096)),
        ("off", Thinking(effort="off", max_tokens=0), Thinking(effort="off", max_tokens=0)),
        (False, Thinking(effort="off", max_tokens=0), Thinking(effort="off", max_tokens=0)),
        (True, Thinking(effort="on", max_tokens=2048), Thinking(effort="on", max_tokens=4096)),
        ("high", Thinking(effort="high", max_tokens=2048), Thinking(effort="high", max_tokens=4096)),
        (512, Thinking(effort="on", max_tokens=512), Thinking(effort="on", max_tokens=512)),
        (0, Thinking(effort="off", max_tokens=0), Thinking(effort="off", max_tokens=0)),
    ],
)
def test_the_setting_by_role(value: object, agent: Thinking, optimizer: Thinking) -> None:
    model = settings(model={"thinking": value}).model
    assert (model.thinking_as("agent"), model.thinking_as("optimizer")) == (agent, optimizer)


@pytest.mark.parametrize("value", ["2048", "off", "true", "medium"])
def test_the_setting_on_the_command_line(value: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[task]\nspec = "reasoning_gym:spell_backward"\n', encoding="utf-8")
    wanted = {"2048": 2048, "true": "on"}.get(value, value)
    assert load_config(config, ["--model.thinking", value]).model.thinking == wanted


@pytest.mark.parametrize("value", [-1, "loud", 1.5])
def test_a_wrong_setting_is_an_error_with_its_key(value: object) -> None:
    with pytest.raises(ConfigError, match=r"here\.toml: model\.thinking"):
        settings(model={"thinking": value})


def test_the_optimizers_thinking_alone_needs_no_second_engine() -> None:
    config = settings(model={"name": "Qwen/Qwen3-8B"}, optimizer_model={"thinking": "high"})
    assert config.optimizer_model is not None
    assert config.optimizer_model.name == "Qwen/Qwen3-8B"
    assert optimizer_of(config) is None
    named = settings(model={"name": "Qwen/Qwen3-8B"}, optimizer_model={"name": "Qwen/Qwen3-32B"})
    assert optimizer_of(named) is not None


def test_thoughts_of_a_model_that_has_none_are_an_error() -> None:
    model: Any = ScriptedChatModel(["hi"])
    model.facts = EngineFacts(dtype="float32", step_tokens=64, max_model_len=512, max_num_seqs=1, thinks="never")
    wanted = settings(model={"thinking": "high"}).model
    with pytest.raises(
        ConfigError, match=r"optimizer_model\.thinking = 'high', but the chat template of .* no thoughts"
    ):
        check_thinking("optimizer_model", wanted, model)
    check_thinking("model", settings().model, model)
    check_thinking("model", wanted, ScriptedChatModel(["hi"]))


def test_a_run_keeps_the_text_of_its_template(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("{{ messages }}", encoding="utf-8")
    config = settings(model={"chat_template": str(path)})
    path.unlink()
    assert config.model.chat_template == "{{ messages }}"
    again = build(config.model_dump(mode="json"), "the run's settings", stored=True)
    assert again.model.chat_template == "{{ messages }}"
    with pytest.raises(ConfigError, match=r"model\.chat_template = .*own\.jinja.* cannot be read .*give the path"):
        settings(model={"chat_template": str(path)})
    with pytest.raises(ConfigError, match="chat_template is for hosted models"):
        settings(model={"chat_template": str(path), "base_url": "http://127.0.0.1:1/v1"})
