"""The size of a model, and the settings that follow it where neither the user nor a preset sets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.agents.config import AgentConfig
from agentopt_local.update import OptimizerConfig
from ray_jobs.commands.report import defaults_for
from ray_jobs.config import build, changed_budget, load_config
from ray_jobs.lifecycle import show_sizes
from ray_jobs.model_config import ModelConfig
from ray_jobs.model_size import AGENT, OPTIMIZER, choose, explain_sizes, named_parameters, size_of, sizes_line
from ray_jobs.runs import new_run, read_config
from ray_jobs.terminal.display import Display
from serving.engine_config import EngineConfig
from serving.parameters import count_parameters

CONFIGS = Path(__file__).resolve().parents[2] / "ray_jobs" / "configs"
TASK: dict[str, Any] = {"task": {"spec": "reasoning_gym:spell_backward"}}


def write_model(
    folder: Path, shapes: dict[str, tuple[str, list[int]]], config: dict[str, Any] | None = None, files: int = 1
) -> Path:
    """A folder like a model's, with the headers of its files but no weights: only headers are read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    names = ["model.safetensors"] if files == 1 else [f"model-{i}.safetensors" for i in range(files)]
    parts: list[dict[str, Any]] = [{"__metadata__": {"format": "pt"}} for _ in names]
    for index, (name, (dtype, shape)) in enumerate(shapes.items()):
        parts[index % files][name] = {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
    for name, part in zip(names, parts, strict=True):
        text = json.dumps(part).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text)
    if files > 1:
        where = {key: name for name, part in zip(names, parts, strict=True) for key in part if key != "__metadata__"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def billions(n: float) -> dict[str, tuple[str, list[int]]]:
    return {"w": ("BF16", [int(n * 1000), 1_000_000])}


# The number of parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen3.5-9B", 9e9),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", 30e9),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 56e9),
        ("Qwen/Qwen2.5-7B-Instruct-1M", 7e9),
        ("google/gemma-4-E4B-it", 4e9),
        ("llama3:8b", 8e9),
        ("qwen2.5-coder-1.5b", 1.5e9),
        ("smollm2-135m", 135e6),
        ("/models/30B/Llama-3.2-3B", 3e9),
        ("gpt-4o", None),
        ("gpt-4.1-mini-2025", None),
        ("org/A3B", None),
        ("4bit-model", None),
        ("", None),
    ],
)
def test_a_name_may_state_the_number_of_parameters(name: str, parameters: float | None) -> None:
    assert named_parameters(name) == parameters


def test_sizes_by_parameters() -> None:
    sizes = {1.54e9: "small", 2.9e9: "small", 3.1e9: "medium", 9.4e9: "medium", 14.8e9: "medium", 24e9: "large"}
    assert {each: size_of(each) for each in sizes} == sizes


def test_parameters_are_counted_in_all_files_of_a_folder(tmp_path: Path) -> None:
    experts = {f"expert.{i}": ("BF16", [1000, 1_000_000]) for i in range(30)}
    assert count_parameters(write_model(tmp_path / "a", experts, files=4)) == 30_000_000_000
    shutil.copy(tmp_path / "a" / "model-0.safetensors", tmp_path / "a" / "consolidated.safetensors")
    assert count_parameters(tmp_path / "a") == 30_000_000_000, "a second copy is not counted"


