"""The tokens of a reply: what the server counted, or else what can be counted from the text."""

from __future__ import annotations

from typing import Any

from agentopt_local.chat import ChatRequest, Usage
from agentopt_local.room import estimate, estimate_text

_MOST = 10**9
"""No request has more tokens; a larger number is an error."""


def usage_of(body: Any, request: ChatRequest, text: str = "") -> Usage:
    """The tokens of the reply ``text`` to ``request``, whose response is ``body``.

    A count that is missing, or cannot be right because it is negative, no number, or 0 although there is text, is
    replaced by an estimate from the text, so a budget may end a run early but not late.
    """
    usage = _table(body, "usage")
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    prompt = prompt or estimate(request)
    if completion is None or (completion == 0 and text):
        total = _count(usage, "total_tokens") or 0
        completion = max(total - prompt, estimate_text(text))
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
