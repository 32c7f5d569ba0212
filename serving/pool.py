"""A pool of engine replicas: one ChatModel over N Ray actors, which outlives the death of any of them.

A request is a pure value, so one that a dying replica held is simply asked again: on another replica at once, or on
the same one when Ray has restarted it. What a rollout or a draft awaits is therefore either a whole answer or an
exception, never an answer that a fault cut short.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError, ModelOverloadedError
from serving.config import EngineConfig, HostedModel
from serving.engine import Engine, engine_environment
from serving.replica import Replica, ReplicaLostError

log = logging.getLogger(__name__)
NAMESPACE = "agentopt"
MAX_IN_FLIGHT = 65_536
"""Calls that an actor may hold at once. Admission is the caller's business; this must never be the limit."""
MAX_SESSIONS = 65_536
"""Sessions whose replica is remembered; the longest unused is forgotten first."""
MAX_TRIES = 3
"""How often one request is asked when engines die under it."""


class EnginePool:
    """Replicas of one model. A session stays on its replica; a new one goes to the least busy."""

    def __init__(self, actors: Sequence[Any], config: EngineConfig, hosted: HostedModel, *, own: bool = True) -> None:
        """``actors``: of :class:`~serving.actor.ModelActor`. Use :func:`start_pool`, :func:`host` or :func:`join`.

        ``own``: whether closing the pool ends the actors.
        """
        self.replicas = [Replica(actor, index) for index, actor in enumerate(actors)]
        self.config = config
        self.hosted = hosted
        self.own = own
        self._sessions: OrderedDict[str, int] = OrderedDict()
        self._returning: set[asyncio.Task[None]] = set()
        self._watchdog: asyncio.Task[None] | None = None

    @property
    def device(self) -> str:
        """``cpu`` or ``gpu``."""
        return self.hosted.device

    @property
    def kv_cache_tokens(self) -> int | None:
        """Tokens that the KV caches of the replicas that are up hold together; None if they do not tell."""
        held = [replica.kv_cache_tokens for replica in self.replicas if replica.up]
        return sum(each or 0 for each in held) if any(held) else None

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request`` on the replica of its session, or on another if that one is lost.

        Raises EngineDeadError, naming the replicas and what became of them, when none is left.
        """
        met: list[str] = []
        while len(met) < MAX_TRIES:
            replica = await self._route(request.session)
            try:
                return await replica.complete(request)
            except ModelOverloadedError as error:
                met.append(f"engine replica {replica.index}: {error}")
            except ReplicaLostError as error:
                met.append(str(error))
                self._lose(replica, error)
        raise EngineDeadError(
            f"a request ({request.session or 'without a session'}) was broken off {len(met)} times, so it may itself "
            f"be what ends the engine: {'; '.join(met)}"
        )

    async def start(self) -> None:
        """Wait until every replica has loaded. Raises EngineDeadError where one does not."""
        try:
            async with asyncio.TaskGroup() as group:
                for replica in self.replicas:
                    group.create_task(replica.arrive(self.config.start_timeout_s))
        except BaseExceptionGroup as errors:
            raise EngineDeadError(
                f"the engines for {self.hosted.model} did not start: {errors.exceptions[0]}"
            ) from None
        self._watchdog = asyncio.create_task(self._watch())

    async def _route(self, session: str | None) -> Replica:
        """The session's replica if it is up, else the least busy; waits where all are being restarted."""
        while not (up := [replica for replica in self.replicas if replica.up]):
            if not self._returning:
                fates = "; ".join(f"engine replica {each.index} {each.fate}" for each in self.replicas)
                raise EngineDeadError(f"no engine is left: {fates}" if fates else "the engine pool is closed")
            await asyncio.wait(self._returning, return_when=asyncio.FIRST_COMPLETED)
        index = self._sessions.get(session) if session is not None else None
        replica = self.replicas[index] if index is not None else None
        if replica is None or not replica.up:
            replica = min(up, key=lambda each: each.in_flight)
        if session is not None:
            self._sessions[session] = replica.index
            self._sessions.move_to_end(session)
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return replica

    def _lose(self, replica: Replica, error: ReplicaLostError) -> None:
        """Take a replica out and bring it back in the background; later reports of the same loss change nothing."""
        if not replica.up or replica.life != error.life:
            return
        replica.up, replica.fate = False, error.fate
        log.warning("engine replica %d %s; its requests are asked again", replica.index, error.fate)
        task = asyncio.create_task(self._bring_back(replica, kill=error.alive))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _bring_back(self, replica: Replica, *, kill: bool) -> None:
        """Let Ray restart the actor, as often as ``max_restarts`` allows, and wait until it is ready."""
        if kill:
            ray.kill(replica.actor, no_restart=False)
        try:
            await replica.arrive(self.config.start_timeout_s)
        except EngineDeadError as error:
            log.error("engine replica %d is not coming back: %s", replica.index, error)
        else:
            log.warning("engine replica %d is back", replica.index)

    async def _watch(self) -> None:
        """Find replicas that hold requests and answer none of them."""
        limit = self.config.stall_timeout_s
        while True:
            await asyncio.sleep(min(5.0, limit / 4))
            for replica in self.replicas:
                if replica.up and replica.silent_s() > limit:
                    fate = f"hung: it holds {replica.in_flight} requests and answered none for {limit:g} s"
                    self._lose(replica, ReplicaLostError.of(replica, fate, alive=True))

    async def aclose(self) -> None:
        """End every replica and its engine core, if they are this pool's own. Safe to call twice."""
        tasks = [*self._returning, *([self._watchdog] if self._watchdog else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        replicas, self.replicas = self.replicas, []
        if self.own:
            await asyncio.gather(*(replica.end() for replica in replicas))


def pick_device(config: EngineConfig) -> str:
    """``cpu`` or ``gpu``, checked against what the Ray cluster has."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    wanted = config.replicas * config.tensor_parallel_size
    if config.device == "cpu" or (config.device == "auto" and gpus == 0):
        return "cpu"
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
    env = engine_environment(config, cpu=cpu, cores=os.cpu_count() or 1)
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
