"""A pool of engine replicas: one ChatModel over N Ray actors that survives the loss of any of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import ActorDiedError, RayError

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError, ModelError
from serving.actor_pool import MAX_IN_FLIGHT, ActorPool
from serving.cpu import cores
from serving.engine import Engine
from serving.engine_config import EngineConfig, HostedModel
from serving.facts import EngineCounters, EngineFacts
from serving.placement import Placement, release_named, reserve
from serving.replica import Replica, ReplicaLostError
from serving.turns import Turns
from serving.vllm_options import engine_environment

NAMESPACE = "agentopt"
COUNTERS_TIMEOUT_S = 2.0


class EnginePool(ActorPool):
    """Replicas of one model; see :class:`~serving.actor_pool.ActorPool` for how requests are routed."""

    def __init__(
        self,
        actors: Sequence[Any],
        config: EngineConfig,
        hosted: HostedModel,
        *,
        owned: bool = True,
        place: Placement | None = None,
    ) -> None:
        """``actors``: of :class:`~serving.actor.ModelActor`. Prefer :func:`start_pool`, :func:`host` and :func:`join`.

        ``owned``: whether closing the pool ends the actors. ``place``: what it then gives back.
        """
        super().__init__(
            actors,
            noun="engine replica",
            start_timeout_s=config.start_timeout_s,
            stall_timeout_s=config.stall_timeout_s,
            fatal_errors=(EngineDeadError,),  # the engine core has ended
            owned=owned,
        )
        self.config = config
        self.hosted = hosted
        self.place = place
        self._awake = self._was_awake = False
        """Whether it is this pool's turn, and ever was, if it takes turns."""

    @property
    def turns(self) -> Turns | None:
        """If its engines use the same memory as those of other pools, and work in turn with them."""
        return self.place.turns if self.place else None

    @property
    def device(self) -> str:
        """``cpu`` or ``gpu``."""
        return self.hosted.device

    @property
    def kv_cache_tokens(self) -> int | None:
        """Total capacity, in tokens, of the KV caches of the replicas that are up; None if it is not known."""
        sizes = [replica.facts.kv_cache_tokens for replica in self.replicas if replica.up and replica.facts]
        return sum(size or 0 for size in sizes) if any(sizes) else None

    @property
    def max_num_seqs(self) -> int | None:
        """Sequences in the largest batches of all replicas; None if the model is not an engine."""
        facts = self.facts
        return facts.max_num_seqs * self.hosted.replicas if facts and facts.max_num_seqs else None

    @property
    def facts(self) -> EngineFacts | None:
        """Of the first engine that is up; None if the model is not an engine."""
        return next((replica.facts for replica in self.replicas if replica.up), None)

    @property
    def context_tokens(self) -> int | None:
        """Longest prompt plus reply, in tokens; None if the model is not an engine."""
        return self.facts.max_model_len or None if self.facts else None

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Tokens of a prompt, counted by one of the replicas; None if the model does not count."""
        return cast("int | None", await self.call("count_tokens", request, what="a count of tokens"))

    async def counters(self) -> EngineCounters | None:
        """The sum over the engines that answer promptly; None if none does, or the model does not count."""
        calls = [replica.actor.counters.remote() for replica in self.replicas if replica.up]
        answers = await asyncio.gather(
            *(asyncio.wait_for(call, COUNTERS_TIMEOUT_S) for call in calls), return_exceptions=True
        )
        found = [answer for answer in answers if isinstance(answer, EngineCounters)]
        return sum(found, EngineCounters()) if found else None

    def connector(self) -> Callable[[], EnginePool]:
        """A picklable function that makes a pool over the same engines in another process of the cluster.

        Closing that pool leaves the engines alive.
        """
        actors = [replica.actor for replica in self.replicas]
        return partial(EnginePool, actors, self.config, self.hosted, owned=False)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request`` on the replica of its conversation, or on another if that one is lost.

        Raises EngineDeadError; see :meth:`~serving.actor_pool.ActorPool.call`.
        """
        what = f"a request ({request.conversation or 'of no conversation'})"
        async with self.turns.turn_of(self) if self.turns else contextlib.nullcontext():
            reply = await self.call("complete", request, what=what, conversation=request.conversation)
        assert isinstance(reply, ChatReply)
        return reply

    async def sleep(self) -> None:
        """Have the engines give their memory back."""
        self._awake = False
        await asyncio.gather(*(self._settle(replica, "sleep") for replica in self.replicas if replica.up))
        while self._restarting:  # what is being ended still has its memory; the next life begins asleep
            await asyncio.wait(self._restarting)

    async def wake(self) -> None:
        """Have the engines take their memory; what was lost in its sleep is restarted, and wakes then.

        Raises ConfigError, and the first time EngineDeadError if one cannot.
        """
        self._awake = True
        up = [replica for replica in self.replicas if replica.up]
        losses = [each for each in await asyncio.gather(*(self._settle(one, "wake") for one in up)) if each]
        if losses and not self._was_awake:
            self._awake = False
            raise EngineDeadError(f"the engines for {self.hosted.model} did not start: {losses[0]}")
        self._was_awake = True

    async def _settle(self, replica: Replica, method: str) -> ReplicaLostError | None:
        """Have a replica sleep or wake. Returns its loss if it cannot."""
        replica.settling = True
        try:
            async with asyncio.timeout(self.start_timeout_s):
                replica.incarnation, facts = await replica.call(method)
            replica.facts = facts or replica.facts
            return None
        except ReplicaLostError as error:
            loss = error
        except ModelError as error:  # what vLLM raised, such as the end of its core
            why = getattr(error.__cause__, "cause", error)
            loss = ReplicaLostError.of(replica, f"could not {method}: {why!r}", alive=True)
        except TimeoutError:
            loss = ReplicaLostError.of(replica, f"did not {method} within {self.start_timeout_s:g} s", alive=True)
        finally:
            replica.settling = False
        self._lose(replica, loss)
        return loss

    async def _restart(self, replica: Replica, error: ReplicaLostError) -> None:
        await super()._restart(replica, error)
        if replica.up and self._awake:
            await self._settle(replica, "wake")

    async def start(self) -> None:
        """Wait until every replica has loaded. Raises EngineDeadError if one does not."""
        try:
            await super().start()
        except EngineDeadError as error:
            raise EngineDeadError(f"the engines for {self.hosted.model} did not start: {error}") from None

    async def aclose(self) -> None:
        """End the actors if this pool owns them, and give back their GPUs. Safe to call twice."""
        await super().aclose()
        if self.owned and self.place is not None:
            self.place.release()


