"""Opening a run's models: engines started for it, engines joined by name, or endpoints."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from agentopt_local.chat import ChatModel
from agentopt_local.errors import ConfigError
from agentopt_local.rollout import Progress
from agentopt_local.run.rows import Role
from agentopt_local.stage import Stage
from agentopt_local.tasks.base import IN_PYTHON
from ray_jobs.config import RunConfig
from ray_jobs.model_config import ModelConfig
from serving.engine_config import EngineConfig

if TYPE_CHECKING:
    from serving.facts import EngineFacts
    from serving.placement import Placement

ENDPOINT_CONCURRENCY = 64
"""Requests in flight at an endpoint with ``concurrency = "auto"``."""


@dataclass(frozen=True)
class Models:
    """A run's open models; both roles may share one."""

    agent: ChatModel
    optimizer: ChatModel
    device: str
    """Where the agent's model runs: ``cpu``, ``gpu``, ``endpoint``, or ``external`` for a caller's model."""

    def by_role(self) -> dict[Role, ChatModel]:
        """The different models; one that both roles share is the agent's."""
        both: dict[Role, ChatModel] = {"agent": self.agent}
        return both if self.optimizer is self.agent else {**both, "optimizer": self.optimizer}

    @staticmethod
    def of(model: ChatModel | Models) -> Models:
        """A caller's models as they are, or one model for both roles."""
        if isinstance(model, Models):
            return model
        return Models(model, model, str(getattr(model, "device", "external")))


def check_model(config: RunConfig, run: Path | None = None) -> None:
    """Before anything is started, raise ConfigError if a model to be hosted is not on this machine, or if the installed
    vLLM does not know a setting of its engine, or if engines are to take turns that cannot.

    ``run`` is the run's folder, for the message about a model that was given in Python.
    """
    from serving.model_store import resolve
    from serving.vllm_arguments import check_arguments

    check_turns(config)
    for table, (model, engine) in hosted_models(config).items():
        if model.name.startswith(IN_PYTHON):
            where = "RUN" if run is None else repr(str(run))
            raise ConfigError(
                f"the model {model.name.removeprefix(IN_PYTHON)!r} was given in Python and cannot be opened here; from "
                f"Python, continue with ao.resume({where}, model=...), or ask it with ao.load({where}).agent(model=...)"
            )
        resolve(model.name, allow_fetch=False)
        check_arguments(engine, table)


def hosted_models(config: RunConfig) -> dict[str, tuple[ModelConfig, EngineConfig]]:
    """The models that this run starts engines for, by the table of their engines' settings."""
    roles = {"engine": (config.model, config.engine)}
    other = optimizer_of(config)
    if other is not None:
        roles["optimizer_engine"] = other
    return {
        table: (model, engine)
        for table, (model, engine) in roles.items()
        if model.base_url is None and engine.pool_name is None
    }


def agent_alone(config: RunConfig) -> RunConfig:
    """The settings without those of a separate optimizer, for what only asks the agent."""
    return config.model_copy(update={"optimizer_model": None, "optimizer_engine": None, "take_turns": False})


def check_turns(config: RunConfig) -> None:
    """Raise ConfigError if the engines of a training are to take turns and cannot."""
    if not config.take_turns:
        return
    hosted = hosted_models(config)
    if len(hosted) < 2:
        raise ConfigError(
            "take_turns = true is for two models that this run starts engines for: set optimizer_model.name, or leave "
            "take_turns out"
        )
    for table, (_, engine) in hosted.items():
        if engine.gpu_fraction < 1:
            raise ConfigError(
                f"{table}.gpu_fraction = {engine.gpu_fraction:g}, but with take_turns = true an engine has the whole "
                "GPU while it works: leave one of the two out"
            )


def optimizer_of(config: RunConfig) -> tuple[ModelConfig, EngineConfig] | None:
    """The optimizer's model and engine; None if it shares the agent's."""
    model, engine = config.optimizer_model or config.model, config.optimizer_engine or config.engine
    same = model.same_model(config.model) and (model.base_url is not None or engine == config.engine)
    return None if same else (model, engine)


def use_cluster(config: RunConfig, stack: AsyncExitStack) -> None:
    """Join or start the Ray cluster of a run, unless this process is connected already. ``stack`` leaves it."""
    import ray

    from ray_jobs.cluster import connect, disconnect
    from ray_jobs.serve import cluster_of

    if ray.is_initialized():
        return
    roles = [(config.model, config.engine), *([other] if (other := optimizer_of(config)) else [])]
    joins = any(engine.pool_name for model, engine in roles if model.base_url is None)
    connect(cluster_of(config) if joins else config.ray)
    stack.callback(disconnect)


