"""Task, model and settings as given in Python: a run's settings, and the objects that replace parts of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatModel
from agentopt_local.errors import ConfigError
from agentopt_local.functions import FunctionSet
from agentopt_local.tasks.base import IN_PYTHON, Problems
from agentopt_local.tasks.python import settings_of
from agentopt_local.tasks.row_task import RowsTask
from ray_jobs.api.endpoint import Endpoint
from ray_jobs.api.task_data import check_task, is_task
from ray_jobs.config import RunConfig, build, check_keys
from ray_jobs.model_config import ModelConfig
from ray_jobs.open_models import Models
from ray_jobs.runs import read_config
from ray_jobs.toml_values import merged

Model = str | Path | Endpoint | ChatModel
"""What ``model=`` takes: an embedded name, a folder, a hub id, an Endpoint, or any object with ``complete``."""


@dataclass(frozen=True)
class Given:
    """What a training starts with."""

    config: RunConfig
    model: ChatModel | Models | None
    """The models that were given as objects."""
    task: Problems | None
    """The task that was given as an object."""
    start: FunctionSet | None
    """The start set that was given as an object."""


def given(
    source: str,
    task: str | Problems,
    model: Model,
    *,
    start: Any,
    values: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Given:
    """Settings and objects from the arguments of ``source``, such as ``ao.train``.

    ``values`` are settings that have their own arguments, ``settings`` those given by nested or dotted keys. Raises
    ConfigError with the command line's messages.
    """
    extra = nested(settings)
    task_values, task_object = given_task(source, task, extra.get("task"))
    model_values, agent = given_model(source, "model", model)
    optimizer: ChatModel | None = None
    wanted = extra.get("optimizer_model")
    if wanted is not None and not isinstance(wanted, Mapping):
        extra["optimizer_model"], optimizer = given_model(source, "optimizer_model", wanted)
    base = merged({"task": task_values, "model": model_values}, dict(values))
    if isinstance(start, FunctionSet):
        start_object: FunctionSet | None = start
    else:
        start_object = None
        base["start_functions"] = None if start is None else path_text(source, "start_functions", start)
    everything = merged(base, extra)
    check_keys(everything, RunConfig, source)
    config = build(everything, source)
    return Given(config, both(source, agent, optimizer, one=wanted is None), task_object, start_object)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"trainer.max_epochs": 3, "seed": 1}`` as ``{"trainer": {"max_epochs": 3}, "seed": 1}``."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        inner: Any = dict(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            inner = {part: inner}
        values = merged(values, inner)
    return values


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The other way round."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def given_task(source: str, task: Any, extra: Any) -> tuple[dict[str, Any], Problems | None]:
    """The settings of a task, and the task if it is an object. ``extra``: what else is set of ``[task]``."""
    if isinstance(task, str):
        return {"spec": task}, None
    if not is_task(task):
        raise ConfigError(
            f"{source}: the task has the type {type(task).__name__}; give ao.task(data), or a spec such as "
            "'reasoning_gym:spell_backward'"
        )
    for key in ("spec", "settings"):
        if isinstance(extra, Mapping) and key in extra:
            raise ConfigError(f"{source}: task.{key} is for a task that is opened by its spec; leave it out")
    if isinstance(task, RowsTask):
        return {"spec": task.name, "settings": settings_of(task)}, task
    title = getattr(task, "name", type(task).__name__)
    return {"spec": f"{IN_PYTHON}{str(title).removeprefix(IN_PYTHON)}"}, check_task(task)


def given_model(source: str, argument: str, model: Any) -> tuple[dict[str, Any], ChatModel | None]:
    """The settings of a model, and the model if it is an object."""
    if isinstance(model, (str, PurePath)):
        return {"name": str(model)}, None
    if isinstance(model, Endpoint):
        return dict(model.settings), None
    if isinstance(model, ModelConfig):
        return model.model_dump(mode="json"), None
    if callable(getattr(model, "complete", None)) and not isinstance(model, type):
        title = getattr(model, "name", None) or getattr(model, "model", None) or type(model).__name__
        checked: ChatModel = model
        return {"name": f"{IN_PYTHON}{title}"}, checked
    raise ConfigError(
        f"{source}: {argument} {'is a class' if isinstance(model, type) else has_type(model)}; give a name, a "
        "folder, a hub id, ao.Endpoint(url, name), or an object with complete(request)"
    )


def both(source: str, agent: ChatModel | None, optimizer: ChatModel | None, *, one: bool) -> Models | None:
    """The models that were given as objects; None if none was. ``one``: the optimizer uses the agent's."""
    if agent is None and optimizer is None:
        return None
    if agent is not None and one:
        return Models.of(agent)
    if agent is None or optimizer is None:
        raise ConfigError(f"{source}: give both model and optimizer_model as objects, or neither")
    return Models(agent, optimizer, Models.of(agent).device)


def path_text(source: str, argument: str, value: Any) -> str:
    """A path that was given as text, as a path, or as an object that has one, such as a Run."""
    value = getattr(value, "path", value)
    if isinstance(value, (str, PurePath)):
        return str(value)
    raise ConfigError(f"{source}: {argument} {has_type(value)}; give a path")


def has_type(value: Any) -> str:
    """The type of a wrong argument, for an error."""
    return f"has the type {type(value).__name__}"


def check_callbacks(source: str, callbacks: Iterable[Callback]) -> list[Callback]:
    """``callbacks`` as a list. Raises ConfigError if one is not a Callback."""
    found: list[Callback] = list(callbacks)
    for each in found:
        if not isinstance(each, Callback):
            raise ConfigError(f"{source}: a callback {has_type(each)}; derive its class from ao.Callback")
    return found


def given_again(
    source: str, path: Path, model: Model | None, optimizer_model: Model | None
) -> tuple[ChatModel | Models | None, dict[str, Any]]:
    """The models given again for an existing run: objects, and settings that change for this process only.

    Raises ConfigError if a model has another name than the run's: rollouts of two models cannot be compared.
    """
    config = read_config(path)
    objects: dict[str, ChatModel | None] = {}
    elsewhere: dict[str, Any] = {}
    for argument, value in (("model", model), ("optimizer_model", optimizer_model)):
        if value is None:
            continue
        settings, objects[argument] = given_model(source, argument, value)
        known = getattr(config, argument) or config.model
        if objects[argument] is None:
            if settings["name"] != known.name:
                raise ConfigError(
                    f"{source}: {argument} = {settings['name']!r}, but the run's is {known.name!r}, which it keeps"
                )
            elsewhere[argument] = known.model_validate({**known.model_dump(), **settings})
    one = config.optimizer_model is None or optimizer_model is None
    return both(source, objects.get("model"), objects.get("optimizer_model"), one=one), elsewhere
