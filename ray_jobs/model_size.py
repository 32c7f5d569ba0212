"""Settings that suit a model's size, beneath a preset and the user's own.

The small size is the defaults of AgentConfig and OptimizerConfig, which were measured with models of 1.5 billion
parameters. The other sizes have more room where larger models use it: longer turns, sources and evidence; no grammar
for sources, which large models write better without one; fewer drafts where each is right more often or is paid for.
They have not been measured yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal, Protocol

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record
from agentopt_local.tasks.base import IN_PYTHON
from ray_jobs.model_config import ModelConfig, Size
from serving.engine_config import EngineConfig

MEDIUM_FROM, LARGE_FROM = 3e9, 15e9
"""Parameters. Models that are sold as 14B have up to 14.8 billion."""
AGENT: dict[Size, dict[str, Any]] = {
    "small": {},
    "medium": {"max_turns": 8, "max_turn_tokens": 800, "max_tokens": 3000, "max_result_chars": 3000},
    "large": {
        "max_turns": 12,
        "max_turn_tokens": 1200,
        "max_tokens": 6000,
        "max_result_chars": 6000,
        "act_first": False,
    },
    "api": {
        "max_turns": 15,
        "max_turn_tokens": 1500,
        "max_tokens": 8000,
        "max_result_chars": 8000,
        "act_first": False,
        "constrain": False,
    },
}
"""Settings of ``agent`` by the size of the agent's model."""
OPTIMIZER: dict[Size, dict[str, Any]] = {
    "small": {},
    "medium": {
        "n_evidence": 4,
        "evidence_tokens": 2500,
        "functions_tokens": 2500,
        "failures_tokens": 1000,
        "max_header_tokens": 128,
        "max_source_tokens": 800,
        "max_arguments_tokens": 150,
        "max_reflection_tokens": 150,
    },
    "large": {
        "n_samples": 6,
        "max_retries": 3,
        "n_evidence": 6,
        "evidence_tokens": 6000,
        "functions_tokens": 5000,
        "failures_tokens": 1500,
        "max_header_tokens": 200,
        "max_source_tokens": 1500,
        "max_arguments_tokens": 250,
        "max_reflection_tokens": 200,
        "constrain_source": False,
    },
    "api": {
        "n_samples": 3,
        "max_retries": 3,
        "n_evidence": 10,
        "evidence_tokens": 20_000,
        "functions_tokens": 8000,
        "failures_tokens": 2000,
        "max_header_tokens": 256,
        "max_source_tokens": 2000,
        "max_arguments_tokens": 300,
        "max_reflection_tokens": 300,
        "constrain_source": False,
    },
}
"""Settings of ``optimizer`` by the size of the optimizer's model."""
ROOM: dict[Size, int] = {"medium": 8192, "large": 16_384}
"""Tokens of context that a size's prompts and replies may take; with a shorter one, a smaller size is chosen."""
NAMED = re.compile(r"(?<![a-z0-9.])(?:(\d{1,4})x|e)?(\d{1,4}(?:\.\d{1,4})?)([bm])(?![a-z0-9])")
"""A number of parameters in a name: 7b, 1.5b, 135m, 8x22b, e4b; not a3b, which counts those active at a time."""


class Hosting(Protocol):
    """A run's models and how they are hosted; the settings of a run are one."""

    @property
    def model(self) -> ModelConfig: ...
    @property
    def engine(self) -> EngineConfig: ...
    @property
    def optimizer_model(self) -> ModelConfig | None: ...
    @property
    def optimizer_engine(self) -> EngineConfig | None: ...


class Chosen(Record):
    """The size whose settings a model gets."""

    size: Size
    reason: str
    """The rest of a sentence that begins with the model's name."""


def size_of(parameters: float) -> Literal["small", "medium", "large"]:
    """The size of a model with so many parameters, all experts of a mixture included."""
    return "small" if parameters < MEDIUM_FROM else "medium" if parameters < LARGE_FROM else "large"


