"""What differs between kinds of agents: how a turn is asked for, constrained and read, and nothing else."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from agentopt_local.chat import Constraint, Message, ToolCall
from agentopt_local.fences import Block, blocks_of, does_something
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.thoughts import split_thought
from agentopt_local.tool_calls import MAX_CALLS

Answering = Literal["forbidden", "allowed", "required"]
"""What the state of an attempt says about answering in its next turn: ``forbidden``: it must act first;
``required``: it may do nothing else."""


class CodeBlock(Record):
    """Python for the interpreter."""

    code: str
    whole: str | None = None
    """What is left without a block that the end of the turn cut off; None if none was."""


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


def code_in(text: str) -> CodeBlock | None:
    """The Python of a turn: its blocks one after the other, as they share their names; None if there is none.

    Blocks without a language count if none is called Python and if they compute something. One that the end of the
    turn cut off counts.
    """
    blocks = [block for block in blocks_of(text) if block.text.strip()]
    chosen = [block for block in blocks if block.is_python]
    chosen = chosen or [block for block in blocks if not block.language and does_something(block.text)]
    if not chosen:
        return None
    return CodeBlock(code=_joined(chosen), whole=None if chosen[-1].closed else _joined(chosen[:-1]))


def _joined(blocks: list[Block]) -> str:
    return "".join(block.text if block.text.endswith("\n") else f"{block.text}\n" for block in blocks[:-1]) + (
        blocks[-1].text if blocks else ""
    )


def spoken(message: Message) -> Message:
    """``message`` with the thoughts in its text moved to ``thought``, for models that leave them there."""
    thought, content = split_thought(message.content, begun=not message.thought)
    if not thought and content == message.content:
        return message
    return message.model_copy(update={"content": content, "thought": f"{message.thought}\n\n{thought}".strip()})


def first_acts(turn: Turn) -> Turn:
    """``turn`` with at most ``MAX_CALLS`` acts, and no calls in its message that nothing answers."""
    if len(turn.acts) <= MAX_CALLS:
        return turn
    message = turn.message.model_copy(update={"tool_calls": turn.message.tool_calls[:MAX_CALLS]})
    return turn.model_copy(update={"message": message, "acts": turn.acts[:MAX_CALLS]})


def with_note(message: Message, note: str) -> Message:
    """``message`` with ``note`` at its end."""
    return message.model_copy(update={"content": f"{message.content}{note}"})


def whole_part(turn: Turn) -> Turn:
    """What is whole of a turn that the limit of tokens has cut off: an act or an answer that runs to its end is not."""
    text = turn.message.content.rstrip()
    acts = turn.acts
    native = bool(turn.message.tool_calls)  # such calls were read as a whole
    if acts and isinstance(acts[-1], CodeBlock) and acts[-1].whole is not None:
        acts = (*acts[:-1], CodeBlock(code=acts[-1].whole)) if acts[-1].whole else acts[:-1]
    elif acts and not native and any(text.endswith(each.rstrip()) for each in written(acts[-1])):
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
