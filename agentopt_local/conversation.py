"""Several questions to one agent: earlier ones stand before the present one, and every turn is shown as it happens."""

from __future__ import annotations

from collections.abc import Callable

from agentopt_local.agents.base import Agent
from agentopt_local.chat import ChatModel, ChatReply, ChatRequest, Message
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.trajectory import Trajectory

Show = Callable[[Message], None]
"""Told every turn of the agent and what came back, in order."""


class Conversation:
    """A ChatModel between an agent and its model. The agent solves one problem after another and need not know."""

    def __init__(self, model: ChatModel, show: Show) -> None:
        """``model`` stays its owner's to close."""
        self.model = model
        self.show = show
        self.history: tuple[Message, ...] = ()
        """Questions with their turns and answers, as far as they were answered."""
        self._present: tuple[Message, ...] = ()

    async def ask(self, agent: Agent, question: str, functions: FunctionSet, *, seed: int = 0) -> Trajectory:
        """The agent's attempt at ``question``, after those before. ``agent`` must talk through this object.

        An answered question joins the history; one that was not leaves no trace.
        """
        self._present = ()
        problem = Problem(id="conversation", question=question, answer="")
        trajectory = await agent.solve(problem, functions, seed=seed)
        if trajectory.answer is not None:
            self.history += self._present
        elif trajectory.steps and trajectory.stop_reason != "context":
            for message in trajectory.steps[-1].observations:  # no request followed that would have shown them
                self.show(message)
        return trajectory

    def clear(self) -> None:
        """Forget the history."""
        self.history = ()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request`` as the model does, with the history after its system messages."""
        n_system = next((i for i, each in enumerate(request.messages) if each.role != "system"), len(request.messages))
        present = request.messages[n_system:]
        for message in present[max(1, len(self._present)) :]:  # the first is the question itself
            self.show(message)
        messages = (*request.messages[:n_system], *self.history, *present)
        reply = await self.model.complete(request.model_copy(update={"messages": messages}))
        self.show(reply.message)
        self._present = (*present, reply.message)
        return reply

    async def aclose(self) -> None:
        """Nothing: the model's owner closes it."""
