"""A run's settings: a TOML file, a preset, and ``--key value`` overrides, checked before anything starts."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from agentopt_local.agents.function_calling import AgentConfig
from agentopt_local.errors import ConfigError
from agentopt_local.models.metered import Budget
from agentopt_local.optimizer import OptimizerConfig
from agentopt_local.record import Record
from agentopt_local.trainer import PRESETS, TrainerConfig
from ray_jobs.model_config import ModelConfig
from serving.engine_config import EngineConfig


class TaskConfig(Record):
    """What is trained on."""

    spec: str
    """``reasoning_gym:NAME[,NAME...]``, or ``jsonl:``, ``math:``, ``tabmwp:``, ``gaia:`` or ``gsm8k:`` and a path."""
    n_train: int = Field(default=24, ge=1)
    n_test: int = Field(default=60, ge=0)
    """Held-out problems of the evaluation; 0: evaluate later, with ``agentopt evaluate``."""
    seed: int = 0
    """Which problems are generated, or their order."""
    settings: dict[str, Any] = Field(default={})
    """Options of the task, or of its data sets: ``[task.settings.NAME]``."""


class SandboxConfig(Record):
    """Where generated code runs."""

    workers: int | None = Field(default=None, ge=1)
    """Worker processes; None: one per core, at most 8."""
    timeout_s: float = Field(default=10.0, gt=0)
    memory_bytes: int = Field(default=512 << 20, ge=16 << 20)
    allow_weak: bool = False
    """Go on although the kernel lacks layers of the sandbox's minimum set."""


class RayConfig(Record):
    """Which cluster hosts the engines and the rollouts."""

    address: str | None = None
    """``auto`` or an address joins a running cluster; None starts one for this run."""
    rollout_workers: int | None = Field(default=None, ge=0)
    """Processes, spread over the nodes, that run the agent's loop with a sandbox each; None: one per node where the
    cluster has several, else 0. 0: rollouts run in the process of the command."""


class RunConfig(Record):
    """All settings of one training."""

    task: TaskConfig
    preset: Literal["default", "paper"] = "default"
    """A set of defaults: ``paper`` is the regime of the authors' code."""
    seed: int = 0
    """Of batches, samples and rollouts."""
    run_dir: str = "runs"
    """The folder under which the run's folder is made."""
    run_name: str | None = None
    """The run folder's name; None: made from the task and the time."""
    start_functions: str | None = None
    """Functions to start the training from: a run, an exported package, a folder of .py files, or a .py file."""
    concurrency: int = Field(default=64, ge=1)
    """Rollouts under way at once."""
    model: ModelConfig = ModelConfig()
    """The agent's model, and the optimizer's unless that has one of its own."""
    engine: EngineConfig = EngineConfig()
    optimizer_model: ModelConfig | None = None
    """The optimizer's model, hosted here or behind an endpoint; None: the agent's."""
    optimizer_engine: EngineConfig | None = None
    """How the optimizer's model is hosted if it is another one; None: as the agent's."""
    budget: Budget = Budget()
    agent: AgentConfig = AgentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    sandbox: SandboxConfig = SandboxConfig()
    ray: RayConfig = RayConfig()


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings in ``path`` with ``--section.key value`` overrides.

    Raises ConfigError that names the file or flag, the key, the value and the remedy.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist{near_files(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give a .toml file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    check_keys(values, RunConfig, str(path))
    origin: dict[str, str] = {}
    for key, value in parse_overrides(overrides):
        set_key(values, key, value)
        origin[key] = f"--{key}"
    return build(values, str(path), origin)


def build(values: dict[str, Any], source: str, origin: dict[str, str] | None = None) -> RunConfig:
    """A RunConfig from plain values over its preset. ``origin``: which keys came from which flag."""
    preset = values.get("preset", "default")
    if isinstance(preset, str) and preset in PRESETS:
        values = merged(PRESETS[preset], values)
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, source, origin or {})) from None
    if config.trainer.try_edits and not config.optimizer.progressive:
        raise ConfigError(
            f"{source}: optimizer.progressive = false writes whole sets, which cannot be tried edit by edit; "
            "set trainer.try_edits = false"
        )
    return config