def named_parameters(name: str) -> float | None:
    """The parameters that a model's name states, such as 30 billion for ``org/X-30B-A3B``; None if it states none."""
    found = NAMED.findall(PurePath(name).name.lower())
    counts = [int(times or 1) * float(number) * (1e9 if unit == "b" else 1e6) for times, number, unit in found]
    return max(counts, default=None)


def choose(model: ModelConfig, engine: EngineConfig) -> Chosen:
    """The size whose settings suit ``model``, hosted as ``engine`` says: as set, or else by its parameters.

    Downloads nothing: a hosted model that is not on this machine is judged by its name.
    """
    if model.size != "auto":
        return Chosen(size=model.size, reason="has this size by model.size")
    parameters, source = known_parameters(model)
    if parameters is None and model.base_url is not None:
        return Chosen(size="api", reason="is behind an endpoint, and its name states no size")
    if parameters is None:
        return Chosen(size="small", reason="has a size that is not known; model.size can state it")
    size: Size = size_of(parameters)
    reason = f"has {shown(parameters)} parameters{source}"
    context = engine.max_model_len
    if model.base_url is None and isinstance(context, int) and context < ROOM.get(size, 0):
        reason += f", but engine.max_model_len = {context} is too short for the settings of {size} models"
        size = "medium" if size == "large" and context >= ROOM["medium"] else "small"
    return Chosen(size=size, reason=reason)


def known_parameters(model: ModelConfig) -> tuple[float | None, str]:
    """A model's number of parameters, and where else it comes from than its files."""
    from serving.model_store import EMBEDDED, resolve
    from serving.parameters import count_parameters

    if model.base_url is None and not model.name.startswith(IN_PYTHON):
        if model.name in EMBEDDED:
            return EMBEDDED[model.name].size_bytes / 2, ""  # they have 16 bits each
        try:
            counted = count_parameters(resolve(model.name, allow_fetch=False))
        except ConfigError:  # it is not here; check_model reports that if it must be
            counted = None
        if counted is not None:
            return counted, ""
    return named_parameters(model.name), " by its name"


def shown(parameters: float) -> str:
    """``9.4 billion``."""
    return f"{parameters / 1e9:.3g} billion" if parameters >= 1e9 else f"{parameters / 1e6:.3g} million"


def settings_by_size(config: Hosting) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings for the models' sizes, as tables: those that presets and the user override, and the sizes themselves."""
    agent = optimizer = choose(config.model, config.engine).size
    sizes = {"model": {"size": agent}}
    if config.optimizer_model is not None:
        optimizer = choose(config.optimizer_model, config.optimizer_engine or config.engine).size
        sizes["optimizer_model"] = {"size": optimizer}
    return {"agent": AGENT[agent], "optimizer": OPTIMIZER[optimizer]}, sizes


def explain_sizes(config: Hosting) -> dict[str, str]:
    """For each role, whose settings it has and why. ``size`` of the models is that which was chosen or set."""
    agent = optimizer = (config.model, config.engine)
    if config.optimizer_model is not None:
        optimizer = (config.optimizer_model, config.optimizer_engine or config.engine)
    found = {}
    for role, (each, host) in {"agent": agent, "optimizer": optimizer}.items():
        by_itself = choose(each.model_copy(update={"size": "auto"}), host)
        chosen = by_itself if by_itself.size == each.size else choose(each, host)
        found[role] = f"{chosen.size}: {each.name.removeprefix(IN_PYTHON)} {chosen.reason}"
    return found


def sizes_line(explained: Mapping[str, str]) -> str:
    """What :func:`explain_sizes` found, on one line."""
    roles: dict[str, list[str]] = {}
    for role, text in explained.items():
        roles.setdefault(text, []).append(role)
    return "settings by size: " + "; ".join(f"{' and '.join(names)} {text}" for text, names in roles.items())
