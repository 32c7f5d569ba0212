"""A sandbox that repeats calls that a fault of the machine interrupted."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from agentopt_local.errors import SandboxError
from agentopt_local.sandbox.base import Execution, Sandbox

log = logging.getLogger(__name__)
MAX_TRIES = 3


class RepeatingSandbox:
    """A :class:`~agentopt_local.sandbox.base.Sandbox` around another one.

    The loss of a worker or launcher says nothing about the code: shown to an agent, it would turn a fault of the
    machine into a wrong answer. So the call is repeated, and SandboxError is raised after ``MAX_TRIES`` losses.
    """

    def __init__(self, inner: Sandbox) -> None:
        """``inner`` runs the code."""
        self.inner = inner

    async def call(
        self, source: str, name: str, arguments: dict[str, Any], *, timeout_s: float | None = None, seed: int = 0
    ) -> Execution:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`."""

        async def once() -> list[Execution]:
            return [await self.inner.call(source, name, arguments, timeout_s=timeout_s, seed=seed)]

        return (await repeated(name, once))[0]

    async def call_many(
        self, source: str, name: str, arguments: list[dict[str, Any]], *, timeout_s: float | None = None, seed: int = 0
    ) -> list[Execution]:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`."""
        return await repeated(
            name, lambda: self.inner.call_many(source, name, arguments, timeout_s=timeout_s, seed=seed)
        )

    async def run(self, code: str, *, functions: str = "", timeout_s: float | None = None, seed: int = 0) -> Execution:
        """See :class:`~agentopt_local.sandbox.base.Sandbox`."""

        async def once() -> list[Execution]:
            return [await self.inner.run(code, functions=functions, timeout_s=timeout_s, seed=seed)]

        return (await repeated("a block of code", once))[0]

    async def aclose(self) -> None:
        """Close the inner sandbox."""
        await self.inner.aclose()


async def repeated(what: str, once: Callable[[], Awaitable[list[Execution]]]) -> list[Execution]:
    """The executions of the first try of ``once`` that lost no worker. Raises SandboxError after the last try."""
    why = ""
    for _ in range(MAX_TRIES):
        try:
            executions = await once()
        except SandboxError as error:
            why = str(error)
        else:
            if all(each.status != "worker_lost" for each in executions):
                return executions
            why = "the worker that ran it was lost"
        log.warning("%s did not finish in the sandbox (%s); running it again", what, why)
    raise SandboxError(
        f"{what} did not finish in the sandbox in {MAX_TRIES} tries ({why}): something kills its processes, as happens "
        "when memory runs short; free some, then resume the run"
    )