def with_budget(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """``config`` with another budget: all that a run may change when it is resumed. Raises ConfigError."""
    values = config.model_dump(mode="json")
    for key, value in parse_overrides(overrides):
        if not key.startswith("budget."):
            raise ConfigError(f"--{key}: a run is resumed with its own settings; only its budget can be changed")
        set_key(values, key, value)
    return build(values, "the run's config.json", {key: f"--{key}" for key, _ in parse_overrides(overrides)})


def explain(error: ValidationError, source: str, origin: dict[str, str]) -> str:
    """One line per wrong value: where it stands, what it is, what was expected."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        where = origin.get(key, f"{source}: {key}")
        if item["type"] == "missing":
            lines.append(f"{where} is missing; {describe(key)}")
        elif item["type"] == "extra_forbidden":
            lines.append(f"{where} is not a setting{nearest(item['loc'])}")
        elif item["type"] == "secret":
            lines.append(f"{where}: {item['msg']}; put the key into the environment variable that api_key_env names")
        else:
            message = item["msg"][:1].lower() + item["msg"][1:]
            lines.append(f"{where} = {json.dumps(item['input'], default=str)}: {message}; {describe(key)}")
    return "\n".join(lines)


def describe(key: str) -> str:
    """What a key means, from the doc under its field."""
    record: Any = RunConfig
    text = ""
    for part in key.split("."):
        field = record.model_fields.get(part) if hasattr(record, "model_fields") else None
        if field is None:
            break
        text = (field.description or "").split("\n")[0]
        record = table(field.annotation)
    return f"it is: {text}" if text else "see agentopt train --help"


def check_keys(values: dict[str, Any], record: Any, source: str, prefix: str = "") -> None:
    """Raise ConfigError for a key that is no setting, naming the nearest that is."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in record.model_fields:
            raise ConfigError(f"{source}: {name} is not a setting{nearest(name.split('.'))}")
        inner = table(record.model_fields[key].annotation)
        if inner is not None and not (value is None and record.model_fields[key].default is None):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {name} = {value!r} must be a table: write [{name}] and its keys below")
            check_keys(value, inner, source, f"{name}.")


def table(annotation: Any) -> type[Record] | None:
    """The record that a setting holds, if it is a table of settings (perhaps one that may be left out)."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, Record):
            return each
    return None


def nearest(parts: Sequence[str | int]) -> str:
    """A hint naming the real key most like this one."""
    keys = all_keys()
    name = ".".join(str(part) for part in parts)
    tails = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}  # the first section with a key wins
    last = name.rsplit(".", 1)[-1]
    sections = sorted({key.split(".")[0] for key in keys})
    if last in tails:  # the right key in the wrong section, or with no section at all
        found = [tails[last]]
    elif "." not in name and (close := difflib.get_close_matches(name, sections, n=1, cutoff=0.7)):
        found = [close[0]]
    else:
        found = difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
        found = found or [tails[each] for each in difflib.get_close_matches(last, list(tails), n=1, cutoff=0.6)]
    return f"; did you mean {found[0]}?" if found else f"; the settings are: {', '.join(keys)}"


def all_keys(record: Any = RunConfig, prefix: str = "") -> list[str]:
    """Every setting's dotted name."""
    keys = []
    for name, field in record.model_fields.items():
        if (inner := table(field.annotation)) is not None:
            keys += all_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """``--a.b value`` and ``--a.b=value`` pairs. A value is read as TOML, or else as plain text."""
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
        if key not in all_keys() and not key.startswith("task.settings."):
            raise ConfigError(f"--{key} is not a setting{nearest(key.split('.'))}")
        pairs.append((key, text if takes_text(key) and text.lower() != "none" else toml_value(text)))
    return pairs


def takes_text(key: str) -> bool:
    """Whether a setting is text, so that ``--run_name 2024`` is not read as a number."""
    record: Any = RunConfig
    for part in key.split("."):
        if not hasattr(record, "model_fields") or part not in record.model_fields:
            return False
        annotation = record.model_fields[part].annotation
        record = table(annotation) or annotation
    return record is str or record == str | None


def toml_value(text: str) -> Any:
    """``3``, ``true``, ``[1, 2]`` as TOML reads them; anything else is text; ``none`` is None."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--{key}: {section} = {values!r} in the file is no table, so it has no {last}")
    values[last] = value


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, table by table."""
    out = dict(base)
    for key, value in over.items():
        known = out.get(key)
        out[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return out


def near_files(path: Path) -> str:
    """A hint naming a file like ``path``."""
    folder = path.parent
    names = [each.name for each in folder.glob("*.toml")] if folder.is_dir() else []
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {folder / found[0]}?" if found else ""
