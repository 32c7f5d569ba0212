"""A model's chat template: what it accepts is tried out once, and conversations are brought into that form.

Chat templates differ in what they refuse: system messages, two user turns in a row, calls without ids, several calls in
a turn. Some drop what they do not know without a word. So each of these is rendered once with words that can be found
again, and the answers are kept as :class:`TemplateRules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import product
from typing import Any

from agentopt_local.chat import Message, ToolSpec
from agentopt_local.errors import ConfigError, RefusedPromptError
from agentopt_local.thoughts import THOUGHT_MARKS
from serving.call_form import ARGUMENTS, KEYS, NAME, PROBE, CallForm, common_prefix, counted, read_form
from serving.grammar_text import Marks, pieces
from serving.template_rows import (
    IDS,
    RESULT,
    Ids,
    Row,
    exchanges,
    in_words,
    joined,
    one_call_each,
    row_of,
    text_as_thought,
    thought_fields,
    to_rows,
    with_text_arguments,
)
from serving.template_rules import CONTENTS, NO_TOOLS, TemplateRules, variables_of

SYSTEM, QUESTION, ANSWER, SECOND = "zsystem", "zquestion", "zanswer", "zsecond"
EFFORT = "reasoning_effort"
EFFORTS = ("low", "medium", "high", "xhigh")
Variables = Mapping[str, Any]


class ChatTemplate:
    """Renders conversations with a tokenizer's chat template, within its rules."""

    def __init__(
        self, tokenizer: Any, name: str | None = None, stop_ids: Sequence[int] = (), day: date | None = None
    ) -> None:
        """``name``: of the model, for messages; ``stop_ids``: tokens that end its turns; ``day``: the current date as
        it shows it, today if None.

        Raises ConfigError if not even a single question can be rendered.
        """
        self.tokenizer = tokenizer
        self.name = name or str(tokenizer.name_or_path)
        self.stop_ids = tuple(stop_ids) or ((tokenizer.eos_token_id,) if tokenizer.eos_token_id is not None else ())
        self.day = day or date.today()
        self.variables = variables_of(tokenizer.chat_template)
        self._added = Marks(tokenizer.get_added_vocab())
        for content, no_tools in product(CONTENTS, NO_TOOLS):
            self.rules = TemplateRules(content=content, no_tools=no_tools)
            if self._shows([row_of("user", QUESTION)], QUESTION):
                break
        else:
            self.rules = TemplateRules()
            raise ConfigError(
                f"the chat template of {self.name} does not render a single question: {self._refusal()}. Set "
                "model.chat_template to a file with another template (Jinja), or choose another model"
            )
        self._learn()

    def _learn(self) -> None:
        user, assistant, more = row_of("user", QUESTION), row_of("assistant", ANSWER), row_of("user", SECOND)
        self._set(system=self._shows([row_of("system", SYSTEM), user, assistant, more], SYSTEM, QUESTION, SECOND))
        two = [user, assistant, more, row_of("user", RESULT)]
        self._set(several_users=self._shows(two, QUESTION, SECOND, RESULT))
        empty = [user, row_of("assistant", "") | thought_fields(SECOND), row_of("user", RESULT)]
        self._set(empty_turns=self._shows(empty, QUESTION, RESULT))
        if EFFORT in self.variables:
            self._set(efforts=tuple(each for each in EFFORTS if self._accepts(each)))
        self._set(ending=(self._try([user, assistant]) or "").partition(ANSWER)[2])
        lists = self._shows([user], NAME, tools=True) and not self._shows([user], NAME)
        answered, found, _ = (self._try([user, assistant], tools=lists) or "").partition(ANSWER)
        if not found:
            return
        self._set(tools=lists)
        if not any(self._learn_calls(user, answered, ids) for ids in IDS) and self.rules.form is None:
            self._set(arguments="object", ids="numbered", tools=False)
            return
        self._set(calls=True)
        called, result = self._exchanges([ARGUMENTS])
        both = called | {"content": ANSWER} | thought_fields(SECOND)
        self._set(text_beside_calls=self._shows([user, both, result], ANSWER, NAME, RESULT, tools=lists))
        self._set(user_after_result=self._shows([user, called, result, more], RESULT, SECOND, tools=lists))
        two_calls = self._exchanges([ARGUMENTS, {KEYS[0]: 8462}])
        numbers = (str(ARGUMENTS[KEYS[0]]), "8462")
        self._set(several_calls=self._shows([user, *two_calls], *numbers, RESULT, RESULT, tools=lists))

    def _learn_calls(self, user: Row, answered: str, ids: Ids) -> bool:
        """Whether calls with such ids are rendered, and results refer to them by what they show.

        Without the latter, the form that was found first is kept.
        """
        known = self.rules
        for arguments in ("object", "text"):
            self._set(arguments=arguments, ids=ids)
            turns = [user, *self._exchanges([ARGUMENTS], [ARGUMENTS])]
            form = self._form(user, answered) if self._shows(turns, RESULT, RESULT, tools=known.tools) else None
            if form is None:
                continue
            shown = [(self._try(turns[:end], tools=known.tools) or "") for end in (3, 4, 5)]
            before, called, referred = (text.count(str(turns[-1]["tool_call_id"])) for text in shown)
            if called > before or referred == called:
                return True
            known = self.rules if known.form is None else known
        self.rules = known
        return False

    def _exchanges(self, *turns: Sequence[dict[str, Any]]) -> list[Row]:
        return exchanges(*turns, kind=self.rules.ids)

    def _form(self, user: Row, answered: str) -> CallForm | None:
        """How calls are written; ``answered``: a conversation up to the text of an answer."""
        two, later = self._exchanges([ARGUMENTS] * 2)[:1], self._exchanges([ARGUMENTS], [ARGUMENTS])[:-1]
        turns = (self._exchanges([{}])[:1], self._exchanges([ARGUMENTS])[:1], two, later)
        *calls, two_calls, third_turn = (self._try([user, *rows], tools=self.rules.tools) for rows in turns)
        if None in calls:
            return None
        texts = [answered + ANSWER, *map(str, calls)]
        start = len(common_prefix(*texts))
        for text in texts:  # not in the middle of a mark
            start = min(
                [start, *(match.start() for match in self._added.pattern.finditer(text) if match.end() > start)]
            )
        form = read_form(*(self._without_ending(text[start:]) for text in texts[1:]))
        if form is not None:
            opening = answered[start:]
            thought = any(mark in opening for marks in THOUGHT_MARKS for mark in marks)
            form = counted(form, two_calls, third_turn)
            self._set(form=form, text_opening="" if thought else opening)
        return form

    def describe_calls(self) -> None:
        """Have calls put into words, because nothing reads those that the template writes."""
        self._set(tools=False, calls=False, form=None, text_opening="")

    def _accepts(self, effort: str) -> bool:
        try:
            self._apply([row_of("user", QUESTION)], (), open_turn=True, variables={EFFORT: effort})
        except RefusedPromptError:
            return False
        return True

    def _set(self, **rules: Any) -> None:
        self.rules = self.rules.model_copy(update=rules)

    def _without_ending(self, text: str) -> str:
        """A turn's text up to the first mark that ends turns."""
        ends = {*self.stop_ids, self.ending_id()} - {None}
        marks = [self.tokenizer.convert_ids_to_tokens(each) for each in ends]
        cuts = [at for mark in marks if mark and (at := text.find(mark)) >= 0]
        return text[: min(cuts)] if cuts else text.removesuffix(self.rules.ending)

    def ending_id(self) -> int | None:
        """The first special token that the template writes after an answer; None if it writes none."""
        return next((each for each in pieces(self.rules.ending, self._added) if isinstance(each, int)), None)

    def _shows(self, rows: Sequence[Row], *words: str, tools: bool = False) -> bool:
        """Whether the rendered rows contain the words, in this order."""
        text = self._try(rows, tools=tools)
        at = 0
        for word in words:
            at = (text or "").find(word, at)
            if at < 0:
                return False
            at += len(word)
        return True

    def _try(self, rows: Sequence[Row], *, tools: bool = False, open_turn: bool = False) -> str | None:
        try:
            return self._apply(rows, (PROBE,) if tools else (), open_turn=open_turn, variables={})
        except RefusedPromptError:
            return None

    def _refusal(self) -> str:
        try:
            text = self._apply([row_of("user", QUESTION)], (), open_turn=False, variables={})
        except RefusedPromptError as error:
            return str(error.__cause__)
        return f"the question is missing in {text[:200]!r}"

    def _apply(self, rows: Sequence[Row], tools: Sequence[ToolSpec], *, open_turn: bool, variables: Variables) -> str:
        from jinja2 import TemplateError

        rows = [self._formed(row) for row in rows]
        none: list[Any] | None = [] if self.rules.no_tools == "empty" else None
        specs = [{"type": "function", "function": tool.model_dump()} for tool in tools]
        try:
            text = self.tokenizer.apply_chat_template(
                rows,
                tools=specs or none,
                tokenize=False,
                add_generation_prompt=open_turn,
                strftime_now=self.day.strftime,  # in place of the clock, which would change prompts from day to day
                **variables,
            )
        # Templates raise TemplateError on purpose, the others where they meet a value that they do not expect.
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise RefusedPromptError(f"the chat template of {self.name} refuses the conversation: {error}") from error
        return str(text)

    def _formed(self, row: Row) -> Row:
        if self.rules.content == "parts":
            row = {**row, "content": [{"type": "text", "text": row["content"]}]}
        if self.rules.arguments == "text" and row.get("tool_calls"):
            row = {**row, "tool_calls": [with_text_arguments(call) for call in row["tool_calls"]]}
        return row

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        instructions: str,
        *,
        open_turn: bool,
        variables: Variables,
    ) -> str:
        """The conversation as text; ``open_turn`` ends it where the assistant's next turn begins.

        ``instructions`` describe the tools to models whose template does not. Raises RefusedPromptError.
        """
        rows = self._conform(to_rows(messages, self.rules.ids), instructions if tools and not self.rules.tools else "")
        return self._apply(rows, tools if self.rules.tools else (), open_turn=open_turn, variables=variables)

    def _conform(self, rows: list[Row], instructions: str) -> list[Row]:
        """``rows`` within the rules."""
        rules = self.rules
        if instructions:
            if rows and rows[0]["role"] == "system":
                rows[0] = row_of("system", f"{rows[0]['content']}\n\n{instructions}")
            else:
                rows.insert(0, row_of("system", instructions))
        if not rules.empty_turns:
            rows = [row if row["content"] or row.get("tool_calls") else {**row, "content": "…"} for row in rows]
        if not rules.calls:
            rows = [in_words(row) for row in rows]
        elif not rules.several_calls:
            rows = one_call_each(rows)
        if not rules.text_beside_calls:
            rows = [text_as_thought(row) for row in rows]
        if not rules.system and rows and rows[0]["role"] == "system":
            rows[0] = {**rows[0], "role": "user"}
            rows = joined(rows[:2], "user", "user") + rows[2:]
        if not rules.user_after_result:
            rows = joined(rows, "tool", "user")
        if not rules.several_users:
            rows = joined(rows, "user", "user")
        return rows
