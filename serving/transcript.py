"""Conversations as token ids that grow at their end.

Tokenizing a grown conversation from scratch can split its text differently from how the model wrote it, and then the
prefix cache misses. So the sampled ids are kept, and only the text that the chat template adds after them is
tokenized. Where a template rewrites earlier turns, for example by dropping their thoughts, the ids follow the template.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from agentopt_local.chat import ChatRequest, Constraint, Message, Thinking, ToolSpec
from agentopt_local.errors import ModelError, RefusedPromptError
from agentopt_local.tool_calls import encodable
from serving.chat_template import ChatTemplate
from serving.family import FREE, Family, Opening

MIN_THOUGHT = 32
"""Tokens; if less room is left for a thought, the model does not think."""
OTHER = Message(role="user", content="\N{ASTERISM}")
"""A question with which none begins."""


class Prompt(NamedTuple):
    """A prompt and how the turn after it begins."""

    ids: list[int]
    opening: Opening
    variables: Mapping[str, Any]
    """The chat template's."""
    chars: int
    """Length of its text."""
    digest: int
    """Hash of its text."""


class Transcript(NamedTuple):
    """A conversation that ends with the assistant's turn."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    prompt: Prompt
    ids: list[int]
    """Of prompt and turn, without the token that ended it."""


class Transcripts:
    """Renders conversations with the model's chat template and remembers the token ids of each.

    A request's ``conversation`` is the key under which it is remembered; None: it is not.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        name: str | None = None,
        stop_ids: Sequence[int] = (),
        day: date | None = None,
        max_conversations: int = 65_536,
    ) -> None:
        """``tokenizer``: a transformers tokenizer with a chat template. ``name``: of the model, for messages.

        ``stop_ids``: tokens that end a turn, besides those that tokenizer and template show. ``day``: the current date
        to templates that show it, today if None. The least recently used conversation is forgotten first. Raises
        ConfigError if the template renders not even a question.
        """
        self.tokenizer = tokenizer
        self.max_conversations = max_conversations
        self.conversations: OrderedDict[str, Transcript] = OrderedDict()
        known = [*stop_ids, *([] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)])]
        template = ChatTemplate(tokenizer, name, known, day)
        ending = template.ending_id()
        self.stop_ids = list(dict.fromkeys([*known, *([] if ending is None else [ending])]))
        self.family = Family(tokenizer, template, self.stop_ids)
        self.stop_marks: list[str] = tokenizer.convert_ids_to_tokens(self.stop_ids)
        shown = template.rules.ending.strip()
        closers = "|".join(map(re.escape, [*([shown] if shown else []), *self.stop_marks]))
        self._ending = re.compile(rf"(?:(?:{closers})\s*)+\Z" if closers else r"\Z")
        """What closes a turn at the end of a conversation: Phi's has two such marks."""

    def render(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], variables: Mapping[str, Any], *, open_turn: bool
    ) -> str:
        """The conversation as text; ``open_turn`` ends it where the assistant's next turn begins.

        Raises RefusedPromptError if the chat template refuses a conversation in which the model has replied, and
        ModelError if it refuses the opening already: then it would refuse every conversation.
        """
        template = self.family.template
        instructions = self.family.instructions(tools) if tools and not template.rules.tools else ""
        try:
            return template.render(messages, tools, instructions, open_turn=open_turn, variables=variables)
        except RefusedPromptError as error:
            if any(message.role == "assistant" for message in messages):
                raise
            raise ModelError(f"{error}; set model.chat_template to a file with another template (Jinja)") from None

    def encode(self, text: str) -> list[int]:
        """``text`` as token ids, without added special tokens."""
        return list(self.tokenizer.encode(encodable(text), add_special_tokens=False))

    def prompt(self, request: ChatRequest, max_model_len: int) -> Prompt:
        """The prompt of ``request``, which extends the remembered ids if the conversation has only grown.

        The thought gets what ``max_model_len`` leaves beside the prompt and the longest reply.
        """
        thinking = request.thinking or Thinking()
        prompt = self._prompt(request, thinking)
        opening = prompt.opening
        if opening.thought == "none":
            return prompt
        room = max_model_len - len(prompt.ids) - request.sampling.max_tokens
        if room < MIN_THOUGHT:
            return self._prompt(request, Thinking(effort="off"))
        return prompt._replace(opening=opening.model_copy(update={"max_tokens": min(opening.max_tokens, room)}))

    def _prompt(self, request: ChatRequest, thinking: Thinking) -> Prompt:
        variables = self.family.variables(thinking)
        text = self.render(request.messages, request.tools, variables, open_turn=True)
        ids = self._grown(request, variables, text) or self.encode(text)
        opening = self.family.opening(text, thinking)
        text += opening.added
        return Prompt(ids + self.encode(opening.added), opening, variables, len(text), hash(text))

    def _grown(self, request: ChatRequest, variables: Mapping[str, Any], text: str) -> list[int] | None:
        """The ids of ``text`` if the template only adds to what is remembered of the conversation; None if not."""
        known = self._known(request.conversation)
        messages = request.messages
        if known is None or len(messages) <= len(known.messages) or messages[: len(known.messages)] != known.messages:
            return None
        if known.tools != request.tools or known.prompt.variables != variables:
            return None
        base = self.render(known.messages, known.tools, variables, open_turn=False)
        start = known.prompt.chars
        if hash(base[:start]) != known.prompt.digest:
            return None
        closed = self._ending.search(base, start)
        end = closed.start() if closed else len(base)
        dropped = known.messages[-1].thought not in base[start:end]
        if dropped or self._renumbered(known, base[start:end]) or not text.startswith(base[:end]):
            return None
        return known.ids + self.encode(text[end:])

    def _renumbered(self, known: Transcript, written: str) -> bool:
        """Whether the template gives the calls of a turn, as ``written``, other ids than the model has sampled.

        Results refer to calls by the template's.
        """
        form = self.family.template.rules.form
        if form is None or not known.messages[-1].tool_calls:
            return False
        sampled = self.tokenizer.decode(known.ids[len(known.prompt.ids) :], skip_special_tokens=False)
        return form.ids_in(sampled) != form.ids_in(written)

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
        variables = self.family.variables(request.thinking or Thinking())
        other = self.encode(self.render((request.messages[0], OTHER), request.tools, variables, open_turn=True))
        return ids[: next((i for i, (one, two) in enumerate(zip(ids, other, strict=False)) if one != two), 0)]

    def _known(self, conversation: str | None) -> Transcript | None:
        return self.conversations.get(conversation) if conversation is not None else None

    def constraint(self, request: ChatRequest, opening: Opening) -> Constraint | None:
        """The request's constraint for the whole turn that follows its prompt."""
        wanted = request.constraint
        if wanted is None:
            if opening.thought == "none" or request.tools:  # calls have marks, which free text may not hold
                return None
            wanted = FREE
        made = sum(len(message.tool_calls) for message in request.messages)
        return self.family.grammar(wanted, request.tools, opening, made=made)

    def read(self, request: ChatRequest, prompt: Prompt, sampled: Sequence[int]) -> tuple[Message, int]:
        """The sampled turn as a message, and how many of its tokens were a thought."""
        return self.family.read(sampled, request.tools, request.constraint, prompt.opening)

    def remember(self, request: ChatRequest, prompt: Prompt, message: Message, sampled: Sequence[int]) -> None:
        """Remember the conversation of ``request``, which now ends with ``message``."""
        if request.conversation is None:
            return
        body = list(sampled[:-1] if sampled and sampled[-1] in self.stop_ids else sampled)
        self.conversations[request.conversation] = Transcript(
            messages=(*request.messages, message),
            tools=request.tools,
            prompt=prompt,
            ids=prompt.ids + body,
        )
        self.conversations.move_to_end(request.conversation)
        while len(self.conversations) > self.max_conversations:
            self.conversations.popitem(last=False)
