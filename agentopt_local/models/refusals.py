"""Whose fault a server's refusal is: this one prompt's, or that of every request.

Servers have no common code for it, so their words decide. What is not recognised here is taken for everyone's fault
and ends the run with the server's message: a run that goes on would grade every problem 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentopt_local.chat import Message
from agentopt_local.errors import ContextOverflowError, PromptError, RefusedPromptError

_CONTEXT = re.compile(
    r"context_length_exceeded|maximum context length|context (length|window|size)|prompt is too long|too many tokens",
    re.I,
)
_CONTENT = re.compile(
    r"content_filter|content[_ -]policy|content management policy|invalid_prompt"  # OpenAI, Azure, LiteLLM
    r"|\b(prompt|input|content)\b (was|were|has been|have been) (flagged|blocked)"  # OpenAI, OpenRouter
    r"|\b(prompt|input|content)\b.{0,40} ?violat\w+ .{0,40}\b(usage|content|safety) (polic|guideline)"  # xAI
    r"|content exists risk|data_inspection_failed",  # DeepSeek, DashScope
    re.I,
)
_TEMPLATE = re.compile(r"roles must alternate|jinja|chat template|template ?error", re.I)


def prompt_error(status: int, words: str) -> type[PromptError] | None:
    """The error for a refusal with ``status`` and the server's ``words``; None if the prompt is not to blame."""
    if status in (400, 413, 422) and _CONTEXT.search(words):
        return ContextOverflowError
    if status == 413 or (status in (400, 403, 422) and blames_content(words)):
        return RefusedPromptError
    return None


def blames_content(words: str) -> bool:
    """Whether a content filter speaks."""
    return _CONTENT.search(words) is not None


def blames_template(words: str) -> bool:
    """Whether the chat template could not render the conversation. Then see :func:`begun`."""
    return _TEMPLATE.search(words) is not None


def begun(messages: Sequence[Message]) -> bool:
    """Whether the model has replied in this conversation.

    A template that refuses the opening refuses every conversation, such as one without a system role; one that
    refuses a later turn refuses what became of this conversation, such as two user turns in a row.
    """
    return any(message.role == "assistant" for message in messages)