@pytest.mark.parametrize(
    ("dtype", "shape", "quantization"),
    [
        ("I32", [1000, 1_000_000], {"quant_method": "gptq", "bits": 4}),
        ("I32", [1000, 1_000_000], {"quant_method": "awq", "w_bit": 4}),
        ("I32", [1000, 1_000_000], {"config_groups": {"group_0": {"weights": {"num_bits": 4}}}}),
        ("U8", [4000, 1_000_000], {"quant_method": "mxfp4"}),
        ("U8", [4000, 1_000_000], {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("F8_E4M3", [8000, 1_000_000], {"quant_method": "fp8"}),
        ("I8", [8000, 1_000_000], {"quant_method": "compressed-tensors", "num_bits": 8}),
    ],
)
def test_packed_weights_count_as_what_is_packed(
    dtype: str, shape: list[int], quantization: dict[str, Any], tmp_path: Path
) -> None:
    """A model with 8 billion parameters, whatever they are packed into."""
    tensors = {"layer.qweight": (dtype, shape), "layer.scales": ("F16", [9, 9]), "layer.g_idx": ("I32", [9])}
    folder = write_model(tmp_path / "model", tensors, {"quantization_config": quantization})
    assert count_parameters(folder) == 8_000_000_000


def header(tensor: str) -> bytes:
    text = b'{"w": ' + tensor.encode() + b"}"
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 20,
        b"\0" * 8,
        header("3"),
        header("{}"),
        header('{"dtype": "BF16", "shape": ["x"]}'),
        header('{"dtype": "BF16", "shape": 9}'),
        header('{"dtype": [], "shape": []}')[:-4],
    ],
)
def test_files_that_do_not_say_are_passed_over(content: bytes, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "Model-7B", billions(1))
    (folder / "model.safetensors").write_bytes(content)
    assert count_parameters(folder) is None
    assert choose(ModelConfig(name=str(folder)), EngineConfig()).size == "medium", "by its name"
    (folder / "config.json").write_text("[]")
    assert count_parameters(folder) is None


# The size of a model


def test_a_folder_is_judged_by_its_files_and_not_by_its_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "Model-70B", billions(9.4))
    chosen = choose(ModelConfig(name=str(folder)), EngineConfig())
    assert (chosen.size, chosen.reason) == ("medium", "has 9.4 billion parameters")


@pytest.mark.parametrize(
    ("settings", "size", "reason"),
    [
        ({}, "small", "has 1.55 billion parameters"),
        ({"name": "org/never-pulled-8B"}, "medium", "has 8 billion parameters by its name"),
        ({"name": "org/never-pulled"}, "small", "has a size that is not known; model.size can state it"),
        ({"name": "python:Mine"}, "small", "has a size that is not known; model.size can state it"),
        ({"name": "python:Mine", "size": "large"}, "large", "has this size by model.size"),
        ({"name": "gpt-4o", "base_url": "http://x/v1"}, "api", "is behind an endpoint, and its name states no size"),
        ({"name": "llama3:8b", "base_url": "http://x/v1"}, "medium", "has 8 billion parameters by its name"),
        ({"name": "llama3:8b", "base_url": "http://x/v1", "size": "api"}, "api", "has this size by model.size"),
    ],
)
def test_the_size_and_its_reason(settings: dict[str, Any], size: str, reason: str) -> None:
    chosen = choose(ModelConfig.model_validate(settings), EngineConfig())
    assert (chosen.size, chosen.reason) == (size, reason)


@pytest.mark.parametrize(("context", "size"), [(4096, "small"), (8192, "medium"), (16_384, "large")])
def test_prompts_of_a_size_must_fit_the_context(context: int, size: str) -> None:
    model, engine = ModelConfig(name="org/Model-30B"), EngineConfig(max_model_len=context)
    chosen = choose(model, engine)
    assert chosen.size == size
    assert ("engine.max_model_len" in chosen.reason) == (size != "large")
    assert choose(model.model_copy(update={"size": "large"}), engine).size == "large", "as the user says"


# Settings


def test_small_models_have_the_defaults() -> None:
    config = build(TASK, "test")
    assert (config.model.size, config.agent, config.optimizer) == ("small", AgentConfig(), OptimizerConfig())


@pytest.mark.parametrize("size", AGENT)
def test_every_size_is_made_of_settings_that_are_accepted(size: Any) -> None:
    config = build(TASK | {"model": {"size": size}}, "test")
    for values, defaults in ((AGENT[size], config.agent), (OPTIMIZER[size], config.optimizer)):
        assert defaults.model_dump(include=set(values)) == values
    assert config.agent.max_turn_tokens <= config.agent.max_tokens
    others: dict[str, Any] = {"agent": AGENT, "optimizer": OPTIMIZER}
    for section, table in others.items():
        changed = {key for values in table.values() for key in values}
        rest = config.model_dump(mode="json")[section]
        assert {key: rest[key] for key in rest if key not in changed} == {
            key: value
            for key, value in build(TASK, "test").model_dump(mode="json")[section].items()
            if key not in changed
        }


