"""A sandbox that repeats what the machine, not the code, broke off."""

from __future__ import annotations

import logging
from typing import Any

from agentopt_local.errors import SandboxError
from agentopt_local.sandbox.base import Execution, Sandbox

log = logging.getLogger(__name__)
MAX_TRIES = 3


class RepeatingSandbox:
    """A :class:`~agentopt_local.sandbox.base.Sandbox` around another one.

    A call whose worker was lost says nothing about the code: shown to an agent it would turn a fault of the machine
    into a wrong answer. So it is repeated, and a call that loses ``MAX_TRIES`` workers raises SandboxError.
    """

    def __init__(self, inner: Sandbox) -> None:
        """``inner`` runs the code; who opened it closes it."""
        self.inner = inner

    async def call(
        self, source: str, name: str, arguments: dict[str, Any], *, timeout_s: float | None = None, seed: int = 0
    ) -> Execution:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`."""
        for _ in range(MAX_TRIES):
            execution = await self.inner.call(source, name, arguments, timeout_s=timeout_s, seed=seed)
            if not lost(execution, name):
                return execution
        raise lost_error(name)

    async def call_many(
        self, source: str, name: str, arguments: list[dict[str, Any]], *, timeout_s: float | None = None, seed: int = 0
    ) -> list[Execution]:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`. Only lost calls are repeated."""
        executions = await self.inner.call_many(source, name, arguments, timeout_s=timeout_s, seed=seed)
        for index, execution in enumerate(executions):
            if lost(execution, name):
                executions[index] = await self.call(source, name, arguments[index], timeout_s=timeout_s, seed=seed)
        return executions

    async def run(self, code: str, *, functions: str = "", timeout_s: float | None = None, seed: int = 0) -> Execution:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`."""
        for _ in range(MAX_TRIES):
            execution = await self.inner.run(code, functions=functions, timeout_s=timeout_s, seed=seed)
            if not lost(execution, "a block of code"):
                return execution
        raise lost_error("a block of code")

    async def aclose(self) -> None:
        """Close the inner sandbox."""
        await self.inner.aclose()


def lost(execution: Execution, what: str) -> bool:
    """Whether the worker was lost; says so in the log."""
    if execution.status == "worker_lost":
        log.warning("the sandbox lost the worker that ran %s; running it again", what)
    return execution.status == "worker_lost"


def lost_error(what: str) -> SandboxError:
    """What to raise when repeating does not help."""
    return SandboxError(
        f"the sandbox lost {MAX_TRIES} workers in a row that ran {what}: something ends them, as a machine short of "
        "memory does; make room, then resume the run"
    )
