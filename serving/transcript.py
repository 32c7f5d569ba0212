"""Conversations as append-only token ids.

Tokenizing a grown conversation from scratch can split its text differently from how the model wrote it, and then the
prefix cache misses. So the sampled ids are kept, and only the text that the chat template adds after them is
tokenized.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from agentopt_local.chat import ChatRequest, Message, ToolSpec
from agentopt_local.errors import ModelError, RefusedPromptError
from agentopt_local.tool_calls import encodable
from agentopt_local.tool_formats import ToolFormat, format_for_template


class Transcript(NamedTuple):
    """A conversation that ends with the assistant's turn."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    ids: list[int]


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
    """Renders conversations with the model's chat template and remembers the token ids of each.

    ``conversation`` is the key under which a conversation is remembered; None: it is not.
    """

    def __init__(self, tokenizer: Any, max_conversations: int = 65_536) -> None:
        """``tokenizer``: a transformers tokenizer with a chat template.

        The least recently used conversation is forgotten first.
        """
        self.tokenizer = tokenizer
        self.max_conversations = max_conversations
        self.conversations: OrderedDict[str, Transcript] = OrderedDict()
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
        """A row for a template that supports neither calls nor the tool role."""
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
        """``text`` as token ids, without added special tokens."""
        return list(self.tokenizer.encode(encodable(text), add_special_tokens=False))

    def prompt_ids(
        self, conversation: str | None, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]
    ) -> list[int]:
        """Token ids of the prompt, which extend the remembered ids if the conversation has only grown."""
        known = self._known(conversation)
        if known is not None:
            grown = len(messages) > len(known.messages) and messages[: len(known.messages)] == known.messages
            if grown and known.tools == tools:
                segment = self._segment(known, messages)
                if segment is not None:
                    return known.ids + self.encode(segment)
        return self.encode(self.render(messages, tools, open_turn=True))

    def known_tokens(self, conversation: str | None, ids: list[int]) -> int:
        """How many leading ``ids`` the conversation's last request and its reply had."""
        known = self._known(conversation)
        return len(known.ids) if known is not None and ids[: len(known.ids)] == known.ids else 0

    def shared_ids(self, request: ChatRequest, ids: list[int]) -> list[int]:
        """The leading ``ids`` that other conversations share; empty if the request continues a conversation.

        These are the system message with the tools or, without a system message, the whole prompt: the optimizer
        samples the same prompt several times.
        """
        if request.conversation in self.conversations:
            return []
        if request.messages[0].role != "system":
            return ids
        prefix = self.encode(self.render(request.messages[:1], request.tools, open_turn=False))
        return prefix if ids[: len(prefix)] == prefix else []

    def _known(self, conversation: str | None) -> Transcript | None:
        return self.conversations.get(conversation) if conversation is not None else None

    def _segment(self, known: Transcript, messages: tuple[Message, ...]) -> str | None:
        """The text between the known ids and the assistant's next turn; None if the template hides where it begins."""
        base = self.render(known.messages, known.tools, open_turn=False)
        full = self.render(messages, known.tools, open_turn=True)
        end = self.tokenizer.eos_token
        if not full.startswith(base) or not end or end not in base:
            return None
        tail = base[base.rfind(end) + len(end) :] + full[len(base) :]
        return tail if known.ids[-1] == self.tokenizer.eos_token_id else end + tail

    def remember(
        self,
        conversation: str | None,
        messages: tuple[Message, ...],
        tools: tuple[ToolSpec, ...],
        ids: list[int],
    ) -> None:
        """Remember a conversation that now ends with the assistant's turn."""
        if conversation is None:
            return
        self.conversations[conversation] = Transcript(messages, tools, ids)
        self.conversations.move_to_end(conversation)
        while len(self.conversations) > self.max_conversations:
            self.conversations.popitem(last=False)
