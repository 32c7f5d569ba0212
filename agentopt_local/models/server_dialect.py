"""What one server understands, as its answers show, and so the form of every request to it."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from agentopt_local.chat import ChatReply, ChatRequest, Message
from agentopt_local.models.thinking import THOUGHT_FIELDS, thinking_fields, thinking_of
from agentopt_local.models.wire import to_messages, to_response_format, to_tools
from agentopt_local.tool_formats import HermesFormat, ToolFormat, guided, without_escapes

Structured = Literal["auto", "json_schema", "vllm", "none"]
_SAMPLING = ("temperature", "top_p", "seed")
_LIMITS = ("max_tokens", "max_completion_tokens")


class ServerDialect:
    """The requests that a server accepts. It starts from the settings and learns from refusals and replies."""

    def __init__(self, model: str, structured: Structured, *, send_seed: bool, tool_format: ToolFormat | None) -> None:
        self.model = model
        self.structured = structured
        self.send_seed = send_seed
        self.tool_format = tool_format
        self.mode: Structured = structured
        self.vllm = structured == "vllm"
        """Whether the server is vLLM, however replies are constrained."""
        self._strict = True
        self._knows_escapes = True
        """Whether its llguidance knows the option for escapes."""
        self._limit_field = _LIMITS[0]
        self._refused: set[str] = set()
        """Optional fields that this server does not accept, and values of reasoning_effort."""
        self._calls: Literal["unknown", "text", "fields"] = "unknown"
        """How vLLM returns calls: as text if it has no tool parser; in fields only if its parser drops our format."""
        self._thought_field: str | None = None
        """Where the server wrote a thought and therefore accepts one."""
        self._every_thought = False
        """Whether the server wants the thoughts of all turns back, and not just of the latest calls."""
        self._thinks: set[str] = set()
        """The efforts at which this server was seen to think."""

    def body(self, request: ChatRequest, *, sample: int = 0, note: str = "", roomy: bool = True) -> dict[str, Any]:
        """The JSON of a request.

        ``sample``: how often it was asked before; ``note``: what was wrong with the last reply. ``roomy``: whether the
        limit of tokens has room for a thought.
        """
        sampling = request.sampling
        messages = _with_note(request.messages, note)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": to_messages(messages, self._thought_field, every_thought=self._every_thought),
            self._limit_field: self._limit(request) if roomy else sampling.max_tokens,
            # A greedy model would repeat its mistake.
            "temperature": max(sampling.temperature, 0.7) if sample else sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.seed is not None and self.send_seed:
            body["seed"] = sampling.seed + sample
        body |= self._constraint_fields(request) | thinking_fields(thinking_of(request), vllm=self.vllm)
        if body.get("reasoning_effort") in self._refused:
            del body["reasoning_effort"]
        if request.tools:
            body["tools"] = to_tools(request.tools)
            # vLLM refuses "auto" without a tool parser, and a parser may not know the format of the grammar. With
            # "none" it still shows the tools to the template, and the calls come as text, which is parsed here.
            as_text = self.vllm and (self._calls == "text" or "structured_outputs" in body)
            body["tool_choice"] = "none" if as_text else "auto"
        return {key: value for key, value in body.items() if key not in self._refused}

    def _limit(self, request: ChatRequest) -> int:
        """Most tokens to sample. Servers count thoughts among them, so those that think get more."""
        thinking, most = thinking_of(request), request.sampling.max_tokens
        # Others get no more: their text would be longer than allowed, and might not fit their context.
        thinks = thinking.effort != "off" and thinking.effort in self._thinks
        return most + thinking.max_tokens if thinks else most

    def has_room(self, request: ChatRequest) -> bool:
        """Whether the limit of tokens for ``request`` has room for a thought."""
        return self._limit(request) > request.sampling.max_tokens

    def _constraint_fields(self, request: ChatRequest) -> dict[str, Any]:
        constraint = request.constraint
        if constraint is None or self.mode in ("none", "auto"):
            return {}
        if self.mode == "json_schema":
            schema = constraint.value if constraint.kind == "json_schema" else constraint.json_schema
            return {} if schema is None else {"response_format": to_response_format(schema, strict=self._strict)}
        kind, value = constraint.kind, constraint.value
        if kind == "turn":
            if self._calls == "fields" and request.tools:
                return {}
            format_ = self.tool_format or HermesFormat()
            kind, value = "grammar", format_.grammar(request.tools, value, constraint.max_thought_sentences)
        if kind == "json_schema":
            wanted = json.loads(value)
            kind, value = "json", json.dumps(guided(wanted) if isinstance(wanted, dict) else wanted)
        value = value if self._knows_escapes else without_escapes(value)
        return {"structured_outputs": {kind: json.loads(value) if kind == "json" else value}}

    def learn(self, request: ChatRequest, body: dict[str, Any], reply: ChatReply, thought_field: str | None) -> bool:
        """Note what a reply to ``body`` shows; True if the request should be asked again in the light of it.

        ``thought_field``: where the server wrote the reply's thought.
        """
        if thought_field is not None and thought_field not in self._refused:
            self._thought_field = thought_field
        if self._calls == "unknown" and request.tools and _lost_a_call(body, reply):
            self._calls = "fields"
            return True
        if not (reply.message.thought or reply.usage.thought_tokens):
            return False
        self._thinks.add(thinking_of(request).effort)
        sent = max(body.get(field, 0) for field in _LIMITS)
        return reply.finish_reason == "length" and sent < self._limit(request)

    def adapt(self, body: dict[str, Any], refusal: str) -> bool:
        """Stop sending what was refused in ``body``; False if nothing in it can be blamed."""
        words = refusal.lower()
        if "max_tokens" in body and "max_completion_tokens" in words:
            self._limit_field = "max_completion_tokens"
        elif (
            "response_format" in body and body["response_format"]["json_schema"]["strict"] and "invalid schema" in words
        ):
            self._strict = False
        elif "response_format" in body and ("response_format" in words or "json_schema" in words):
            if self.structured != "auto":
                return False
            self.mode = "none"
        elif "structured_outputs" in body and self._knows_escapes and "json_allowed_escapes" in words:
            self._knows_escapes = False
        elif "structured_outputs" in body and "structured_outputs" in words:
            if self.structured != "auto":
                return False
            self.mode = "json_schema"
        elif body.get("tool_choice") == "auto" and "tool choice requires" in words:
            self.vllm, self._calls = True, "text"  # vLLM's words
        elif "tool_choice" in body and ("tool_choice" in words or "tool choice" in words):
            self._refused.add("tool_choice")
        elif "chat_template_kwargs" in body and "chat_template" in words:
            self._refused.add("chat_template_kwargs")
        else:
            return self._adapt_sampling(body, words) or self._adapt_thoughts(body, words)
        return True

    def _adapt_sampling(self, body: dict[str, Any], words: str) -> bool:
        # Reasoning models accept no temperature, top_p or seed; few accept all efforts, others no effort at all.
        fields = (*_SAMPLING, "reasoning_effort")
        named = sorted((field for field in fields if field in body and field in words), key=words.find)
        if named[:1] == ["reasoning_effort"]:
            self._refused.add(body["reasoning_effort"])
        else:
            self._refused.update(field for field in named if field in _SAMPLING)
        return bool(named)

    def _adapt_thoughts(self, body: dict[str, Any], words: str) -> bool:
        field = next((each for each in THOUGHT_FIELDS if re.search(rf"\b{each}\b", words)), None)
        if field is None:
            return False
        if "passed back" in words and not self._every_thought:
            self._thought_field, self._every_thought = field, True  # DeepSeek, once there are calls
            return True
        if not any(field in row for row in body["messages"]):
            return False
        self._refused.add(field)
        self._thought_field = None
        return True


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
