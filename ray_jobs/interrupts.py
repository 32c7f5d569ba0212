"""Running a coroutine from blocking code, such that Ctrl-C shuts down engines and sandboxes in order."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def interruptible(job: Coroutine[Any, Any, T]) -> T:
    """Await ``job``, cancelling it on SIGTERM or Ctrl-C so that engines and sandboxes are shut down in order.

    Only the first signal counts: a terminal, a shell and a scheduler may each send one.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(job)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    return await task


def run_blocking(job: Coroutine[Any, Any, T]) -> T:
    """The result of ``job``, in a script, a thread, or a notebook, whose event loop is already running.

    If a loop is running, ``job`` gets a thread with its own loop. Ctrl-C (in a notebook: interrupting the kernel) and,
    in a script, SIGTERM cancel ``job``, wait for it to end, and raise KeyboardInterrupt.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_here(job)
    with LoopThread() as thread:
        return thread.run(job)


def run_here(job: Coroutine[Any, Any, T]) -> T:
    """The result of ``job`` in this thread, which has no event loop yet."""
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(job)  # signals are the main thread's
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return asyncio.run(interruptible(job))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: set by something that is not Python
                signal.signal(number, handler)


class LoopThread:
    """An event loop in its own thread, for blocking calls that share what lives in that loop."""

    def __init__(self) -> None:
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        context = contextvars.copy_context()  # a notebook shows what a thread prints in the cell of its context
        main = (asyncio.run, self._serve())
        self._thread = threading.Thread(target=context.run, args=main, name="agentopt", daemon=True)
        self._thread.start()
        self._loop, self._stop = self._started.result()

    async def _serve(self) -> None:
        stop = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """The result of ``job``. KeyboardInterrupt cancels it and is raised once it has ended."""
        ended: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(self._loop.create_task(job))
            tasks[0].add_done_callback(lambda task: pass_on(task, ended))

        def cancel() -> None:
            tasks[0].cancel()

        self._loop.call_soon_threadsafe(start)
        with raising_on_ctrl_c():
            try:
                return ended.result()
            except KeyboardInterrupt:
                self._loop.call_soon_threadsafe(cancel)  # runs after start
                while not ended.done():
                    with suppress(KeyboardInterrupt):  # only the first counts
                        wait([ended])
                raise

    def close(self) -> None:
        """End the loop and the thread. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def raising_on_ctrl_c() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt here, even if an outer event loop has a handler that would only note it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if handler is not None:  # None: set by something that is not Python
            signal.signal(signal.SIGINT, handler)


def pass_on(task: asyncio.Task[T], ended: Future[T]) -> None:
    """Give what a task ended with to ``ended``."""
    if task.cancelled():
        ended.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())
