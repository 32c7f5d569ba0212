"""How a model takes its turns: thoughts, text and calls, in the form of its chat template.

Two things are sampled: what a grammar lets through, and text that nothing constrains. Both are read by the same reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentopt_local.chat import Constraint, Message, Thinking, ToolSpec
from agentopt_local.record import Record
from agentopt_local.thoughts import THOUGHT_MARKS, split_thought
from agentopt_local.tool_calls import encodable, parse_reply
from agentopt_local.tool_formats import HermesFormat, LlamaJsonFormat, ToolFormat, described
from serving.call_form import CallForm
from serving.call_grammar import call_grammar
from serving.call_readers import HARMONY, CallReader, reader_of
from serving.chat_template import EFFORT, ChatTemplate
from serving.grammar_text import Marks, literal, pieces

SWITCHES = ("enable_thinking", "thinking")
"""Variables of chat templates that turn thoughts on and off."""
FREE = Constraint(kind="regex", value=r"(.|\n)*")
"""Any text: the constraint of a request that has none, where a thought has to be ended."""
HARMONY_FORM = CallForm(
    opening="<|channel|>commentary to=functions.", named=" <|constrain|>json<|message|>", closing="", style="json"
)
"""How gpt-oss usually writes a call; its chat template names the function before the channel."""
HERMES = ('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>")
LLAMA = ('{"name": "', '", "parameters": ', "}")
Thinks = Literal["never", "if switched on", "if it likes", "always"]


class Opening(Record):
    """How a turn begins: after the prompt, before its first sampled token."""

    added: str = ""
    """Text that ends a thought which the template has opened and nobody wants."""
    thought: Literal["none", "allowed", "begun"] = "none"
    max_tokens: int = 0
    """Longest thought."""


class Family:
    """The forms of one model's turns, found out from its tokenizer and chat template."""

    def __init__(self, tokenizer: Any, template: ChatTemplate, stop_ids: Sequence[int]) -> None:
        """``stop_ids``: the tokens that end a turn."""
        self.tokenizer = tokenizer
        self.template = template
        self.stop_ids = tuple(stop_ids)
        self.marks = special_tokens(tokenizer)
        self.thought_open, self.thought_close = self._thought_marks()
        self._one_mark = len(list(pieces(self.thought_close, self.marks))) == 1
        """Whether a thought ends with a mark of its own, and not with the beginning of the next message."""
        self.thinks: Thinks = self._thinks()
        form = template.rules.form
        known = form is None or self._json_format(form) is not None
        self.reader: CallReader | None = None if known or form is None else reader_of(form, tokenizer)
        if self.reader is None and not known:
            template.describe_calls()
        self.format: ToolFormat | None = None if self.reader is not None else self._json_format(template.rules.form)
        """The format of models that write calls as JSON in Hermes' or Llama's way, or whose template has no calls."""

    @property
    def calls(self) -> str:
        """How calls are written, by the name of the format or of vLLM's parser for it."""
        if self.format is not None:
            return self.format.name if self.template.rules.calls else f"{self.format.name}, described in words"
        return getattr(self.reader, "name", "in the form of the chat template")

    def _json_format(self, form: CallForm | None) -> ToolFormat | None:
        if form is not None and (form.opening, form.named, form.closing) == LLAMA:
            return LlamaJsonFormat()
        if form is None or (form.opening, form.named, form.closing.rstrip()) == HERMES:
            return HermesFormat(mark_tokens="<tool_call>" in self.marks and "</tool_call>" in self.marks)
        return None

    def _thought_marks(self) -> tuple[str, str]:
        """The marks in the template whose end is a single token; a thought could not be ended otherwise."""
        source = str(self.tokenizer.chat_template)
        for opening, closing in THOUGHT_MARKS:
            shut = next(pieces(closing, self.marks), "")
            named = closing if closing.count("<") < 2 else opening  # by the mark that no other family has
            if isinstance(shut, int) and named in source:
                return opening, closing
        return "", ""

    def _thinks(self) -> Thinks:
        if not self.thought_close:
            return "never"
        off, on = (self._question(self.variables(Thinking(effort=effort))) for effort in ("off", "high"))
        if any(name in self.template.variables for name in SWITCHES) and off != on:
            return "if switched on"
        if self.prompt_state(on) == "begun" or off != on:
            return "always"
        return "if it likes"

    def variables(self, thinking: Thinking) -> dict[str, Any]:
        """The template's variables for a request that thinks so."""
        known = self.template.variables
        wanted = thinking.effort not in ("off", "least") and bool(self.thought_close)  # others could not be ended
        values: dict[str, Any] = {name: wanted for name in SWITCHES if name in known}
        efforts = self.template.rules.efforts
        if efforts and thinking.effort != "on":  # the highest may have another name
            nearest = {"medium": efforts[len(efforts) // 2], "high": efforts[-1]}.get(thinking.effort, efforts[0])
            values[EFFORT] = thinking.effort if thinking.effort in efforts else nearest
        if "thinking_budget" in known:
            values["thinking_budget"] = thinking.max_tokens if wanted else 0
        return values

    def _question(self, variables: Mapping[str, Any]) -> str:
        question = (Message(role="user", content="?"),)
        return self.template.render(question, (), "", open_turn=True, variables=variables)

    def prompt_state(self, prompt: str) -> Literal["begun", "over", "open"]:
        """Whether a prompt ends in a thought, after one, or before any."""
        end = prompt.rstrip()
        if self.thought_open and end.endswith(self.thought_open):
            return "begun"
        # gpt-oss ends a thought as it ends the user's turn, so its prompts cannot say that one is over
        return "over" if self._one_mark and end.endswith(self.thought_close) else "open"

    def opening(self, prompt: str, thinking: Thinking) -> Opening:
        """How the turn after ``prompt`` begins."""
        if self.thinks == "never":
            return Opening()
        state = self.prompt_state(prompt)
        unwanted = thinking.effort == "off" or thinking.max_tokens == 0
        if state == "begun":
            if unwanted:
                return Opening(added=f"{self.thought_close}\n\n")
            return Opening(thought="begun", max_tokens=thinking.max_tokens)
        quiet = unwanted or (thinking.effort == "least" and self.thinks == "if switched on")
        if state == "over" or quiet:
            return Opening()
        return Opening(thought="allowed", max_tokens=thinking.max_tokens)

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        """Text for the system message of a model whose chat template does not describe tools."""
        if self.format is not None:
            return self.format.instructions(tools)
        form = self.template.rules.form
        assert form is not None
        return described(tools, f"To call one, end your message with a call of this form:\n{form.of(0).example()}")

    def grammar(
        self, constraint: Constraint, tools: Sequence[ToolSpec], opening: Opening, *, made: int = 0
    ) -> Constraint:
        """The constraint of a whole turn, with its thought and its end, as llguidance takes it.

        ``made``: how many calls the conversation has.
        """
        form = self.template.rules.form
        head = self.template.rules.text_opening
        if constraint.kind == "turn":
            if self.format is not None or not tools or form is None:
                format_ = self.format or HermesFormat()
                lark = format_.grammar(tools, constraint.value, constraint.max_thought_sentences)
            else:
                usual = [HARMONY_FORM] if form.opening == HARMONY and "<|constrain|>" in self.marks else []
                lark = call_grammar(
                    [form.of(made), *usual],
                    tools,
                    constraint.value,
                    self.marks,
                    max_thought_sentences=constraint.max_thought_sentences,
                    text_opening=head,
                )
                head = ""
            constraint = Constraint(kind="grammar", value=lark)
        others = [each for each in self.stop_ids if each != self.tokenizer.eos_token_id]
        ends_otherwise = bool(others) and self.template.ending_id() in others
        if opening.thought == "none" and not head and not ends_otherwise:
            return constraint
        ends = " | ".join(f"<[{each}]>" for each in self.stop_ids)
        lines = [f"start: {self._thought(opening)} {literal(head, self.marks)} zturn zend?", f"zend: {ends}"]
        if opening.thought != "none":
            lines.append(f"zthought[max_tokens={opening.max_tokens}]: /(.|\\n)*/")
            lines.append("zgap: /\\n{0,2}/" if self._one_mark else 'zgap: ""')
        return Constraint(kind="grammar", value="%llguidance {}\n" + "\n".join(lines) + "\n" + as_rule(constraint))

    def _thought(self, opening: Opening) -> str:
        if opening.thought == "none":
            return ""
        close = literal(self.thought_close, self.marks)
        if opening.thought == "begun":
            return f"zthought {close} zgap"
        return f"({literal(self.thought_open, self.marks)} zthought {close} zgap)?"

    def read(
        self, sampled: Sequence[int], tools: Sequence[ToolSpec], constraint: Constraint | None, opening: Opening
    ) -> tuple[Message, int]:
        """A sampled turn as a message, and how many of its tokens were a thought."""
        ids = list(sampled)
        ended = bool(ids) and ids[-1] in self.stop_ids
        if ended:
            ids.pop()
        thought, ids = self._split(ids, begun=opening.thought == "begun")
        spoken = self._text(ids, constraint, tools, ended=ended, begun=not thought)
        if thought:
            both = f"{encodable(self._decode(thought))}\n\n{spoken.thought}".strip()
            spoken = spoken.model_copy(update={"thought": both})
        return spoken, len(sampled) - len(ids) if thought else 0

    def _split(self, ids: list[int], *, begun: bool) -> tuple[list[int], list[int]]:
        """The tokens of the thought and those of what was said after it."""
        if not self.thought_close:
            return [], ids
        start = self._after(ids, self.thought_open)
        if start is None and not begun:
            return [], ids
        start = start or 0
        shut = next(pieces(self.thought_close, self.marks))
        if shut not in ids[start:]:
            return ids[start:], []  # cut off in the middle of it
        end = ids.index(int(shut), start)
        rest = ids[end:]
        return ids[start:end], rest[self._after(rest, self.thought_close) or 1 :]

    def _after(self, ids: Sequence[int], text: str) -> int | None:
        """How many of ``ids`` write ``text``; None if they begin otherwise. A text has many ways to be written.

        A token that goes on beyond ``text`` is left to what follows.
        """
        for count in range(1, min(len(ids), len(text)) + 1):
            written = self.tokenizer.decode(ids[:count], skip_special_tokens=False)
            if written == text:
                return count
            if written.startswith(text):
                return count - 1
            if not text.startswith(written):
                return None
        return None

    def _text(
        self, ids: list[int], constraint: Constraint | None, tools: Sequence[ToolSpec], *, ended: bool, begun: bool
    ) -> Message:
        head = self._after(ids, self.template.rules.text_opening)
        if head is not None:
            ids, tools = ids[head:], ()
        plain = self._decode(ids)
        if constraint is not None and constraint.kind != "turn":
            return Message(role="assistant", content=plain)
        if self.reader is not None and tools:
            thought, text = split_thought(self.tokenizer.decode(ids, skip_special_tokens=False), begun=begun)
            form = self.template.rules.form
            # Parsers complete a call that was cut off; half a call is not what the model meant.
            whole = ended or (form is not None and form.is_whole(text))
            found = self.reader.read(text, tools) if whole else None
            if found is not None:
                return found.model_copy(update={"thought": encodable(thought)})
        return parse_reply(plain, tools, begun=begun)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def special_tokens(tokenizer: Any) -> Marks:
    """The tokens that llguidance treats as special, which no string in a grammar matches."""
    special = set(tokenizer.all_special_tokens)
    tokens = tokenizer.added_tokens_decoder
    return Marks(
        {
            text: index
            for text, index in tokenizer.get_added_vocab().items()
            if text in special or tokens[index].special or re.fullmatch(r"<.*>", text)
        }
    )


def as_rule(constraint: Constraint) -> str:
    """A constraint as Lark rules, the first of which is called ``zturn``."""
    if constraint.kind == "json_schema":
        return f"zturn: %json {constraint.value}\n"
    if constraint.kind == "regex":
        from llguidance import regex_to_lark

        return f"zturn: ZTEXT\nZTEXT: /{regex_to_lark(constraint.value)}/\n"
    body = re.sub(r"^%llguidance \{\}\n", "", constraint.value.lstrip())
    return re.sub(r"^start:", "zturn:", body, count=1, flags=re.M)
