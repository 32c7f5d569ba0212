"""What every agent offers."""

from __future__ import annotations

from typing import Protocol

from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.trajectory import Attempt


class Agent(Protocol):
    """A way to solve a problem with functions."""

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Attempt:
        """One attempt at ``problem``, not graded; the agent must not look at the expected answer.

        Whatever the model, its code or its prompt does wrong is recorded in the attempt. Raises ModelError (but no
        PromptError) and SandboxError only when the machine fails.
        """
        ...
