"""What one server understands, as its answers show, and so the form of every request to it."""

from __future__ import annotations

import json
import logging
from typing import Any

from agentopt_local.chat import ChatReply, ChatRequest, Message
from agentopt_local.models.known import LIMITS, NO_CONTENT, NO_TEXT, Known, Structured, weaker
from agentopt_local.models.server_error import Refusal
from agentopt_local.models.strict_rows import Row, in_words, taking_turns, with_system, without_system
from agentopt_local.models.thinking import thinking_fields, thinking_of
from agentopt_local.models.wire import to_messages, to_response_format, to_tools
from agentopt_local.tool_formats import HermesFormat, ToolFormat, guided, without_escapes

log = logging.getLogger(__name__)


class ServerDialect:
    """The requests that a server accepts. It starts from the settings and learns from refusals and replies."""

    def __init__(self, model: str, structured: Structured, *, send_seed: bool, tool_format: ToolFormat | None) -> None:
        self.model = model
        self.structured = structured
        self.send_seed = send_seed
        self.tool_format = tool_format
        self.known = Known(mode=structured, vllm=structured == "vllm")
        """What all requests start from."""
        self._thinks: set[str] = set()
        """The efforts at which this server was seen to think."""

    def body(
        self, request: ChatRequest, known: Known, *, sample: int = 0, note: str = "", roomy: bool = True
    ) -> dict[str, Any]:
        """The JSON of a request to a server of which this is ``known``.

        ``sample``: how often it was asked before; ``note``: what was wrong with the last reply. ``roomy``: whether the
        limit of tokens has room for a thought.
        """
        sampling = request.sampling
        # A greedy model would repeat its mistake.
        wanted = max(sampling.temperature, 0.7 if sample else 0.0, known.least_temperature)
        body: dict[str, Any] = {"model": self.model, "messages": self.rows(request, known, note)}
        if known.limit is not None:
            most = self._limit(request) if roomy else sampling.max_tokens
            body[known.limit] = min(most, known.most_tokens or most)
        body["temperature"] = wanted if known.most_temperature is None else min(wanted, known.most_temperature)
        if sampling.top_p < 1:  # 1 is every server's default, and some refuse it or take one of the two only
            body["top_p"] = sampling.top_p
        if sampling.seed is not None and self.send_seed:
            seed = sampling.seed + sample
            body["seed"] = seed if known.most_seed is None else seed % (known.most_seed + 1)
        body |= self._constraint_fields(request, known) | thinking_fields(thinking_of(request), vllm=known.vllm)
        if body.get("reasoning_effort") in known.refused:
            del body["reasoning_effort"]
        if request.tools and known.calls != "words":
            body["tools"] = to_tools(request.tools)
            # vLLM refuses "auto" without a tool parser, and a parser may not know the format of the grammar. With
            # "none" it still shows the tools to the template, and the calls come as text, which is parsed here.
            as_text = known.vllm and (known.calls == "text" or "structured_outputs" in body)
            body["tool_choice"] = "none" if as_text else "auto"
        return {key: value for key, value in body.items() if key not in known.refused}

    def rows(self, request: ChatRequest, known: Known, note: str = "") -> list[Row]:
        """The conversation as a server accepts it of which this is ``known``."""
        messages = _with_note(request.messages, note)
        rows: list[Row] = to_messages(messages, known.thought_field, every_thought=known.every_thought)
        if known.calls == "words":
            rows = in_words(rows)
            if request.tools:
                rows = with_system(rows, (self.tool_format or HermesFormat()).instructions(request.tools))
        if NO_CONTENT in known.refused:
            rows = [{**row, "content": row["content"] or ""} for row in rows]
        if NO_TEXT in known.refused:
            rows = [
                row if row.get("tool_calls") or row["content"].strip() else {**row, "content": "(empty)"}
                for row in rows
            ]
        if known.no_system:
            rows = without_system(rows)
        return taking_turns(rows) if known.takes_turns else rows

    def _limit(self, request: ChatRequest) -> int:
        """Most tokens to sample. Servers count thoughts among them, so those that think get more."""
        thinking, most = thinking_of(request), request.sampling.max_tokens
        # Others get no more: their text would be longer than allowed, and might not fit their context.
        thinks = thinking.effort != "off" and thinking.effort in self._thinks
        return most + thinking.max_tokens if thinks else most

    def has_room(self, request: ChatRequest) -> bool:
        """Whether the limit of tokens for ``request`` has room for a thought."""
        return self._limit(request) > request.sampling.max_tokens

    def _constraint_fields(self, request: ChatRequest, known: Known) -> dict[str, Any]:
        constraint = request.constraint
        if constraint is None or known.mode in ("none", "auto"):
            return {}
        if known.mode == "json_schema":
            schema = constraint.value if constraint.kind == "json_schema" else constraint.json_schema
            return {} if schema is None else {"response_format": to_response_format(schema, strict=known.strict)}
        kind: str = constraint.kind
        value = constraint.value
        if kind == "turn":
            if known.calls == "fields" and request.tools:
                return {}
            format_ = self.tool_format or HermesFormat()
            kind, value = "grammar", format_.grammar(request.tools, value, constraint.max_thought_sentences)
        if kind == "json_schema":
            wanted = json.loads(value)
            kind, value = "json", json.dumps(guided(wanted) if isinstance(wanted, dict) else wanted)
        value = value if known.escapes else without_escapes(value)
        return {"structured_outputs": {kind: json.loads(value) if kind == "json" else value}}

    def learn(
        self, request: ChatRequest, body: dict[str, Any], known: Known, reply: ChatReply, thought_field: str | None
    ) -> tuple[Known, bool]:
        """What is known after a reply to ``body``, and whether the request should be asked again in the light of it.

        ``thought_field``: where the server wrote the reply's thought.
        """
        if thought_field is not None and thought_field not in known.refused:
            known = known.model_copy(update={"thought_field": thought_field})
        if known.calls == "unknown" and request.tools and _lost_a_call(body, reply):
            return known.model_copy(update={"calls": "fields"}), True
        if not (reply.message.thought or reply.usage.thought_tokens):
            return known, False
        self._thinks.add(thinking_of(request).effort)
        sent = max(body.get(field, 0) for field in LIMITS)
        most = self._limit(request)
        cut = reply.finish_reason == "length" and 0 < sent < min(most, known.most_tokens or most)
        return known, cut

    def adapt(self, request: ChatRequest, body: dict[str, Any], known: Known, refusal: Refusal) -> Known | None:
        """What to take for known after ``refusal`` of ``body``; None if nothing in it can be blamed."""
        free = self.structured == "auto"
        return weaker(known, body, refusal, free=free, rows=lambda other: self.rows(request, other))

    def keep(self, start: Known, end: Known) -> None:
        """Take for known what a request that succeeded has learned since it started."""
        if "temperature" in end.refused and "temperature" not in self.known.refused:
            log.warning("%s takes no temperature: its replies are sampled at the server's own", self.model)
        if end.calls == "words" and self.known.calls != "words":
            log.warning("%s has no tools at this server: functions are described to it in words", self.model)
        self.known = self.known.joined(start, end)


def _lost_a_call(body: dict[str, Any], reply: ChatReply) -> bool:
    """Whether the server's tool parser has dropped a call, in a format that is not its own, from a turn that a grammar
    allows to be a call or text but not to be empty."""
    message, usage = reply.message, reply.usage
    if "grammar" not in body.get("structured_outputs", {}) or message.content.strip() or message.tool_calls:
        return False
    if reply.finish_reason != "stop":
        return False
    # A turn may end in the middle of a thought; a call takes more tokens than the marks around a thought.
    return not message.thought or 0 < usage.thought_tokens < usage.completion_tokens - 8


def _with_note(messages: tuple[Message, ...], note: str) -> tuple[Message, ...]:
    if not note:
        return messages
    last = messages[-1]
    if last.role in ("user", "tool"):
        # Some chat templates refuse two user turns in a row.
        return (*messages[:-1], last.model_copy(update={"content": f"{last.content}\n\n{note}"}))
    return (*messages, Message(role="user", content=note))
