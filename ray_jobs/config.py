"""A run's settings: a TOML file, a preset and ``--key value`` overrides, all checked before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from agentopt_local.agents.config import AgentConfig
from agentopt_local.errors import ConfigError
from agentopt_local.models.metered import Budget
from agentopt_local.plain_text import quoted, short
from agentopt_local.record import Record
from agentopt_local.setting_types import Seconds
from agentopt_local.spelling import LONGEST
from agentopt_local.train_state import OF_OLDER_RUNS, PRESETS, TrainerConfig, check_training
from agentopt_local.update import OptimizerConfig
from ray_jobs.context_check import check_context
from ray_jobs.evaluation_config import EvaluationConfig
from ray_jobs.model_config import ModelConfig
from ray_jobs.model_size import settings_by_size
from ray_jobs.task_config import TaskConfig
from ray_jobs.toml_values import merged, read_toml, set_key, table, toml_value
from serving.engine_config import EngineConfig


class SandboxConfig(Record):
    """The sandbox that runs generated code."""

    workers: int | None = Field(default=None, ge=1, le=1024)
    """Worker processes; None means one per core, at most 8."""
    timeout_s: Seconds = 10.0
    """Default time limit of one call, in seconds; the agent's calls have ``agent.timeout_s``."""
    memory_bytes: int = Field(default=512 << 20, ge=16 << 20, le=1 << 45)
    """Memory limit of one call, in bytes."""
    allow_weak: bool = False
    """Run even if the kernel lacks protections that the sandbox normally requires."""


class RayConfig(Record):
    """The Ray cluster that hosts the engines and runs the rollouts."""

    address: str | None = None
    """The running cluster to join, ``auto`` or an address; None starts one for this run."""
    rollout_workers: int | None = Field(default=None, ge=0, le=100_000)
    """Processes on the nodes that run rollouts; 0 runs them in this process; None means one per node if several."""


class RunConfig(Record):
    """All settings of one training."""

    task: TaskConfig
    preset: Literal["default", "paper"] = "default"
    """The defaults to start from; ``paper`` reproduces the regime of the authors' code."""
    seed: int = 0
    """Seeds batches, samples and rollouts."""
    run_dir: str = "runs"
    """The folder in which the run's own folder is created."""
    run_name: str | None = None
    """The name of the run's folder; None derives one from the task and the time."""
    start_functions: str | None = None
    """Functions to start from: a run, an exported package, a folder of .py files, or a single .py file."""
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = "auto"
    """How many rollouts may run at once. ``auto``: as many as the agent's engines take in their batches; 64 with an
    endpoint."""
    model: ModelConfig = ModelConfig()
    """The agent's model, which the optimizer also uses unless ``optimizer_model`` is set."""
    engine: EngineConfig = EngineConfig()
    """How the agent's model is hosted."""
    optimizer_model: ModelConfig | None = None
    """The optimizer's model, hosted here or behind an endpoint; None means the agent's model."""
    optimizer_engine: EngineConfig | None = None
    """How a separate optimizer model is hosted; None means like the agent's."""
    take_turns: bool = False
    """Whether the engines of agent and optimizer use the same GPUs, or a CPU's memory, in turn: while one works, the
    other sleeps. For two models that do not fit beside each other; each change takes seconds."""
    budget: Budget = Budget()
    """Limits on the tokens and the money that the run may use."""
    agent: AgentConfig = AgentConfig()
    """How a problem is attempted."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the actions of a step are drafted."""
    trainer: TrainerConfig = TrainerConfig()
    """How updates are tried and accepted, and when training stops."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is checked after the training, and the test's baselines."""
    sandbox: SandboxConfig = SandboxConfig()
    """How generated code is contained."""
    ray: RayConfig = RayConfig()
    """Where engines and rollouts run."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Load the settings in ``path`` and apply ``--section.key value`` overrides.

    Raises a ConfigError that names the file or flag, the key, the value and how to fix it.
    """
    values = read_toml(path)
    check_keys(values, RunConfig, str(path))
    origin: dict[str, str] = {}
    for key, value in parse_overrides(overrides):
        set_key(values, key, value)
        origin[key] = f"--{key}"
    return build(values, str(path), origin)