async def open_models(
    config: RunConfig, stack: AsyncExitStack, progress: Progress, *, day: date | None = None
) -> Models:
    """Open the configured models; roles with the same settings share one.

    ``stack`` closes them. ``day``: the current date to chat templates that show it, today if None. Raises ConfigError
    if the cluster does not have the GPUs for all engines, and EngineDeadError if an engine does not start.
    """
    places: dict[str, Placement] = {}
    hosted = hosted_models(config)
    if hosted:
        from serving.placement import reserve, reserve_in_turns

        progress(Stage(part="starting Ray"), 0, 0)
        use_cluster(config, stack)
        in_turns = config.take_turns and len(hosted) > 1
        engines = {table: engine for table, (_, engine) in hosted.items()}
        places = await (reserve_in_turns(engines) if in_turns else reserve(engines))
        for place in places.values():
            stack.callback(place.release)
    other = optimizer_of(config)
    optimizer = None
    if other is not None:  # before the agent, which is asked first: if they take turns, the last one is awake
        reserved = places.get("optimizer_engine")
        optimizer, _ = await open_model(*other, config, stack, progress, place=reserved, day=day)
    agent, device = await open_model(
        config.model, config.engine, config, stack, progress, place=places.get("engine"), day=day
    )
    check_thinking("model", config.model, agent)
    optimizer = optimizer or agent
    if config.optimizer_model is not None:
        check_thinking("optimizer_model", config.optimizer_model, optimizer)
    return Models(agent, optimizer, device)


def check_thinking(table: str, model: ModelConfig, opened: ChatModel) -> None:
    """Raise ConfigError if the settings in ``table`` want thoughts of a model that has none."""
    facts: EngineFacts | None = getattr(opened, "facts", None)
    wanted = model.thinking not in ("auto", "off", 0)
    if wanted and facts is not None and facts.thinks == "never":
        raise ConfigError(
            f"{table}.thinking = {model.thinking!r}, but the chat template of {model.name} has no thoughts; leave it "
            "out, or choose a model that thinks"
        )


async def open_model(
    model: ModelConfig,
    engine: EngineConfig,
    config: RunConfig,
    stack: AsyncExitStack,
    progress: Progress,
    *,
    place: Placement | None = None,
    day: date | None = None,
) -> tuple[ChatModel, str]:
    """Open a model and say where it runs: ``cpu``, ``gpu`` or ``endpoint``. ``stack`` closes it.

    ``place``: what was reserved for its engines. ``day``: as in :func:`open_models`; engines that are joined have one.
    """
    if model.base_url is not None:
        from agentopt_local.models.openai import OpenAIChatModel

        endpoint = OpenAIChatModel(
            model.base_url,
            model.name,
            api_key_env=model.api_key_env,
            timeout_s=model.timeout_s,
            max_retries=model.max_retries,
            max_concurrency=model.max_concurrency
            or (ENDPOINT_CONCURRENCY if config.concurrency == "auto" else config.concurrency),
            requests_per_minute=model.requests_per_minute,
            structured=model.structured,
            send_seed=model.send_seed,
        )
        stack.push_async_callback(endpoint.aclose)
        return endpoint, "endpoint"
    if engine.pool_name is not None:
        from serving.pool import join

        if model.chat_template is not None:
            raise ConfigError(
                f"model.chat_template: the engines called {engine.pool_name!r} have their template already; give it to "
                "'agentopt serve', or leave it out here"
            )
        progress(Stage(part=f"joining the engines called {engine.pool_name}"), 0, 0)
        use_cluster(config, stack)
        joined = await join(engine, model.name)
        stack.push_async_callback(joined.aclose)
        return joined, joined.device
    from serving.model_store import resolve

    path = resolve(model.name, allow_fetch=False)
    progress(Stage(part="starting Ray"), 0, 0)
    use_cluster(config, stack)
    progress(Stage(part=f"loading {model.name} into vLLM"), 0, 0)
    from serving.pool import start_pool

    pool = await start_pool(path, engine, name=model.name, place=place, chat_template=model.chat_template, day=day)
    stack.push_async_callback(pool.aclose)
    return pool, pool.device