async def start_pool(
    model: Path,
    config: EngineConfig,
    *,
    name: str | None = None,
    place: Placement | None = None,
    chat_template: str | None = None,
    day: date | None = None,
) -> EnginePool:
    """vLLM with ``model`` in ``config.replicas`` actors on the connected Ray cluster, all loaded.

    ``name``: the model's name in the settings. ``place``: reserved for it, if several pools start. ``chat_template``:
    Jinja in place of the model's own. ``day``: the current date to templates that show it, today if None. Raises
    ConfigError if the cluster lacks the GPUs, vLLM refuses a setting or the template cannot be used, EngineDeadError if
    a replica does not start.
    """
    place = place or (await reserve({"engine": config}))["engine"]
    cpu = place.device == "cpu"
    env = engine_environment(config, cpu=cpu, cores=cores())
    hosted = HostedModel(model=name or str(model), device=place.device, replicas=config.replicas)
    day = day or date.today()  # of all replicas, restarted ones too
    where = {"cpu": cpu, "spans": place.spans, "sleeps": place.turns is not None}
    make = partial(Engine, model, config, **where, chat_template=chat_template, day=day)
    return await host(make, config, hosted, place=place, env=env)


async def host(
    make: Callable[[], ChatModel],
    config: EngineConfig,
    hosted: HostedModel,
    *,
    place: Placement | None = None,
    env: dict[str, str] | None = None,
) -> EnginePool:
    """``hosted.replicas`` actors, each with its own model, which the picklable ``make`` makes in the actor's process.

    Without a ``place`` the actors are spread over the nodes of the cluster. With ``config.pool_name`` they outlive this
    process: see :func:`join`.
    """
    from serving.actor import ModelActor

    place = place or Placement(config)
    options: dict[str, Any] = {"namespace": NAMESPACE, "lifetime": "detached"} if config.pool_name else {}
    remote = ray.remote(ModelActor)
    actors: list[Any] = []
    async with contextlib.AsyncExitStack() as on_error:
        on_error.callback(place.release)
        on_error.callback(lambda: [ray.kill(actor) for actor in actors])
        for index in range(hosted.replicas):
            named = {} if config.pool_name is None else {"name": actor_name(config.pool_name, index)}
            actor = remote.options(
                num_cpus=0,
                max_concurrency=MAX_IN_FLIGHT,
                max_restarts=config.max_restarts,
                runtime_env={"env_vars": (env or {}) | place.environment(index)},
                **{**options, **named, **place.options(index)},
            ).remote(make, hosted, asleep=place.turns is not None)
            actors.append(actor)
            if config.gpu_fraction < 1:  # vLLM measures the free memory while it starts, so one after another
                with contextlib.suppress(RayError, TimeoutError):  # start() says what is wrong
                    await asyncio.wait_for(actor.ready.remote(), timeout=config.start_timeout_s)
        pool = EnginePool(actors, config, hosted, place=place)
        on_error.push_async_callback(pool.aclose)
        await pool.start()
        if pool.turns:
            async with pool.turns.turn_of(pool):  # loads it, once the others sleep
                pass
        on_error.pop_all()
    return pool


async def join(config: EngineConfig, model: str) -> EnginePool:
    """The pool called ``config.pool_name``, which another process started on the connected cluster.

    Raises ConfigError if there is no such pool, or it does not host ``model``.
    """
    name = config.pool_name
    assert name is not None
    try:
        first = ray.get_actor(actor_name(name, 0), namespace=NAMESPACE)
        hosted: HostedModel = await first.describe.remote()
        others = [ray.get_actor(actor_name(name, index), namespace=NAMESPACE) for index in range(1, hosted.replicas)]
    except (ValueError, ActorDiedError):
        raise ConfigError(
            f"engine.pool_name = {name!r}: the Ray cluster has no such engines; start them with "
            f"'agentopt serve CONFIG --engine.pool_name {name}', or leave pool_name out"
        ) from None
    if hosted.model != model:
        raise ConfigError(f"model.name = {model!r}, but the engines called {name!r} host {hosted.model!r}")
    pool = EnginePool([first, *others], config, hosted, owned=False)
    await pool.start()
    return pool


def is_served(name: str) -> bool:
    """Whether the connected cluster has a pool called ``name``."""
    with contextlib.suppress(ValueError):
        return ray.get_actor(actor_name(name, 0), namespace=NAMESPACE) is not None
    return False


def end_named(name: str) -> int:
    """End the actors of a named pool and give back their GPUs. Returns how many there were."""
    ended = 0
    with contextlib.suppress(ValueError, RayError):
        while True:
            ray.kill(ray.get_actor(actor_name(name, ended), namespace=NAMESPACE))
            ended += 1
    release_named(name)
    return ended


def actor_name(pool: str, index: int) -> str:
    """The name of a replica's actor on the cluster."""
    return f"engine/{pool}/{index}"
