"""Chats to and from the JSON of OpenAI's chat-completions interface."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentopt_local.chat import ChatReply, ChatRequest, Message, ToolCall, ToolSpec, Usage
from agentopt_local.models.checking import tidy
from agentopt_local.models.thinking import split_thought, thought_field
from agentopt_local.tool_calls import call_ids, calls_of, encodable, parse_reply


def to_messages(
    messages: Sequence[Message], thoughts: str | None = None, *, every_thought: bool = False
) -> list[dict[str, Any]]:
    """The messages for a request.

    ``thoughts``: the field under which the server wrote its thoughts and wants them back; None: it gets none. It gets
    those since the last user message, which belong to calls under way; with ``every_thought`` it gets the field, even
    if empty, in every assistant message.
    """
    rows: list[dict[str, Any]] = []
    open_ids: list[str] = []
    for message, ids in zip(messages, call_ids(messages), strict=True):
        row: dict[str, Any] = {"role": message.role, "content": encodable(message.content)}
        if message.tool_calls:
            open_ids = list(ids)
            row["content"] = row["content"] or None
            row["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
                }
                for call_id, call in zip(open_ids, message.tool_calls, strict=True)
            ]
        elif message.role == "tool":
            # Servers refuse a tool message that answers no call.
            row |= {"tool_call_id": open_ids.pop(0)} if open_ids else {"role": "user"}
        rows.append(row)
    if thoughts is not None:
        asked = max((index for index, row in enumerate(rows) if row["role"] == "user"), default=-1)
        for index, (row, message) in enumerate(zip(rows, messages, strict=True)):
            if message.role == "assistant" and (every_thought or (message.thought and index > asked)):
                row[thoughts] = encodable(message.thought)
    return rows


def to_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """The ``tools`` field of a request."""
    return [{"type": "function", "function": tool.model_dump()} for tool in tools]


def to_response_format(schema_text: str, *, strict: bool = True) -> dict[str, Any]:
    """The ``response_format`` field that asks for JSON under a schema; strict only where OpenAI's rules allow it."""
    schema = json.loads(schema_text)
    strict = strict and schema.get("type") == "object" and can_be_strict(schema)
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": strict}}


def can_be_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode accepts ``schema``: every object must be closed and every property required."""
    if isinstance(schema, list):
        return all(can_be_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
            return False
        if not all(can_be_strict(item) for item in properties.values()):
            return False
    unknown = {"oneOf", "allOf", "not", "patternProperties", "if", "prefixItems"}
    rest = {key: value for key, value in schema.items() if key not in ("properties", "enum", "const", "default")}
    return not unknown & set(schema) and all(can_be_strict(value) for value in rest.values())


def from_response(request: ChatRequest, body: Any) -> ChatReply:
    """The reply in a response. Raises ValueError if the body is not a chat completion."""
    try:
        choice = body["choices"][0]
        reply = choice["message"]
        content = reply.get("content") or ""
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content)
        cut = choice.get("finish_reason") == "length"
        field = thought_field(reply)
        thought, content = split_thought(content, cut=cut, begun=field is None)
        thought = f"{reply[field]}\n\n{thought}" if field else thought
        message = _message(request, content, reply.get("tool_calls") or [])
        return ChatReply(
            message=message.model_copy(update={"thought": encodable(thought).strip()}),
            finish_reason="length" if cut else "stop",
            usage=usage_of(body),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        # Gateways report failures of the server behind them with status 200.
        said = str(body["error"])[:300] if isinstance(body, dict) and "error" in body else repr(error)
        raise ValueError(f"the answer is not a chat completion: {said}") from None


def field_of_thought(body: Any) -> str | None:
    """The field that holds the thought of the reply in a chat completion; None if there is none."""
    return thought_field(body["choices"][0]["message"])


def _message(request: ChatRequest, content: str, native: list[dict[str, Any]]) -> Message:
    content = encodable(content)
    if not native:
        message = parse_reply(content, request.tools, begun=False)
        if message.tool_calls:
            return message
        return Message(role="assistant", content=tidy(request.constraint, content))
    known = {tool.name: tool for tool in request.tools}
    calls: list[ToolCall] = []
    for call in native:
        name, arguments = call["function"]["name"], call["function"].get("arguments")
        found = calls_of(name, arguments, known)
        if not found:
            # Nothing can be made of it: the turn stays text, so that the model sees what it wrote.
            written = arguments if isinstance(arguments, str) else json.dumps(arguments)
            raw = f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {written}}}\n</tool_call>'
            return Message(role="assistant", content=encodable(f"{content}\n{raw}").strip())
        calls += found
    return Message(role="assistant", content=content.strip(), tool_calls=tuple(calls))


def withheld(body: Any) -> bool:
    """Whether a content filter has withheld the reply in a response, or the rest of it."""
    try:
        return bool(body["choices"][0]["finish_reason"] == "content_filter")
    except (KeyError, IndexError, TypeError):
        return False


def usage_of(body: dict[str, Any]) -> Usage:
    """The tokens of a response; 0 where the server does not count them."""
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    sampled = usage.get("completion_tokens_details") or {}
    return Usage(
        requests=1,
        prompt_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        thought_tokens=sampled.get("reasoning_tokens") or 0,
    )
