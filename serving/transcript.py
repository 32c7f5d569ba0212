"""Conversations as append-only token ids.

Tokenising a grown conversation anew can split its text at other places than the model did when it wrote it;
the prefix cache then misses. So the ids that were sampled are kept, and only the text that the chat template
puts after them is tokenised.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from agentopt_local.chat import ChatRequest, Message, ToolSpec
from agentopt_local.errors import ModelError, RefusedPromptError
from agentopt_local.tool_formats import ToolFormat, encodable, format_for_template

Session = tuple[tuple[Message, ...], tuple[ToolSpec, ...], list[int]]


def template_message(message: Message) -> dict[str, Any]:
    """``message`` in the form that chat templates read."""
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        out["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return out


class Transcripts:
    """Renders conversations with the model's chat template and remembers their token ids per session."""

    def __init__(self, tokenizer: Any, max_sessions: int = 65_536) -> None:
        """``tokenizer``: a transformers tokenizer with a chat template."""
        self.tokenizer = tokenizer
        self.max_sessions = max_sessions
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        self.tool_format: ToolFormat = format_for_template(template, tokenizer.get_added_vocab())
        self.native_tools = template is not None and "tools" in template

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, open_turn: bool) -> str:
        """The conversation as text; ``open_turn`` ends it where the assistant's next turn begins.

        Raises RefusedPromptError if the chat template refuses a conversation in which the model has replied, and
        ModelError if it refuses the opening already: then it would refuse every conversation.
        """
        from jinja2 import TemplateError

        rows = [template_message(message) for message in messages]
        if tools and not self.native_tools:
            text = self.tool_format.instructions(tools)
            if rows and rows[0]["role"] == "system":
                rows[0]["content"] = f"{rows[0]['content']}\n\n{text}"
            else:
                rows.insert(0, {"role": "system", "content": text})
        if not self.native_tools:
            rows = [self._plain(row) for row in rows]
        specs = [{"type": "function", "function": tool.model_dump()} for tool in tools]
        try:
            rendered = self.tokenizer.apply_chat_template(
                rows,
                tools=specs if specs and self.native_tools else None,
                tokenize=False,
                add_generation_prompt=open_turn,
            )
        except TemplateError as error:
            begun = any(message.role == "assistant" for message in messages)
            kind = RefusedPromptError if begun else ModelError
            name = self.tokenizer.name_or_path
            raise kind(f"the chat template of {name} refuses the conversation: {error}") from None
        return str(rendered)

    @staticmethod
    def _plain(row: dict[str, Any]) -> dict[str, Any]:
        """A row for a template that knows neither calls nor the tool role."""
        if row["role"] == "tool":
            return {"role": "user", "content": f"<tool_response>\n{row['content']}\n</tool_response>"}
        calls = row.pop("tool_calls", None)
        if calls:
            text = "\n".join(
                f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls
            )
            row["content"] = f"{row['content']}\n{text}".strip()
        return row

    def encode(self, text: str) -> list[int]:
        """``text`` as token ids, with no special token added."""
        return list(self.tokenizer.encode(encodable(text), add_special_tokens=False))

    def prompt_ids(self, session: str | None, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> list[int]:
        """Token ids of the prompt; appends to the session's ids where the conversation only grew."""
        known = self.sessions.get(session) if session is not None else None
        if known is not None:
            told, told_tools, ids = known
            if told_tools == tools and len(messages) > len(told) and messages[: len(told)] == told:
                segment = self._segment(told, messages, tools, ids)
                if segment is not None:
                    return ids + self.encode(segment)
        return self.encode(self.render(messages, tools, open_turn=True))

    def held(self, session: str | None, ids: list[int]) -> int:
        """How many of ``ids``, from the first on, the session's last request and its reply had."""
        known = self.sessions.get(session) if session is not None else None
        return len(known[2]) if known is not None and ids[: len(known[2])] == known[2] else 0

    def shared_ids(self, request: ChatRequest, ids: list[int]) -> list[int]:
        """The leading ids that other conversations have in common with this one; empty where it continues one.

        That is the system message with the tools, or the whole prompt where there is none (the optimizer samples
        one prompt several times).
        """
        if request.session in self.sessions:
            return []
        if request.messages[0].role != "system":
            return ids
        head = self.encode(self.render(request.messages[:1], request.tools, open_turn=False))
        return head if ids[: len(head)] == head else []

    def _segment(
        self, told: tuple[Message, ...], messages: tuple[Message, ...], tools: tuple[ToolSpec, ...], ids: list[int]
    ) -> str | None:
        """The text between the ids that exist and the assistant's next turn; None where it cannot be told."""
        base = self.render(told, tools, open_turn=False)
        full = self.render(messages, tools, open_turn=True)
        end = self.tokenizer.eos_token
        if not full.startswith(base) or not end or end not in base:
            return None
        tail = base[base.rfind(end) + len(end) :] + full[len(base) :]
        return tail if ids[-1] == self.tokenizer.eos_token_id else end + tail

    def remember(
        self,
        session: str | None,
        messages: tuple[Message, ...],
        tools: tuple[ToolSpec, ...],
        ids: list[int],
    ) -> None:
        """Keep the ids of a conversation that now ends with the assistant's turn."""
        if session is None:
            return
        self.sessions[session] = (messages, tools, ids)
        self.sessions.move_to_end(session)
        while len(self.sessions) > self.max_sessions:
            self.sessions.popitem(last=False)
