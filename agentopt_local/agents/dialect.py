"""What differs between kinds of agents: how a turn is asked for, constrained and read, and nothing else."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from agentopt_local.chat import Constraint, Message, ToolCall
from agentopt_local.fences import blocks_of, does_something
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.thoughts import split_thought

Answering = Literal["forbidden", "allowed", "required"]
"""What the state of an attempt says about answering in its next turn: ``forbidden``: it must act first;
``required``: it may do nothing else."""


class CodeBlock(Record):
    """Python for the interpreter."""

    code: str


class BadInput(Record):
    """A call whose input cannot be read; nothing runs."""

    name: str
    arguments: dict[str, Any]
    """What was given, to be recorded."""
    error: str
    """What is wrong with it, in words for the model."""


Act = ToolCall | CodeBlock | BadInput
"""One thing that a turn does."""


class Turn(Record):
    """A message of the model, read."""

    message: Message
    """As the conversation keeps it."""
    acts: tuple[Act, ...] = ()
    """In the order in which they are done."""
    answer: str | None = None
    """The final answer; None in a turn that acts, because an answer before the result was seen does not count."""


def code_in(text: str) -> str | None:
    """The Python of a turn: its blocks one after the other, as they share their names; None if there is none.

    Blocks without a language count if none is called Python and if they compute something. One that the end of the
    turn cut off counts.
    """
    blocks = [block for block in blocks_of(text) if block.text.strip()]
    named = [block.text for block in blocks if block.is_python]
    chosen = named or [block.text for block in blocks if not block.language and does_something(block.text)]
    return "\n".join(code.removesuffix("\n") for code in chosen) + "\n" * chosen[-1].endswith("\n") if chosen else None


def spoken(message: Message) -> Message:
    """``message`` with the thoughts in its text moved to ``thought``, for models that leave them there."""
    thought, content = split_thought(message.content, begun=not message.thought)
    if not thought and content == message.content:
        return message
    return message.model_copy(update={"content": content, "thought": f"{message.thought}\n\n{thought}".strip()})


class Dialect(Protocol):
    """One way to write turns. It holds no state of an attempt."""

    repeated: str
    """Said to the model when a turn did exactly what an earlier one had done."""
    nudge: str
    """Said to the model when a turn neither acts nor answers."""
    offers_tools: bool
    """Whether requests offer the functions as tools; False where the system prompt describes them."""

    def system(self, functions: FunctionSet) -> str:
        """The system prompt of an agent with ``functions``."""
        ...

    def constraint(self, functions: FunctionSet, answering: Answering) -> Constraint:
        """What the next turn must look like."""
        ...

    def read(self, message: Message, functions: FunctionSet) -> Turn:
        """What ``message`` does, or answers."""
        ...

    def observation(self, act: Act, result: str) -> Message:
        """How the model is shown the result of ``act``."""
        ...
