"""This package's sandbox: a fork server with a new locked-down process per call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import math
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentopt_local.concurrency import together
from agentopt_local.errors import SandboxError
from agentopt_local.sandbox import selftest
from agentopt_local.sandbox.base import Execution, SandboxLimits
from agentopt_local.sandbox.connection import Reply
from agentopt_local.sandbox.decode import MAX_BATCH_BYTES, Room, to_execution
from agentopt_local.sandbox.requests import encode, refuse_call, refuse_text
from agentopt_local.sandbox.worker_pool import WorkerPool
from agentopt_local.setting_types import MAX_SECONDS

_LOG = logging.getLogger(__name__)
_MAX_WORKERS = 8
_MIN_BATCH = 32
_MAX_BATCH = 256


class ForkServerSandbox:
    """A :class:`~agentopt_local.sandbox.base.Sandbox`; make it with :func:`open_sandbox`.

    It starts with ``async with``, :meth:`start` or the first call, and belongs to one event loop of one process.
    """

    def __init__(
        self,
        limits: SandboxLimits,
        workers: int | None = None,
        preload: Sequence[str] = (),
        *,
        allow_weak: bool = False,
        layers_off: Sequence[str] = (),
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.limits = limits
        self._allow_weak = allow_weak
        self._layers: dict[str, str] = {}
        self._starting = asyncio.Lock()
        count = workers or min(_cpu_count(), _MAX_WORKERS)
        self._pool = WorkerPool(limits, count, preload, layers_off)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Start the processes and test the layers of protection. Safe to call twice.

        Raises :class:`SandboxError` if the machine cannot run code safely and ``allow_weak`` is not set.
        """
        async with self._starting, AsyncExitStack() as on_error:
            if self._layers:
                return
            on_error.push_async_callback(self._pool.aclose)
            await self._pool.start()
            self._layers = await self._check_layers()
            on_error.pop_all()

    async def aclose(self) -> None:
        """End all processes and remove their folders. Safe to call twice."""
        await self._pool.aclose()

    def describe_layers(self) -> dict[str, str]:
        """Layer name -> "on", or why it is not in force; "minimum" covers those that are required.

        Empty before the start.
        """
        return dict(self._layers)

    def describe_processes(self) -> dict[str, Any]:
        """For benchmarks and tests: the number of workers, and the launcher's process id, folder and greeting."""
        launcher = self._pool.launcher
        if launcher is None:
            return {"workers": self._pool.count}
        facts = {"launcher": launcher.process.pid, "workers": self._pool.count, "root": os.fspath(launcher.root)}
        return facts | launcher.hello

    async def call(
        self,
        source: str,
        name: str,
        arguments: dict[str, Any],
        *,
        timeout_s: float | None = None,
        seed: int = 0,
    ) -> Execution:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`."""
        limit = self._timeout(timeout_s)
        refusal = refuse_call(source, name, [arguments])
        if refusal:
            return refusal
        request = {"functions": source, "name": name, "arguments": arguments, "batch": False, "seed": seed}
        return (await self._execute(request, limit, 1))[0]

    async def run(
        self,
        code: str,
        *,
        functions: str = "",
        timeout_s: float | None = None,
        seed: int = 0,
    ) -> Execution:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`."""
        if refusal := refuse_text(code, functions):
            return refusal
        request: dict[str, Any] = {"code": code, "functions": functions, "name": None, "arguments": {}}
        request |= {"batch": False, "seed": seed}
        return (await self._execute(request, self._timeout(timeout_s), 1))[0]

    async def call_many(
        self,
        source: str,
        name: str,
        arguments: list[dict[str, Any]],
        *,
        timeout_s: float | None = None,
        seed: int = 0,
    ) -> list[Execution]:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`.

        Up to 256 calls share a process. Each has its own copy of the source's globals but may see what earlier calls
        changed in imported modules. After the first call that neither returns nor raises, the remaining calls of its
        process get a process each.
        """
        limit = self._timeout(timeout_s)
        refusal = refuse_call(source, name, arguments)
        if refusal:
            return [refusal] * len(arguments)
        size = min(max(math.ceil(len(arguments) / self._pool.count), _MIN_BATCH), _MAX_BATCH)
        shares = [arguments[start : start + size] for start in range(0, len(arguments), size)]
        room = Room(max(MAX_BATCH_BYTES, self.limits.result_bytes))
        request = {"functions": source, "name": name, "seed": seed}
        results = await together(self._call_share(request, share, limit, room) for share in shares)
        return [execution for executions in results for execution in executions]

    async def _call_share(
        self, request: dict[str, Any], arguments: list[dict[str, Any]], timeout_s: float, room: Room
    ) -> list[Execution]:
        results: list[Execution] = []
        if len(arguments) > 1 and room.left >= 0:
            batch = request | {"arguments": arguments, "batch": True}
            for execution in await self._execute(batch, timeout_s, len(arguments), room):
                if execution.status not in ("ok", "exception", "result_too_large"):
                    break
                results.append(execution)
        for each in arguments[len(results) :]:
            single = request | {"arguments": each, "batch": False}
            results += [room.refusal] if room.left < 0 else await self._execute(single, timeout_s, 1, room)
        return results

    async def _execute(
        self, request: dict[str, Any], timeout_s: float, count: int, room: Room | None = None
    ) -> list[Execution]:
        """Send a request. Returns one execution per reply, and a last one that says so if the worker was lost."""
        body = encode(request, timeout_s, count)
        if isinstance(body, Execution):
            return [body]
        await self.start()
        replies = await self._pool.perform(body, timeout_s, count, room.left if room else 0)
        executions = []
        for reply in replies:
            _check_protected(reply)
            executions.append(
                room.refusal
                if room and not room.takes(reply)
                else to_execution(reply, self.limits, timeout_s, batch=request["batch"])
            )
        if not replies or not replies[-1].facts["last"]:
            text = "the process that ran the code was lost; the call can be repeated"
            executions.append(Execution(ok=False, status="worker_lost", error=text))
        return executions

    def _timeout(self, timeout_s: float | None) -> float:
        limit = self.limits.timeout_s if timeout_s is None else timeout_s
        if not 0 < limit <= MAX_SECONDS:
            raise ValueError(f"timeout_s must be above 0 and at most {MAX_SECONDS:g} seconds, not {limit}")
        return float(limit)

    async def _check_layers(self) -> dict[str, str]:
        """The layers in force, tested by attacks from inside. Raises :class:`SandboxError` below the minimum."""
        launcher = self._pool.launcher
        assert launcher is not None
        layers: dict[str, str] = dict(launcher.hello["layers"])
        weak = [f"{name}: {layers[name]}" for name in ("rlimits", "seccomp") if layers[name] != "on"]
        if layers["landlock"] != "on" and launcher.hello["files"] != "none":
            weak.append(f"landlock: {layers['landlock']}")
        through = await self._attack(launcher.root)
        layers["self_test"] = "; ".join(f"the code {name}" for name in through) or "on"
        if through:
            weak.append(f"self-test: {layers['self_test']}")
        layers["minimum"] = "; ".join(weak) or "on"
        if weak and not self._allow_weak:
            raise SandboxError(
                "this machine cannot confine generated code: "
                + "; ".join(weak)
                + ". Use Linux 5.13 or newer with seccomp, or set sandbox.allow_weak = true to run it anyway"
            )
        if weak:
            _LOG.warning("generated code runs with weak walls: %s", "; ".join(weak))
        return layers

    async def _attack(self, root: Path) -> list[str]:
        """The attacks of :mod:`~agentopt_local.sandbox.selftest` that succeed."""
        canary = root / "canary"
        canary.write_text("not to be read by the code", "utf-8")
        canary.chmod(0o644)
        arguments = {"canary": os.fspath(canary), "folder": os.fspath(root)}
        request = {"functions": selftest.PROBE, "name": "probe", "arguments": arguments, "batch": False, "seed": 0}
        body = json.dumps(request | {"cpu_s": 60}).encode()
        replies: list[Reply] = await self._pool.perform(body, 30.0, 1)
        canary.unlink(missing_ok=True)
        if not replies:
            return ["ended its supervisor"]
        _check_protected(replies[0])
        return selftest.breaches(to_execution(replies[0], self.limits, 30.0, batch=False).value)


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _check_protected(reply: Reply) -> None:
    """Raise :class:`SandboxError` if the process ended before it ran any code."""
    if reply.facts["status"] == "not_locked_down":
        reason = reply.facts["stderr"].strip() or f"exit status {reply.facts.get('exit')}"
        raise SandboxError(f"a process could not protect itself: {reason}")


def open_sandbox(
    *,
    limits: SandboxLimits = SandboxLimits(),  # noqa: B008 - a frozen value
    workers: int | None = None,
    preload: tuple[str, ...] = (),
    allow_weak: bool = False,
) -> ForkServerSandbox:
    """A sandbox for ``async with``.

    ``workers`` calls run at once (default: one per processor, at most 8). ``preload``: modules to import once, besides
    much of the standard library, sympy, numpy and pandas; the code may read their folders. ``allow_weak``: run, with a
    warning in the log, even if the kernel lacks the layers that make generated code safe to run.
    """
    return ForkServerSandbox(limits, workers, preload, allow_weak=allow_weak)


def describe_layers() -> dict[str, str]:
    """Layer name -> "on", or why it is not in force on this machine; "minimum" covers those that are required.

    Opens a small sandbox for about a second. Raises :class:`SandboxError` if not even a weak one starts.
    """

    async def layers() -> dict[str, str]:
        async with open_sandbox(workers=1, allow_weak=True) as sandbox:
            return sandbox.describe_layers()

    # in a thread, so that it works inside a running event loop too
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, layers()).result()
