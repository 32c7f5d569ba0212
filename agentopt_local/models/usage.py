"""The tokens of a reply: what the server counted, or else what can be counted from the text."""

from __future__ import annotations

import json
from typing import Any

from agentopt_local.chat import ChatRequest, Usage

BYTES_PER_TOKEN = 3
"""Of UTF-8, where the server does not count. Tokenizers need one token for 3 to 5 bytes of text and of code, so this
counts rather too much: a budget ends a run early rather than late."""
_PER_MESSAGE = 4
"""Tokens around each message."""
_MOST = 10**9
"""No request has more tokens; a larger number is an error."""


def usage_of(body: Any, request: ChatRequest, text: str = "") -> Usage:
    """The tokens of the reply ``text`` to ``request``, whose response is ``body``.

    A count that is missing, or cannot be right because it is negative, no number, or 0 although there is text, is
    replaced by one from the text.
    """
    usage = _table(body, "usage")
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    prompt = prompt or estimated_prompt(request)
    if completion is None or (completion == 0 and text):
        total = _count(usage, "total_tokens") or 0
        completion = max(total - prompt, estimated(text))
    cached = _count(_table(usage, "prompt_tokens_details"), "cached_tokens") or 0
    thought = _count(_table(usage, "completion_tokens_details"), "reasoning_tokens") or 0
    return Usage(
        requests=1,
        prompt_tokens=prompt,
        cached_tokens=min(cached, prompt),
        completion_tokens=completion,
        thought_tokens=min(thought, completion),
    )


def is_counted(body: Any) -> bool:
    """Whether the server says how many tokens it has read and written."""
    usage = _table(body, "usage")
    return bool(_count(usage, "prompt_tokens", "input_tokens")) and (
        _count(usage, "completion_tokens", "output_tokens") is not None
    )


def estimated(text: str) -> int:
    """About how many tokens a text has, rather too many than too few."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def estimated_prompt(request: ChatRequest) -> int:
    """About how many tokens a request has, rather too many than too few."""
    texts = [message.content + message.thought for message in request.messages]
    texts += [json.dumps([call.name, call.arguments]) for each in request.messages for call in each.tool_calls]
    texts += [tool.model_dump_json() for tool in request.tools]
    return sum(map(estimated, texts)) + _PER_MESSAGE * (len(request.messages) + 1)


def _table(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
            return value
    return None
