"""What every agent offers to the trainer."""

from __future__ import annotations

from typing import Protocol

from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.trajectory import Trajectory


class Agent(Protocol):
    """A way to solve a problem with functions."""

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Trajectory:
        """One attempt at ``problem``; the agent never sees its expected answer.

        What the model does wrong is recorded in the trajectory. Raises ModelError and SandboxError only when the
        machine, not the model, fails.
        """
        ...
