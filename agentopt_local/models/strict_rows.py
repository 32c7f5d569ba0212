"""Rows of a conversation in the forms that strict servers and chat templates accept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def in_words(rows: Sequence[Row]) -> list[Row]:
    """``rows`` with calls and their results as text, for a server without tools."""
    return [_in_words(row) for row in rows]


def _in_words(row: Row) -> Row:
    if row["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{row['content']}\n</tool_response>"}
    calls = row.get("tool_calls")
    if not calls:
        return row
    rest = {key: value for key, value in row.items() if key != "tool_calls"}
    texts = [call_text(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    return {**rest, "content": "\n".join([*filter(None, [row["content"]]), *texts])}


def call_text(name: str, arguments: str) -> str:
    """A call as text; ``arguments``: as the text of JSON."""
    return f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}\n</tool_call>'


def without_system(rows: Sequence[Row]) -> list[Row]:
    """``rows`` with the system's words at the beginning of the first user turn."""
    said = "\n\n".join(row["content"] for row in rows if row["role"] == "system")
    rest = [row for row in rows if row["role"] != "system"]
    if not said:
        return rest
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": said}, *rest]
    return [{**rest[0], "content": f"{said}\n\n{rest[0]['content']}"}, *rest[1:]]


def taking_turns(rows: Sequence[Row]) -> list[Row]:
    """``rows`` without two turns of one side in a row: what the user says after a result becomes a part of it."""
    out: list[Row] = []
    for row in rows:
        before = out[-1] if out else None
        if before is not None and row["role"] == "user" and before["role"] in ("user", "tool"):
            out[-1] = {**before, "content": f"{before['content']}\n\n{row['content']}"}
        else:
            out.append(row)
    return out


def with_system(rows: Sequence[Row], text: str) -> list[Row]:
    """``rows`` with ``text`` at the end of the system's words."""
    if rows and rows[0]["role"] == "system":
        return [{**rows[0], "content": f"{rows[0]['content']}\n\n{text}"}, *rows[1:]]
    return [{"role": "system", "content": text}, *rows]
