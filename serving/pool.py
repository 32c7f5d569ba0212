"""A pool of engine replicas: one ChatModel over N Ray actors."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from agentopt_local.chat import ChatReply, ChatRequest
from agentopt_local.errors import AgentOptError, ConfigError, EngineDeadError
from serving.config import EngineConfig
from serving.engine import engine_environment

log = logging.getLogger(__name__)
MAX_IN_FLIGHT = 65_536
"""Calls that an actor may hold at once. Admission is the caller's business; this must never be the limit."""
MAX_SESSIONS = 65_536
"""Sessions whose replica is remembered; the longest unused is forgotten first."""


class EnginePool:
    """Replicas of one model. A session stays on its replica; a new one goes to the least busy."""

    def __init__(self, actors: list[Any], *, device: str) -> None:
        """``actors``: handles of loaded engine actors. Use :func:`start_pool`."""
        self.actors = actors
        self.device = device
        """``cpu`` or ``gpu``."""
        self.in_flight = [0] * len(actors)
        self._sessions: OrderedDict[str, int] = OrderedDict()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request`` on the replica of its session."""
        index = self._route(request.session)
        self.in_flight[index] += 1
        reference = self.actors[index].complete.remote(request)
        try:
            reply = await reference
        except asyncio.CancelledError:
            ray.cancel(reference)  # the engine stops sampling: its place in the batch is free at once
            raise
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, AgentOptError):
                raise cause from None
            raise EngineDeadError(f"engine replica {index} failed: {cause!r}") from error
        except RayError as error:  # the actor's process ended, or Ray ended it to save memory
            raise EngineDeadError(f"engine replica {index} has died: {first_line(error)}") from None
        finally:
            self.in_flight[index] -= 1
        assert isinstance(reply, ChatReply)
        return reply

    def _route(self, session: str | None) -> int:
        if session is not None and session in self._sessions:
            self._sessions.move_to_end(session)
            return self._sessions[session]
        if not self.actors:
            raise EngineDeadError("the engine pool is closed")
        index = min(range(len(self.actors)), key=self.in_flight.__getitem__)
        if session is not None:
            self._sessions[session] = index
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return index

    async def aclose(self) -> None:
        """End every replica and its engine core."""
        actors, self.actors = self.actors, []
        for actor in actors:
            try:
                await asyncio.wait_for(actor.close.remote(), timeout=20)
            except (RayError, TimeoutError) as error:
                log.debug("closing a replica: %r", error)
            ray.kill(actor)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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


async def start_pool(model: Path, config: EngineConfig) -> EnginePool:
    """Start ``config.replicas`` actors on the connected Ray cluster and wait until all have loaded ``model``.

    Raises ConfigError where the cluster lacks the GPUs, EngineDeadError where a replica does not come up.
    """
    from serving.actor import EngineActor

    device = pick_device(config)
    cpu = device == "cpu"
    env = engine_environment(config, cpu=cpu, cores=os.cpu_count() or 1)
    remote = ray.remote(EngineActor).options(
        num_cpus=0,
        num_gpus=0 if cpu else config.tensor_parallel_size,
        max_concurrency=MAX_IN_FLIGHT,
        runtime_env={"env_vars": env},
    )
    pool = EnginePool([remote.remote(str(model), config, cpu) for _ in range(config.replicas)], device=device)
    try:
        waiting = [asyncio.wrap_future(actor.ready.remote().future()) for actor in pool.actors]
        await asyncio.wait_for(asyncio.gather(*waiting), timeout=config.start_timeout_s)
    except (RayError, TimeoutError) as error:
        await pool.aclose()
        why = f"not ready after {config.start_timeout_s:g} s" if isinstance(error, TimeoutError) else str(error)
        raise EngineDeadError(f"the engine for {model} did not start: {why}") from None
    except asyncio.CancelledError:
        await pool.aclose()
        raise
    return pool
