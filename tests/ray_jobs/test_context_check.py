"""X3: budgets are checked against the models' contexts when the settings are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import ConfigError
from ray_jobs.config import build, load_config
from ray_jobs.context_check import Context, check_context, context_notes

DEMO = Path(__file__).parents[2] / "ray_jobs" / "configs" / "demo.toml"
TASK = {"spec": "reasoning_gym:spell_backward"}


def settings(**tables: Any) -> Any:
    return build({"task": TASK, **tables}, "my.toml")


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"engine": {"max_model_len": 512}}, "my.toml: engine.max_model_len = 512 has no room for the agent"),
        ({"engine": {"max_model_len": 700}}, "engine.max_model_len = 700 has no room for the optimizer"),
        (
            {"engine": {"max_model_len": 4096}, "optimizer": {"max_source_tokens": 4000}},
            "its reply up to optimizer.max_source_tokens = 4000; set engine.max_model_len to 4608 or more, or lower",
        ),
        ({"engine": {"max_model_len": 1024}, "agent": {"max_turn_tokens": 1000}}, "agent.max_turn_tokens = 1000"),
        (
            {"optimizer_model": {"name": "qwen2.5-coder-0.5b"}, "optimizer_engine": {"max_model_len": 600}},
            "optimizer_engine.max_model_len = 600 has no room for the optimizer",
        ),
        (
            {"optimizer_model": {"name": "qwen2.5-coder-0.5b"}, "engine": {"max_model_len": 600}},
            "engine.max_model_len = 600 has no room for the optimizer",
        ),
        (
            {"engine": {"max_model_len": 500}, "agent": {"kind": "react"}},
            "has no room for the agent",
        ),
    ],
)
def test_x3_a_context_without_room_for_one_reply_is_refused(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(**tables)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"engine": {"max_model_len": 1024}},
        {"engine": {"max_model_len": "auto"}, "optimizer": {"max_source_tokens": 100_000}},
        {"engine": {"max_model_len": 300}, "model": {"name": "m", "base_url": "http://127.0.0.1:1/v1"}},
        {"engine": {"max_model_len": 300, "pool_name": "shared"}},
    ],
)
def test_settings_that_may_work_are_read(tables: dict[str, Any]) -> None:
    settings(**tables)


def test_x3_the_demo_with_2048_says_what_will_not_fit() -> None:
    assert list(context_notes(load_config(DEMO))) == []
    (note,) = context_notes(load_config(DEMO, ["--engine.max_model_len", "2048"]))
    assert note.startswith("engine.max_model_len = 2048: the optimizer's budgets allow for ")
    assert "optimizer.evidence_tokens" in note


def test_x3_attempts_that_may_outgrow_the_context_are_named() -> None:
    config = settings(engine={"max_model_len": 2048}, agent={"max_tokens": 3000})
    assert any("an attempt may take" in note for note in context_notes(config))


def test_x3_the_contexts_of_opened_models_are_checked_too() -> None:
    config = settings()
    small = {"agent": Context("engine.max_model_len", 256), "optimizer": Context("engine.max_model_len", 256)}
    with pytest.raises(ConfigError, match=r"the run's settings: engine.max_model_len = 256"):
        check_context(config, "the run's settings", small)  # type: ignore[arg-type]
    check_context(config, "the run's settings", {})


@pytest.mark.parametrize("path", sorted(DEMO.parent.glob("*.toml")), ids=lambda path: path.stem)
def test_the_settings_that_come_with_the_package_fit(path: Path) -> None:
    assert list(context_notes(load_config(path))) == []
