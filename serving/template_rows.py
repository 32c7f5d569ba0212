"""Messages as rows for chat templates, and ways to say the same within what a template accepts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

from agentopt_local.chat import Message, ToolCall, call_ids
from serving.call_form import NAME

RESULT = "zresult"
Row = dict[str, Any]
Ids = Literal["numbered", "named", "named in turn"]
"""The ids of calls: numbered as all of ours are, or ``functions.NAME:NUMBER``, counted over the conversation or the
turn, for templates that print the id in place of the name, or refer to a call by it."""
IDS: tuple[Ids, ...] = get_args(Ids)


def to_rows(messages: Sequence[Message], kind: Ids = "numbered") -> list[Row]:
    """``messages`` in the form that chat templates read, with an id of this kind for each call."""
    rows: list[Row] = []
    waiting: list[tuple[str, str]] = []
    for message, ids in zip(messages, ids_of(messages, kind), strict=True):
        row = row_of(message.role, message.content)
        if message.thought:
            row |= thought_fields(message.thought)
        if message.tool_calls:
            row["tool_calls"] = [
                {"id": each, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for each, call in zip(ids, message.tool_calls, strict=True)
            ]
            waiting = [(each, call.name) for each, call in zip(ids, message.tool_calls, strict=True)]
        elif message.role == "tool" and waiting:
            row["tool_call_id"], row["name"] = waiting.pop(0)
        rows.append(row)
    return rows


def ids_of(messages: Sequence[Message], kind: Ids) -> list[tuple[str, ...]]:
    """For each message the ids of its calls."""
    if kind == "numbered":
        return call_ids(messages)
    ids: list[tuple[str, ...]] = []
    made = 0
    for message in messages:
        start = made if kind == "named" else 0
        ids.append(tuple(f"functions.{call.name}:{start + i}" for i, call in enumerate(message.tool_calls)))
        made += len(message.tool_calls)
    return ids


def row_of(role: str, content: str) -> Row:
    """A message without calls."""
    return {"role": role, "content": content}


def thought_fields(text: str) -> Row:
    """A turn's thought, under each of the names by which families read it."""
    return dict.fromkeys(("reasoning_content", "reasoning", "thinking"), text)


def text_as_thought(row: Row) -> Row:
    """A turn that calls without text: it becomes a part of the thought."""
    if not (row.get("tool_calls") and row["content"]):
        return row
    return {**row, "content": "", **thought_fields(f"{row.get('thinking', '')}\n\n{row['content']}".strip())}


def exchanges(*turns: Sequence[dict[str, Any]], kind: Ids = "numbered") -> list[Row]:
    """Turns of calls with these arguments, each followed by the results."""
    messages: list[Message] = []
    for turn in turns:
        calls = tuple(ToolCall(name=NAME, arguments=arguments) for arguments in turn)
        messages += [Message(role="assistant", tool_calls=calls), *[Message(role="tool", content=RESULT)] * len(calls)]
    return to_rows(messages, kind)


def with_text_arguments(call: Row) -> Row:
    """A call whose arguments are JSON text."""
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def in_words(row: Row) -> Row:
    """A row for a template that renders neither calls nor results."""
    if row["role"] == "tool":
        return row_of("user", f"<tool_response>\n{row['content']}\n</tool_response>")
    calls = row.get("tool_calls")
    if not calls:
        return row
    text = "\n".join(f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls)
    return row_of(row["role"], f"{row['content']}\n{text}".strip())


def one_call_each(rows: Sequence[Row]) -> list[Row]:
    """Turns with several calls as several turns, each followed by its result."""
    out: list[Row] = []
    waiting: list[Row] = []
    for row in rows:
        if row["role"] == "tool" and waiting:
            out += [waiting.pop(0), row]
            continue
        out, waiting = out + waiting, []
        calls = row.get("tool_calls") or []
        if len(calls) < 2:
            out.append(row)
        else:
            waiting = [
                {**row, "content": "" if i else row["content"], "tool_calls": [call]} for i, call in enumerate(calls)
            ]
    return out + waiting


def joined(rows: Sequence[Row], first: str, second: str) -> list[Row]:
    """``rows`` with the content of a ``second`` row appended to the ``first`` row before it."""
    out: list[Row] = []
    for row in rows:
        if out and out[-1]["role"] == first and row["role"] == second:
            out[-1] = {**out[-1], "content": f"{out[-1]['content']}\n\n{row['content']}"}
        else:
            out.append(row)
    return out
