"""The agent of a run, open to answer questions."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType

from agentopt_local.agents.loop import ChatAgent
from agentopt_local.chat import ChatModel
from agentopt_local.errors import ConfigError
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem, content_key
from agentopt_local.rollout import Progress
from agentopt_local.trajectory import Attempt
from ray_jobs.config import RunConfig
from ray_jobs.interrupts import LoopThread
from ray_jobs.session import open_agent


class TrainedAgent:
    """The agent of a run with its learned functions. ``Run.agent`` makes one.

    It answers while it is open: the ``with`` block starts its model and its sandbox, and ends them.

    ::

        with run.agent() as agent:
            print(agent.solve("What is 2 + 3?").answer)

        async with run.agent() as agent:
            attempts = await asyncio.gather(*(agent.asolve(each) for each in questions))

    ``open()`` and ``close()`` do the same where a ``with`` block does not fit, such as across cells of a notebook.
    """

    def __init__(self, config: RunConfig, functions: FunctionSet, model: ChatModel | None, progress: Progress) -> None:
        self.functions = functions
        """What the agent may call."""
        self._config = config
        self._model = model
        self._progress = progress
        self._thread: LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stack = AsyncExitStack()
        self._agent: ChatAgent | None = None

    def solve(self, question: str, *, seed: int | None = None) -> Attempt:
        """The agent's attempt at ``question``.

        ``.answer`` is its answer as text, or None if it gave none; ``.steps`` has its turns with their calls and
        results, ``.stop_reason`` says why it ended, and ``.usage`` counts its tokens.

        ``seed`` seeds the sampling (None: the run's seed). Blocks until the attempt ends.

        Raises ConfigError if the agent is not open or the question is empty, ModelError or SandboxError if the machine
        fails.
        """
        if self._thread is None:
            raise ConfigError("the agent is not open for solve(): write 'with run.agent() as agent:'")
        return self._thread.run(self._attempt(question, seed))

    async def asolve(self, question: str, *, seed: int | None = None) -> Attempt:
        """:meth:`solve` as a coroutine, inside ``async with``. Several can run at once."""
        if self._loop is not asyncio.get_running_loop():
            raise ConfigError("the agent is not open for asolve(): write 'async with run.agent() as agent:'")
        return await self._attempt(question, seed)

    def open(self) -> TrainedAgent:
        """Start the model and the sandbox, and return the agent. :meth:`close` ends them."""
        if self._agent is not None:
            raise ConfigError("the agent is open already")
        thread = LoopThread()
        with ExitStack() as on_error:
            on_error.callback(thread.close)
            thread.run(self._start())
            on_error.pop_all()
        self._thread = thread
        return self

    def close(self) -> None:
        """End the model and the sandbox. Safe to call twice."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            try:
                thread.run(self._end())
            finally:
                thread.close()

    def __enter__(self) -> TrainedAgent:
        return self.open()

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> TrainedAgent:
        if self._agent is not None:
            raise ConfigError("the agent is open already")
        await self._start()
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop = None
        await self._end()

    async def _start(self) -> None:
        opening = open_agent(self._config, self._progress, model=self._model)
        self._agent = await self._stack.enter_async_context(opening)

    async def _end(self) -> None:
        self._agent = None
        await self._stack.aclose()

    async def _attempt(self, question: str, seed: int | None) -> Attempt:
        if self._agent is None:
            raise ConfigError("the agent is closed")
        if not isinstance(question, str) or not question.strip():
            raise ConfigError("the question is empty")
        problem = Problem(id=f"question-{content_key(question)[:8]}", question=question, answer="")
        seed = self._config.seed if seed is None else seed
        return await self._agent.solve(problem, self.functions, seed=seed)
