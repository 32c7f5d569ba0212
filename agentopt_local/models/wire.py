"""Chats to and from the JSON of OpenAI's chat-completions interface."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from agentopt_local.chat import ChatReply, ChatRequest, Message, ToolCall, ToolSpec, call_ids
from agentopt_local.models.checking import tidy
from agentopt_local.models.strict_rows import call_text
from agentopt_local.models.thinking import thought_field
from agentopt_local.models.usage import usage_of
from agentopt_local.thoughts import split_thought
from agentopt_local.tool_calls import calls_of, encodable, parse_reply


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
    return [
        {"type": "function", "function": {**tool.model_dump(), "parameters": with_items(tool.parameters)}}
        for tool in tools
    ]


def with_items(schema: Any) -> Any:
    """``schema`` with ``items`` in every array: OpenAI rejects arrays without it."""
    if isinstance(schema, list):
        return [with_items(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    completed = {key: value if key in ("default", "enum") else with_items(value) for key, value in schema.items()}
    return {**completed, "items": {}} if schema.get("type") == "array" and "items" not in schema else completed


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
        thought, content = _text(reply.get("content") or reply.get("refusal") or "")
        cut = ending(choice) == "cut"
        thought = reply[field] if (field := thought_field(reply)) else thought
        left, content = split_thought(content, cut=cut, begun=not thought)
        message = _message(request, content, _native_calls(reply))
        thought = encodable(f"{thought}\n\n{left}").strip()
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the answer is not a chat completion: {type(error).__name__}: {error}") from None
    written = "".join([thought, message.content, *(f"{call.name}{call.arguments}" for call in message.tool_calls)])
    return ChatReply(
        message=message.model_copy(update={"thought": thought}),
        finish_reason="length" if cut else "stop",
        usage=usage_of(body, request, written),
    )


Ending = Literal["done", "cut", "withheld", "broken"]
_ENDINGS: tuple[tuple[Ending, re.Pattern[str]], ...] = (
    # What a model did wrong itself, such as Gemini's malformed_function_call, is an end like any other.
    ("done", re.compile("malformed|unexpected_tool|stop|eos|end_turn|tool_call|tool_use|function_call")),
    (
        "withheld",
        re.compile("filter|toxic|safety|refus|block|prohibit|recitation|policy|spii|sensitive|guardrail|moderat"),
    ),
    ("broken", re.compile("error|abort|cancel|time_?out|insufficient|network|fail|overload|interrupt|unavailable")),
    ("cut", re.compile("length|max_?|window|limit")),
)


def ending(choice: Any) -> Ending:
    """How a choice of a response ended: by itself, at a limit, by a content filter, or because the server failed."""
    reason = choice.get("finish_reason") if isinstance(choice, dict) else None
    if isinstance(reason, dict):  # SGLang's own form
        reason = reason.get("type")
    said = reason[:80].lower() if isinstance(reason, str) else ""
    if isinstance(choice, dict) and choice.get("error"):
        return "broken"
    return next((meant for meant, pattern in _ENDINGS if pattern.search(said)), "done")


_EMPTY_BY_FILTER = re.compile(r'"block_?reason"\s*:\s*"[a-z]|"filtered"\s*:\s*true', re.I)


def broken_off(body: Any) -> str | None:
    """The JSON of the error in a response with status 200 that holds no whole reply; None if it holds one."""
    table = body if isinstance(body, dict) else {}
    choices = table.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    broken = ending(choice) == "broken"
    if isinstance(message, dict) and not broken:
        said = any(message.get(key) for key in ("content", "tool_calls", "function_call"))
        if said or not table.get("error"):
            return None
    error = choice.get("error") or table.get("error")
    if broken and not isinstance(error, dict):
        reason = error or choice.get("finish_reason")
        error = {"message": f"the reply was broken off (finish_reason {reason!r})"}
    if error:
        return json.dumps({"code": 502, **error} if broken else error)
    text = json.dumps(body)[:100_000]
    if _EMPTY_BY_FILTER.search(text):
        return json.dumps({"message": "the content filter has left no reply", "code": "content_filter"})
    # Some gateways report an error as it is, without an "error" around it.
    error = {key: value for key, value in table.items() if key not in ("choices", "usage", "id", "object", "model")}
    return json.dumps({"message": f"the answer is not a chat completion: {text[:200]}", **error})


def _text(content: Any) -> tuple[str, str]:
    """The thought and the text of a content, which some servers send in parts."""
    thoughts, texts = [], []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict):
            texts.append("" if part is None else str(part))
        elif isinstance(part.get("thinking"), list):  # Mistral's reasoning models
            thoughts += [each.get("text") or "" for each in part["thinking"]]
        elif isinstance(part.get("thinking"), str):
            thoughts.append(part["thinking"])
        else:
            texts.append(part.get("text") or part.get("refusal") or "")
    return "".join(thoughts), "".join(texts)


def _native_calls(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls in a message as OpenAI writes them, also from its older form and from servers that leave parts out."""
    given = reply.get("tool_calls") or reply.get("function_call") or []
    found = [
        row.get("function", row) for row in (given if isinstance(given, list) else [given]) if isinstance(row, dict)
    ]
    return [
        {"function": {"name": str(each.get("name") or ""), "arguments": each.get("arguments", each.get("parameters"))}}
        for each in found
        if isinstance(each, dict)
    ]


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
            return Message(role="assistant", content=encodable(f"{content}\n{call_text(name, written)}").strip())
        calls += found
    return Message(role="assistant", content=content.strip(), tool_calls=tuple(calls))
