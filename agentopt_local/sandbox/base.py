"""The sandbox's interface: the Protocol, its limits and its results."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import Field

from agentopt_local.record import Record
from agentopt_local.setting_types import Seconds

ExecutionStatus = Literal[
    "ok",
    "exception",
    "timeout",
    "memory",
    "output_limit",
    "result_too_large",
    "disk_limit",
    "crashed",
    "cancelled",
    "refused",
    "worker_lost",
]


class SandboxLimits(Record):
    """What one execution may use."""

    timeout_s: Seconds = 5.0
    """Wall-clock seconds; the CPU limit is one second longer."""
    memory_bytes: int = Field(default=512 << 20, ge=16 << 20, le=1 << 45)
    """Address space beyond what the idle child already uses."""
    output_bytes: int = Field(default=64 << 10, ge=256, le=16 << 20)
    """Bytes kept of stdout and of stderr, each."""
    result_bytes: int = Field(default=1 << 20, ge=256, le=1 << 30)
    """Largest JSON result."""
    file_bytes: int = Field(default=16 << 20, ge=0, le=1 << 40)
    """Largest file that may be written to the scratch folder, which may hold four times as much; 0: no files."""


class Execution(Record):
    """The outcome of one execution of untrusted code."""

    ok: bool
    value: Any = None
    """The returned value as JSON; None after a block of statements."""
    status: ExecutionStatus = "ok"
    error: str | None = None
    """What went wrong, phrased for a model to act on; None if ``ok``."""
    stdout: str = ""
    """Captured output; a cut is marked."""
    stderr: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Sandbox(Protocol):
    """Runs untrusted Python. Code that fails, hangs, dies or forges an answer gives ``Execution(ok=False)``.

    Only a broken machine raises :class:`~agentopt_local.errors.SandboxError`. Cancelling an await kills the call.
    """

    async def call(
        self,
        source: str,
        name: str,
        arguments: dict[str, Any],
        *,
        timeout_s: float | None = None,
        seed: int = 0,
    ) -> Execution:
        """Define ``source`` and call its function ``name`` with JSON ``arguments`` by keyword."""
        ...

    async def call_many(
        self,
        source: str,
        name: str,
        arguments: list[dict[str, Any]],
        *,
        timeout_s: float | None = None,
        seed: int = 0,
    ) -> list[Execution]:
        """Call one function with several sets of arguments; results in order. ``timeout_s`` is per call.

        All results together are limited too; those beyond the limit are ``result_too_large``.
        """
        ...

    async def run(
        self,
        code: str,
        *,
        functions: str = "",
        timeout_s: float | None = None,
        seed: int = 0,
    ) -> Execution:
        """Execute a block of statements with the functions defined by ``functions`` in scope.

        A bare expression on the last line is printed unless it is None, as in an interactive interpreter.
        """
        ...

    async def aclose(self) -> None:
        """End all processes of the sandbox. Safe to call twice."""
        ...