def test_the_user_comes_first_then_the_preset_then_the_size_then_the_defaults() -> None:
    mine = {"optimizer": {"max_source_tokens": 77}, "agent": {"max_turns": 6}}
    config = build({**TASK, "preset": "paper", "model": {"size": "large"}, **mine}, "test")
    assert (config.optimizer.max_source_tokens, config.agent.max_turns) == (77, 6), "6 is the default, but it was set"
    assert (config.optimizer.n_samples, config.optimizer.max_retries) == (1, 9)
    assert config.optimizer.evidence_tokens == OPTIMIZER["large"]["evidence_tokens"]
    assert config.optimizer.temperature == OptimizerConfig().temperature


def test_each_role_follows_its_own_model() -> None:
    optimizer = {"name": "gpt-x", "base_url": "http://127.0.0.1:9/v1"}
    config = build({**TASK, "model": {"name": "org/M-8B"}, "optimizer_model": optimizer}, "test")
    assert config.optimizer_model
    assert (config.model.size, config.optimizer_model.size) == ("medium", "api")
    assert config.agent.max_turns == AGENT["medium"]["max_turns"]
    assert config.optimizer.evidence_tokens == OPTIMIZER["api"]["evidence_tokens"]
    assert sizes_line(explain_sizes(config)) == (
        "settings by size: agent medium: org/M-8B has 8 billion parameters by its name; "
        "optimizer api: gpt-x is behind an endpoint, and its name states no size"
    )


def test_a_flag_beats_the_size(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[task]\nspec = "reasoning_gym:spell_backward"\n[model]\nname = "org/M-8B"\n')
    config = load_config(path, ["--agent.max_turns", "3", "--model.size", "api"])
    assert (config.agent.max_turns, config.agent.max_tokens) == (3, AGENT["api"]["max_tokens"])


def test_a_run_keeps_what_was_chosen_whatever_becomes_of_the_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", billions(9))
    config = build({**TASK, "model": {"name": str(folder)}, "run_dir": str(tmp_path), "run_name": "run"}, "test")
    run = new_run(config)
    run.close()
    write_model(folder, billions(30))
    assert read_config(run.path) == config
    assert read_config(run.path, ["--model.base_url", "http://127.0.0.1:9/v1"]).agent == config.agent
    assert changed_budget(config, {"budget.max_cost": 3.0}).agent == config.agent
    assert config.agent.max_turns == AGENT["medium"]["max_turns"]


def test_a_run_from_before_there_were_sizes_keeps_its_settings(tmp_path: Path) -> None:
    values = build(TASK | {"model": {"name": "org/M-30B"}, "run_dir": str(tmp_path), "run_name": "run"}, "test")
    run = new_run(values)
    old = values.model_dump(mode="json")
    del old["model"]["size"], old["optimizer"]["max_header_tokens"], old["optimizer"]["max_arguments_tokens"]
    run.write_config(old)
    run.close()
    optimizer = read_config(run.path).optimizer
    assert (optimizer.max_header_tokens, optimizer.max_arguments_tokens) == (64, 100)


def test_a_report_shows_what_the_user_set_beneath_the_same_size() -> None:
    """A value that equals the default has to be written down if the size says otherwise."""
    from agentopt_local.reporting.settings_toml import toml_text

    config = build({**TASK, "preset": "paper", "model": {"name": "org/M-8B"}, "agent": {"max_turns": 6}}, "test")
    values = config.model_dump(mode="json")
    text = toml_text(values, defaults_for(values))
    assert "[agent]\nmax_turns = 6" in text
    assert 'size = "medium"' in text
    assert "max_source_tokens" not in text


def test_training_says_which_sizes_it_took(capfd: pytest.CaptureFixture[str]) -> None:
    show_sizes(build(TASK, "test"), Display())
    said = " ".join("".join(capfd.readouterr()).split())
    assert said == "settings by size: agent and optimizer small: qwen2.5-coder-1.5b has 1.55 billion parameters"


@pytest.mark.parametrize(
    ("name", "agent", "optimizer"),
    [
        ("demo", "small", "small"),
        ("gpt4", "api", "api"),
        ("one_24gb_gpu", "medium", "medium"),
        ("one_80gb_gpu", "medium", "large"),
        ("eight_80gb_gpus", "medium", "large"),
    ],
)
def test_the_sizes_of_shipped_configurations(name: str, agent: str, optimizer: str) -> None:
    found = explain_sizes(load_config(CONFIGS / f"{name}.toml"))
    assert [text.partition(":")[0] for text in found.values()] == [agent, optimizer]
