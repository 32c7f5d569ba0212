"""The workers of a sandbox: starts them, assigns one to each call, replaces lost ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from agentopt_local.errors import SandboxError
from agentopt_local.sandbox.base import SandboxLimits
from agentopt_local.sandbox.connection import Reply, WorkerConnection
from agentopt_local.sandbox.launch import Launcher, start_launcher

_PATIENCE_S = 30.0
"""Seconds beyond a call's limit after which a silent worker counts as lost; longer than it waits for a child."""
_CANCEL_S = 2.0
"""Seconds in which a supervisor must confirm a cancelled call; otherwise it counts as lost."""


@dataclass
class _Worker:
    index: int
    connection: WorkerConnection | None = None
    starting: asyncio.Task[None] | None = None


class WorkerPool:
    """Runs requests on ``count`` workers, one at a time on each. Belongs to one event loop of one process."""

    def __init__(self, limits: SandboxLimits, count: int, preload: Sequence[str], layers_off: Sequence[str]) -> None:
        self.count = count
        self.launcher: Launcher | None = None
        self._limits = limits
        self._preload = tuple(preload)
        self._layers_off = tuple(layers_off)
        self._workers = tuple(_Worker(index) for index in range(count))
        self._idle = list(reversed(self._workers))
        self._slots = asyncio.Semaphore(count)
        self._launching = asyncio.Lock()
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._process = os.getpid()
        self._closed = False

    async def start(self) -> None:
        """Start the launcher and every worker that is not running. Raises :class:`SandboxError`."""
        self._check_open()
        for worker in self._workers:
            if worker.connection is None:
                await self._connected(worker)

    async def perform(self, request: bytes, timeout_s: float, count: int, room: int = 0) -> list[Reply]:
        """Send one request that has ``count`` answers, each within ``timeout_s`` seconds; returns the replies in order.

        When the answers are over ``room`` bytes together, one of any size allowed, the next has the status "full".
        If the last of them is not marked as last, the worker was lost. Raises :class:`SandboxError` if no worker can be
        started.
        """
        self._check_open()
        await self._slots.acquire()
        worker = self._idle.pop()
        connection: WorkerConnection | None = None
        recovering = False
        try:
            connection = await self._connected(worker)
            facts = {"timeout_s": timeout_s, "count": count, "room": room}
            pending = connection.begin(next(self._ids), facts, request)
            await connection.finish(pending, timeout_s + _PATIENCE_S)
        except asyncio.CancelledError:
            recovering = True  # puts the worker back when it is idle
            if connection:
                connection.cancel()
            self._create_task(self._recover(worker))
            raise
        finally:
            if not recovering:
                self._put_back(worker)
        return pending.replies

    async def aclose(self) -> None:
        """End all processes and remove their folders, even if cancelled meanwhile. Safe to call twice."""
        if os.getpid() != self._process:
            return  # a forked copy: the processes belong to the original
        self._closed = True
        for worker in self._workers:
            if worker.connection:
                worker.connection.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            launcher, self.launcher = self.launcher, None
            if launcher:
                await launcher.close()

    def _check_open(self) -> None:
        if os.getpid() != self._process:
            raise SandboxError("this sandbox belongs to another process: open one in each process")
        if self._closed:
            raise SandboxError("the sandbox is closed")

    def _put_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        self._slots.release()

    def _create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` to completion even if the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _recover(self, worker: _Worker) -> None:
        """After a cancellation: wait until the worker is idle again or lost, and put it back."""
        try:
            if worker.starting:
                await asyncio.wait({worker.starting})
            connection = worker.connection
            if connection and connection.pending:
                await connection.finish(connection.pending, _CANCEL_S)
        finally:
            self._put_back(worker)

    async def _connected(self, worker: _Worker) -> WorkerConnection:
        """The worker's connection. A worker that is new or lost is started first."""
        connection = worker.connection
        if connection is None or connection.lost.is_set():
            worker.starting = self._create_task(self._start_worker(worker))
            await asyncio.shield(worker.starting)
            worker.starting = None
            connection = worker.connection
        if connection is None or self._closed:
            raise SandboxError("the sandbox is closed")
        return connection

    async def _start_worker(self, worker: _Worker) -> None:
        async with self._launching:
            try:
                launcher = self.launcher or await self._launch()
                ours = await launcher.spawn(worker.index)
            except SandboxError:
                if self.launcher is None:
                    raise  # the launcher could not be started
                self.launcher.kill()
                self.launcher = None
                ours = await (await self._launch()).spawn(worker.index)
        limits = self._limits
        max_frame = limits.result_bytes + 32 * limits.output_bytes + (1 << 20)
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            _, worker.connection = await loop.create_unix_connection(lambda: WorkerConnection(max_frame), sock=ours)
            on_error.pop_all()

    async def _launch(self) -> Launcher:
        self.launcher = await start_launcher(self._limits, self._preload, self._layers_off)
        return self.launcher
