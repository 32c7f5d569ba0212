"""A sandbox that runs nothing."""

from __future__ import annotations

from typing import Any

from agentopt_local.sandbox.base import Execution


class Recorder:
    """A sandbox that notes what it is asked to do. What it returns is the tests' of the contract business."""

    def __init__(self) -> None:
        self.did: list[Any] = []

    async def call(self, source: str, name: str, arguments: dict[str, Any], **_: Any) -> Execution:
        self.did.append((name, arguments))
        return Execution(ok=True, value="done")

    async def run(self, code: str, **_: Any) -> Execution:
        self.did.append(code)
        return Execution(ok=True, stdout="done")
