"""Thoughts to and from the JSON of OpenAI's chat-completions interface and of the servers that extend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt_local.chat import ChatRequest, Thinking

THOUGHT_FIELDS = ("reasoning_content", "reasoning")
"""Under which servers write the thought of a message."""


def thinking_of(request: ChatRequest) -> Thinking:
    """How ``request`` wants the model to think."""
    return request.thinking or Thinking()


def thinking_fields(thinking: Thinking, *, vllm: bool) -> dict[str, Any]:
    """The fields of a request that thinks so. Nothing is said where a server's own default is wanted."""
    fields: dict[str, Any] = {}
    if vllm:
        # vLLM drops variables that the chat template does not use; families have different names for the switch.
        wanted = thinking.effort not in ("off", "least")
        fields["chat_template_kwargs"] = {"enable_thinking": wanted, "thinking": wanted}
    if thinking.effort in ("low", "medium", "high"):
        fields["reasoning_effort"] = thinking.effort
    elif thinking.effort == "off" and not vllm:
        fields["reasoning_effort"] = "none"
    return fields


def thought_field(message: Mapping[str, Any]) -> str | None:
    """The field in which a server wrote the thought of its message; None if it wrote none."""
    found = (field for field in THOUGHT_FIELDS if isinstance(message.get(field), str) and message[field])
    return next(found, None)
