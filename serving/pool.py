"""A pool of engine replicas: one ChatModel over N Ray actors, which outlives the death of any of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError
from serving.actor_pool import MAX_IN_FLIGHT, ActorPool
from serving.config import EngineConfig, HostedModel
from serving.cpu import cores
from serving.engine import Engine, engine_environment
from serving.facts import EngineFacts, Pulse

NAMESPACE = "agentopt"
PULSE_TIMEOUT_S = 2.0


class EnginePool(ActorPool):
    """Replicas of one model. A session stays on its replica; a new one goes to the least busy."""

    def __init__(self, actors: Sequence[Any], config: EngineConfig, hosted: HostedModel, *, own: bool = True) -> None:
        """``actors``: of :class:`~serving.actor.ModelActor`. Use :func:`start_pool`, :func:`host` or :func:`join`.

        ``own``: whether closing the pool ends the actors.
        """
        super().__init__(
            actors,
            noun="engine replica",
            start_timeout_s=config.start_timeout_s,
            stall_timeout_s=config.stall_timeout_s,
            ends_with=(EngineDeadError,),  # the engine core has ended
            own=own,
        )
        self.config = config
        self.hosted = hosted

    @property
    def device(self) -> str:
        """``cpu`` or ``gpu``."""
        return self.hosted.device

    @property
    def kv_cache_tokens(self) -> int | None:
        """Tokens that the KV caches of the replicas that are up hold together; None if they do not tell."""
        held = [replica.facts.kv_cache_tokens for replica in self.replicas if replica.up and replica.facts]
        return sum(each or 0 for each in held) if any(held) else None

    @property
    def facts(self) -> EngineFacts | None:
        """Of the first engine that is up; None for models that are none."""
        return next((replica.facts for replica in self.replicas if replica.up), None)

    async def pulse(self) -> Pulse | None:
        """What the engines have done so far, together, as far as they answer at once; None if they do not tell."""
        asked = [replica.actor.pulse.remote() for replica in self.replicas if replica.up]
        told = await asyncio.gather(
            *(asyncio.wait_for(each, PULSE_TIMEOUT_S) for each in asked), return_exceptions=True
        )
        found = [each for each in told if isinstance(each, Pulse)]
        return sum(found, Pulse()) if found else None

    def elsewhere(self) -> Callable[[], EnginePool]:
        """What makes, in another process of the cluster, a pool over the same engines that leaves them alive."""
        actors = [replica.actor for replica in self.replicas]
        return partial(EnginePool, actors, self.config, self.hosted, own=False)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request`` on the replica of its session, or on another if that one is lost.

        Raises EngineDeadError, naming the replicas and what became of them, when none is left.
        """
        what = f"a request ({request.session or 'without a session'})"
        reply = await self.ask("complete", request, what=what, session=request.session)
        assert isinstance(reply, ChatReply)
        return reply

    async def start(self) -> None:
        """Wait until every replica has loaded. Raises EngineDeadError where one does not."""
        try:
            await super().start()
        except EngineDeadError as error:
            raise EngineDeadError(f"the engines for {self.hosted.model} did not start: {error}") from None


def pick_device(config: EngineConfig) -> str:
    """``cpu`` or ``gpu``, checked against what the Ray cluster has."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    wanted = config.replicas * config.tensor_parallel_size
    if config.device == "cpu" or (config.device == "auto" and gpus == 0):
        return "cpu"
    if config.quantization == "int8":
        raise ConfigError(
            "engine.quantization = 'int8' is made for CPU engines, and this cluster has GPUs: leave it out, give a "
            "model whose files are quantized, or set engine.device = 'cpu'"
        )
    if gpus < wanted:
        raise ConfigError(
            f"engine.replicas × engine.tensor_parallel_size = {wanted} GPUs, but the Ray cluster has {gpus}; "
            "lower them, or set engine.device = 'cpu'"
        )
    return "gpu"


async def start_pool(model: Path, config: EngineConfig, *, name: str | None = None) -> EnginePool:
    """vLLM with ``model`` in ``config.replicas`` actors on the connected Ray cluster, all loaded.

    ``name``: the model's name in the settings. Raises ConfigError where the cluster lacks the GPUs, EngineDeadError
    where a replica does not come up.
    """
    device = pick_device(config)
    cpu = device == "cpu"
    env = engine_environment(config, cpu=cpu, cores=cores())
    hosted = HostedModel(model=name or str(model), device=device, replicas=config.replicas)
    gpus = 0 if cpu else config.tensor_parallel_size
    return await host(partial(Engine, model, config, cpu=cpu), config, hosted, gpus=gpus, env=env)


async def host(
    make: Callable[[], ChatModel],
    config: EngineConfig,
    hosted: HostedModel,
    *,
    gpus: int = 0,
    env: dict[str, str] | None = None,
) -> EnginePool:
    """``hosted.replicas`` actors, each with a model of its own that ``make`` (picklable) makes there.

    Actors spread over the nodes of the cluster. With ``config.pool_name`` they outlive this process: see :func:`join`.
    """
    from serving.actor import ModelActor

    options: dict[str, Any] = {}
    if config.pool_name is not None:
        options = {"namespace": NAMESPACE, "lifetime": "detached"}
    remote = ray.remote(ModelActor)
    actors = [
        remote.options(
            num_cpus=0,
            num_gpus=gpus,
            max_concurrency=MAX_IN_FLIGHT,
            max_restarts=config.max_restarts,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": env or {}},
            **options | ({"name": actor_name(config.pool_name, index)} if config.pool_name is not None else {}),
        ).remote(make, hosted)
        for index in range(hosted.replicas)
    ]
    pool = EnginePool(actors, config, hosted)
    try:
        await pool.start()
    except BaseException:
        await pool.aclose()
        raise
    return pool


async def join(config: EngineConfig, model: str) -> EnginePool:
    """The pool called ``config.pool_name``, which another process started on the connected cluster.

    Raises ConfigError if there is none, or it hosts another model than ``model``.
    """
    name = config.pool_name
    assert name is not None
    try:
        first = ray.get_actor(actor_name(name, 0), namespace=NAMESPACE)
        hosted: HostedModel = await first.about.remote()
        others = [ray.get_actor(actor_name(name, index), namespace=NAMESPACE) for index in range(1, hosted.replicas)]
    except (ValueError, ActorDiedError):
        raise ConfigError(
            f"engine.pool_name = {name!r}: the Ray cluster has no such engines; start them with "
            f"'agentopt serve CONFIG --engine.pool_name {name}', or leave pool_name out"
        ) from None
    if hosted.model != model:
        raise ConfigError(f"model.name = {model!r}, but the engines called {name!r} host {hosted.model!r}")
    pool = EnginePool([first, *others], config, hosted, own=False)
    await pool.start()
    return pool


def is_served(name: str) -> bool:
    """Whether the connected cluster has a pool called ``name``."""
    try:
        ray.get_actor(actor_name(name, 0), namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def end_named(name: str) -> int:
    """End the actors of a named pool; how many there were."""
    ended = 0
    with contextlib.suppress(ValueError, RayError):
        while True:
            ray.kill(ray.get_actor(actor_name(name, ended), namespace=NAMESPACE))
            ended += 1
    return ended


def actor_name(pool: str, index: int) -> str:
    """The name of a replica's actor on the cluster."""
    return f"engine/{pool}/{index}"
