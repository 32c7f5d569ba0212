"""Readers of calls in a family's own form: vLLM's tool parsers, chosen by whether they read the template's own call."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from agentopt_local.call_arguments import typed
from agentopt_local.chat import Message, ToolCall, ToolSpec
from agentopt_local.json_escapes import repaired
from agentopt_local.json_text import NotJsonError, read_json
from agentopt_local.tool_calls import MAX_CALLS, encodable
from serving.call_form import ARGUMENTS, COUNT, KEYS, PROBE, PROBE_CALL, CallForm, loose

PARSERS = (
    "qwen3_coder", "glm45", "gemma4", "mistral", "deepseek_v31", "deepseek_v3", "deepseek_v32", "seed_oss", "lfm2",
    "minimax_m2", "kimi_k2", "phi4_mini_json", "llama4_pythonic", "pythonic", "granite", "hunyuan_a13b", "apertus",
    "gigachat3", "minicpm5", "cohere_command3", "jamba", "internlm", "xlam", "olmo3", "step3", "ernie45",
)  # fmt: skip
"""vLLM's names of its parsers, tried in this order."""
HARMONY = " to=functions."
MOST_CALLS = MAX_CALLS + 1
"""Calls that are read of one turn: one more than is made, so that the agent can say that there were too many."""
_JSON_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*+\"", re.DOTALL)
_PYTHON_STRING = re.compile(rf"{_JSON_STRING.pattern}|'(?:[^'\\]|\\.)*+'", re.DOTALL)
FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, RecursionError, SyntaxError)
"""What parsers raise on text that they do not expect."""


class CallReader(Protocol):
    """Finds the calls in a turn."""

    def read(self, text: str, tools: Sequence[ToolSpec]) -> Message | None:
        """The turn with its calls; None if it makes none. ``text``: with special tokens, without the last."""
        ...


def reader_of(form: CallForm, tokenizer: Any) -> CallReader | None:
    """The reader of calls in ``form``: a parser of vLLM, or one made from the form itself if none of them reads it.

    None if that does not read it either.
    """
    example = written(form.of(0))
    for name in PARSERS:
        try:
            reader: CallReader = VllmReader(name, form, tokenizer)
            found = reader.read(example, [PROBE])
        except (ImportError, NotImplementedError, *FAULTS):
            continue  # it lacks its special tokens, for example
        if found is not None and found.tool_calls == (PROBE_CALL,):
            return reader
    reader = HarmonyReader() if form.opening == HARMONY else FormReader(form)
    found = reader.read(example, [PROBE])
    return reader if found is not None and found.tool_calls == (PROBE_CALL,) else None


def _repaired_string(string: re.Match[str]) -> str:
    quote = string[0][0]
    inside = string[0][1:-1]
    if quote == "'":
        inside = inside.replace("\\'", "\ue000")
    return quote + repaired(inside).replace("\ue000", "\\'") + quote


def written(form: CallForm) -> str:
    """The call :data:`~serving.call_form.PROBE_CALL` in ``form``."""
    if form.style == "json":
        arguments = json.dumps(ARGUMENTS)
    else:
        (number, text), values = KEYS, ARGUMENTS
        arguments = form.separator.join(
            (
                f"{form.before}{number}{form.between}{values[number]}{form.after}",
                f"{form.before}{text}{form.between_text}{form.quote}{values[text]}{form.quote}{form.after}",
            )
        )
    return f"{form.opening}{PROBE.name}{form.named}{arguments}{form.closing}"


class VllmReader:
    """One of vLLM's tool parsers."""

    def __init__(self, name: str, form: CallForm, tokenizer: Any) -> None:
        """``form``: of the calls it reads. Raises what the parser raises if the tokenizer is not of its family."""
        from vllm.tool_parsers import ToolParserManager

        self.name = name
        self.opening = form.opening.partition(COUNT)[0]
        self.strings = _JSON_STRING if form.style == "json" else _PYTHON_STRING if form.pythonic else None
        self.tokenizer = tokenizer
        self.parser = ToolParserManager.get_tool_parser(name)
        self.parser(tokenizer, None)

    def read(self, text: str, tools: Sequence[ToolSpec]) -> Message | None:
        """See :class:`CallReader`."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest(
            model=self.name,
            messages=[{"role": "user", "content": ""}],
            tools=[{"type": "function", "function": tool.model_dump()} for tool in tools],
        )
        try:
            # A new one each time: parsers keep what they read.
            parser = self.parser(self.tokenizer, request.tools)
            found = parser.extract_tool_calls(self._repaired(self._few(text)), request)
            schemas: dict[str, Any] = {tool.name: tool.parameters for tool in tools}
            # The parser wrote the JSON, so its escapes are escapes.
            made = [(call.function.name, call.function.arguments or "{}") for call in found.tool_calls]
            calls = tuple(
                ToolCall(name=name, arguments=typed(read_json(given, exact=True)[0], schemas.get(name)))
                for name, given in made
            )
        except FAULTS:
            return None
        if not calls:
            return None
        content = (found.content or "").strip()
        return Message(role="assistant", content=encodable(content), tool_calls=calls)

    def _repaired(self, text: str) -> str:
        """``text`` with the backslashes doubled that begin no escape in the strings of its calls."""
        start = text.find(self.opening)
        if self.strings is None or start < 0 or "\\" not in text:
            return text
        return text[:start] + self.strings.sub(_repaired_string, text[start:])

    def _few(self, text: str) -> str:
        """``text`` up to its first calls: some parsers take quadratic time in openings without an end."""
        at = -1
        for _ in range(MOST_CALLS + 1):
            at = text.find(self.opening, at + 1)
            if at < 0:
                return text
        return text[:at]


class FormReader:
    """Reads calls whose arguments are JSON by the text around them."""

    def __init__(self, form: CallForm) -> None:
        """``form``: of style ``json``."""
        name = r"([\w.-]+)" + loose(form.named) + r"(?=\{)"
        self.pattern = re.compile((loose(form.opening.lstrip()) or r"(?<![\w.-])") + name)
        self.again = re.compile(loose(form.again) + name) if form.again else None

    def read(self, text: str, tools: Sequence[ToolSpec]) -> Message | None:
        """See :class:`CallReader`."""
        calls: list[ToolCall] = []
        first, at = len(text), 0
        while len(calls) < MOST_CALLS:
            match = self.again.match(text, at) if self.again and calls else None
            match = match or self.pattern.search(text, at)
            if match is None:
                break
            at = match.end()
            try:
                arguments, at = read_json(text, at)
            except NotJsonError:
                continue
            calls.append(ToolCall(name=match[1], arguments=arguments))
            first = min(first, match.start())
        if not calls:
            return None
        return Message(role="assistant", content=encodable(text[:first]).strip(), tool_calls=tuple(calls))


class HarmonyReader(FormReader):
    """Reads the calls of gpt-oss, which names the function before or after the channel."""

    def __init__(self) -> None:
        self.again = None
        self.pattern = re.compile(
            r"(?:<\|channel\|>\w+)? to=functions\.([\w.-]+)(?:[^<{]|<\|(?:channel|constrain)\|>)*<\|message\|>\s*(?=\{)"
        )
