"""Several questions to one agent: each request carries the earlier ones, and every turn is shown as it happens."""

from __future__ import annotations

from collections.abc import Callable

from agentopt_local.agents.base import Agent
from agentopt_local.chat import ChatModel, ChatReply, ChatRequest, Message
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.trajectory import Attempt

Show = Callable[[Message], None]
"""Called with every turn of the agent and every reply to it, in order."""


class Conversation:
    """A ChatModel between an agent and its model. To the agent, each question is a problem of its own."""

    def __init__(self, model: ChatModel, show: Show) -> None:
        """``model`` is closed by its owner."""
        self.model = model
        self.show = show
        self.history: tuple[Message, ...] = ()
        """Answered questions with their turns."""
        self._present: tuple[Message, ...] = ()

    async def ask(self, agent: Agent, question: str, functions: FunctionSet, *, seed: int = 0) -> Attempt:
        """The agent's attempt at ``question``, with the history before it. ``agent`` must talk through this object.

        An answered question joins the history; one without an answer leaves no trace.
        """
        self._present = ()
        problem = Problem(id="conversation", question=question, answer="")
        attempt = await agent.solve(problem, functions, seed=seed)
        if attempt.answer is not None:
            self.history += self._present
        elif attempt.steps and attempt.stop_reason not in ("context", "refused"):
            for message in attempt.steps[-1].observations:  # no request followed that would have shown them
                self.show(message)
        return attempt

    def clear(self) -> None:
        """Forget the history."""
        self.history = ()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The model's answer to ``request`` with the history inserted after its system messages."""
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
        """Do nothing: the model's owner closes it."""
