"""What differs between kinds of agents: how a turn is asked for, constrained and read, and nothing else."""

from __future__ import annotations

import re
from typing import Any, Literal, Protocol

from agentopt_local.chat import Constraint, Message, ToolCall
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record

Answering = Literal["forbidden", "allowed", "required"]
"""What the state of an attempt says about answering in its next turn: ``forbidden``: it must act first;
``required``: it may do nothing else."""

CODE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
"""A block of Python in a turn; one that the end of the turn cut off counts."""


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


def whole_part(turn: Turn) -> Turn:
    """What is whole of a turn that the limit of tokens has cut off: an act or an answer that runs to its end is not."""
    text = turn.message.content.rstrip()
    acts = turn.acts
    native = bool(turn.message.tool_calls)  # such calls were read as a whole
    if acts and not native and any(text.endswith(each.rstrip()) for each in written(acts[-1])):
        acts = acts[:-1]
    answer = None if turn.answer is not None and text.endswith(turn.answer.rstrip()) else turn.answer
    return turn.model_copy(update={"acts": acts, "answer": answer})


def written(act: Act) -> list[str]:
    """The pieces of an act that stand in its turn as they are: its code, or texts among its arguments."""
    if isinstance(act, CodeBlock):
        return [act.code]
    return [each for each in act.arguments.values() if isinstance(each, str) and each.strip()]


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
