"""What a model is asked and what it answers: the one seam between the trainer and model hosting.

A :class:`ChatModel` has one working method, ``complete``. Models differ in how they write a tool call and in what can
be constrained; both are the model's business. The caller says *what* the reply must be (:class:`Constraint`) and reads
calls from ``reply.message.tool_calls``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from pydantic import Field

from agentopt_local.record import MAX_INT, Record


class ToolCall(Record):
    """One call of a named function."""

    name: str
    arguments: dict[str, Any]


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thought: str = ""
    """What an assistant turn thought before it spoke. It is never executed or graded; models see it again only where
    their chat template keeps it."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that an assistant turn makes. The ``tool`` turns after it answer them in order."""


class ToolSpec(Record):
    """A function as a model sees it."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments: an object with ``required``."""


class Constraint(Record):
    """What a reply must match, whatever model samples it.

    ``json_schema``: JSON text of a schema · ``regex``: a regular expression · ``grammar``: a Lark grammar in
    llguidance's dialect · ``turn``: either a call of one of the request's tools with schema-valid arguments,
    in the model's own format, or text that matches this regular expression.
    """

    kind: Literal["json_schema", "regex", "grammar", "turn"]
    value: str
    json_schema: str | None = None
    """For ``grammar`` and ``regex``: JSON text of a schema that says nearly the same, for models that can be held to a
    schema but not to a grammar. A reply that fits it is accepted from them."""
    max_thought_sentences: int = Field(default=12, ge=0)
    """For ``turn``: sentences that may precede a call."""

    @staticmethod
    def of(output_type: Any) -> Constraint:
        """The constraint for an outlines type (``JsonSchema``, ``CFG``, ``Regex``, ``Literal``, ...)."""
        from outlines.types import CFG, JsonSchema
        from outlines.types.dsl import python_types_to_terms, to_regex

        term = python_types_to_terms(output_type)
        if isinstance(term, CFG):
            return Constraint(kind="grammar", value=term.definition)
        if isinstance(term, JsonSchema):
            return Constraint(kind="json_schema", value=json.dumps(json.loads(term.schema), ensure_ascii=False))
        return Constraint(kind="regex", value=to_regex(term))


class Sampling(Record):
    """How tokens are drawn."""

    max_tokens: int = Field(default=512, ge=1)
    """Most tokens to generate, not counting thoughts."""
    temperature: float = Field(default=0.0, ge=0.0)
    """0 = greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int | None = None
    """Makes sampling repeatable; backends without seeds ignore it."""


class Thinking(Record):
    """Whether a model thinks before it replies, and how long. Models that cannot think ignore it."""

    effort: Literal["off", "least", "low", "medium", "high", "on"] = "least"
    """``off``: no thought at all; ``least``: off where the model's chat template can switch thoughts off, little
    otherwise; ``on``: as the model does by default."""
    max_tokens: int = Field(default=2048, ge=0)
    """Longest thought, in tokens, besides ``Sampling.max_tokens``. A hosted model's thought is ended there, except in a
    request with tools and without a constraint, where thought and reply share the sum."""


class ChatRequest(Record):
    """One completion to make."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    constraint: Constraint | None = None
    sampling: Sampling = Sampling()
    thinking: Thinking | None = None
    """None: the same as the default :class:`Thinking`."""
    conversation: str | None = None
    """Requests of one conversation carry its name, so they stay on one replica and reuse its prefix cache."""


class Usage(Record):
    """Tokens of one completion, or the sum over several."""

    requests: int = Field(default=0, ge=0)
    prompt_tokens: int = Field(default=0, ge=0)
    cached_tokens: int = Field(default=0, ge=0)
    """Prompt tokens that were in the prefix cache."""
    evicted_tokens: int = Field(default=0, ge=0)
    """Prompt tokens of the conversation's earlier turns that the cache had lost; 0 where that is not reported."""
    completion_tokens: int = Field(default=0, ge=0)
    thought_tokens: int = Field(default=0, ge=0)
    """Of the completion tokens, those spent on thoughts; 0 where that is not reported."""

    def __add__(self, other: Usage) -> Usage:
        # a server, or a run from elsewhere, may report any number
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in Usage.model_fields}
        return Usage(**{name: min(sum(pair), MAX_INT) for name, pair in pairs.items()})


class ChatReply(Record):
    """One completion made."""

    message: Message
    """The assistant's turn, with calls already parsed out of the text."""
    finish_reason: Literal["stop", "length"] = "stop"
    """``length``: cut at ``max_tokens``, so the text may be incomplete."""
    usage: Usage = Usage(requests=1)


class ChatModel(Protocol):
    """Anything that completes chats: a hosted engine, an HTTP endpoint, a script."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request``. Raises :class:`~agentopt_local.errors.ModelError`, and its subclass PromptError if this
        one prompt is at fault."""
        ...

    async def aclose(self) -> None:
        """Release the model's resources. Safe to call twice."""
        ...


def call_ids(messages: Sequence[Message]) -> list[tuple[str, ...]]:
    """For each message the ids of its calls, numbered through the conversation.

    Equal conversations get equal ids and hit a prefix cache. They have nine characters, as Mistral's templates demand.
    """
    ids: list[tuple[str, ...]] = []
    total = 0
    for message in messages:
        ids.append(tuple(f"call{total + i:05d}" for i in range(len(message.tool_calls))))
        total += len(message.tool_calls)
    return ids