def build(
    values: dict[str, Any], source: str, origin: dict[str, str] | None = None, *, stored: bool = False
) -> RunConfig:
    """Build a RunConfig from plain values, on top of their preset and of settings for the models' sizes.

    ``source`` names the file in errors; ``origin`` maps keys that came from the command line to their flags.
    ``stored``: the values are those of a run, whose sizes have been chosen. Raises ConfigError.
    """
    if stored:
        values = merged(OF_OLDER_RUNS, values)
    preset = values.get("preset", "default")
    if isinstance(preset, str) and preset in PRESETS:
        values = merged(PRESETS[preset], values)
    other = values.get("optimizer_model")
    if isinstance(other, dict) and "name" not in other:  # the same model, with some settings of its own
        values = {**values, "optimizer_model": merged(values.get("model", {}), other)}
    try:
        config = RunConfig.model_validate(values)
        if not stored:
            below, sizes = settings_by_size(config)
            config = with_templates(RunConfig.model_validate(merged(merged(below, values), sizes)))
    except ValidationError as error:
        raise ConfigError(explain(error, source, origin or {})) from None
    check_training(config.trainer, config.optimizer, source)
    if not stored:
        check_context(config, source)
    return config


def with_templates(config: RunConfig) -> RunConfig:
    """``config`` with the text of chat templates in place of their files, for a resume. Raises ConfigError."""
    models = {"model": config.model, "optimizer_model": config.optimizer_model}
    return config.model_copy(
        update={table: model.with_template(table) for table, model in models.items() if model and model.chat_template}
    )


def changed_budget(config: RunConfig, changes: Mapping[str, Any], prefix: str = "--") -> RunConfig:
    """Return ``config`` with new values of ``budget.KEY``, all that may change on resume. Raises ConfigError."""
    values = config.model_dump(mode="json")
    for key, value in changes.items():
        if not key.startswith("budget."):
            raise ConfigError(f"{prefix}{key}: a run is resumed with its own settings; only its budget can be changed")
        set_key(values, key, value)
    return build(values, "the run's settings", {key: f"{prefix}{key}" for key in changes}, stored=True)


def explain(error: ValidationError, source: str, origin: dict[str, str]) -> str:
    """Describe each wrong value on a line of its own: where it is, what it is and what was expected."""
    lines = []
    for key, items in by_key(error).items():
        item = items[0]
        where = origin.get(key, f"{source}: {short(key)}")
        if item["type"] == "missing":
            lines.append(f"{where} is missing; {describe(key)}")
        elif item["type"] == "extra_forbidden":
            lines.append(f"{where} is not a setting{nearest(item['loc'])}")
        elif item["type"] == "secret":
            lines.append(f"{where}: {item['msg']}; put the key into the environment variable that api_key_env names")
        elif item["type"] == "together":
            lines.append(f"{where}: {item['msg']}")
        else:
            message = " or ".join(each["msg"][:1].lower() + each["msg"][1:] for each in items)
            lines.append(f"{where} = {quoted(item['input'])}: {message}; {describe(key)}")
    return "\n".join(lines)


def by_key(error: ValidationError) -> dict[str, list[Any]]:
    """What is wrong, by dotted key. A setting that takes one of several types has an item for each of them."""
    found: dict[str, list[Any]] = {}
    for item in error.errors():
        parts = [str(part) for part in item["loc"]]
        if item["type"] not in ("missing", "extra_forbidden"):  # pydantic appends the type that was tried
            parts = next((parts[:n] for n in range(len(parts), 0, -1) if field_of(".".join(parts[:n]))), parts)
        found.setdefault(".".join(parts), []).append(item)
    return found


def describe(key: str) -> str:
    """What a key means, from the docstring below its field."""
    field = field_of(key)
    text = " ".join((field.description or "").split("\n\n")[0].split()) if field else ""
    return f"it is: {text}" if text else "see agentopt train --help"


def field_of(key: str) -> FieldInfo | None:
    """The declaration of the setting with a dotted key; None if there is none."""
    record: Any = RunConfig
    field: FieldInfo | None = None
    for part in key.split("."):
        field = record.model_fields.get(part) if record is not None else None
        if field is None:
            return None
        record = table(field.annotation)
    return field


def is_open(key: str) -> bool:
    """Whether a key is inside a table whose keys are not ours, such as ``task.settings`` or ``engine.vllm``."""
    parts = key.split(".")
    fields = [field_of(".".join(parts[:n])) for n in range(1, len(parts))]
    return any(
        dict in (get_origin(each) for each in (field.annotation, *get_args(field.annotation)))
        for field in fields
        if field is not None
    )


def check_keys(values: dict[str, Any], record: Any, source: str, prefix: str = "") -> None:
    """Raise ConfigError for a key that is not a setting, suggesting the closest one."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in record.model_fields:
            raise ConfigError(f"{source}: {short(name)} is not a setting{nearest(name.split('.'))}")
        inner = table(record.model_fields[key].annotation)
        if inner is not None and not (value is None and record.model_fields[key].default is None):
            if not isinstance(value, dict):
                raise ConfigError(
                    f"{source}: {name} = {quoted(value)} must be a table: write [{name}] and its keys below"
                )
            check_keys(value, inner, source, f"{name}.")


def nearest(parts: Sequence[str | int]) -> str:
    """A hint that names the setting closest to this key."""
    keys = all_keys()
    name = ".".join(str(part) for part in parts)[:LONGEST]
    tails = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}  # the first section with a key wins
    last = name.rsplit(".", 1)[-1]
    sections = sorted({key.split(".")[0] for key in keys})
    if last in tails:  # the right key in the wrong section or without one
        found = [tails[last]]
    elif "." not in name and (close := difflib.get_close_matches(name, sections, n=1, cutoff=0.7)):
        found = [close[0]]
    else:
        found = difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
        found = found or [tails[each] for each in difflib.get_close_matches(last, list(tails), n=1, cutoff=0.6)]
    return f"; did you mean {found[0]}?" if found else f"; the settings are: {', '.join(keys)}"


def all_keys(record: Any = RunConfig, prefix: str = "") -> list[str]:
    """The dotted names of all settings."""
    keys = []
    for name, field in record.model_fields.items():
        if (inner := table(field.annotation)) is not None:
            keys += all_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """Parse ``--a.b value`` and ``--a.b=value`` pairs; values are TOML, or else text. Raises ConfigError."""
    pairs: list[tuple[str, Any]] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"{flag!r} is not understood; settings are given as --key value")
        key, equals, text = flag[2:].partition("=")
        key = key.replace("-", "_")
        if not equals:
            if not rest:
                raise ConfigError(f"--{key} needs a value: --{key} VALUE")
            text = rest.pop(0)
        if key not in all_keys() and not is_open(key):
            raise ConfigError(f"--{short(key)} is not a setting{nearest(key.split('.'))}")
        pairs.append((key, text if takes_text(key, text) else toml_value(text)))
    return pairs


def takes_text(key: str, text: str) -> bool:
    """Whether a setting takes ``text`` as it is written: a run called ``2024`` is not a number.

    ``none`` is None unless it is one of the words that the setting allows.
    """
    field = field_of(key)
    if field is None:
        return False
    words = [word for each in (field.annotation, *get_args(field.annotation)) for word in get_args(each)]
    return text in words or (field.annotation in (str, str | None) and text.lower() != "none")
