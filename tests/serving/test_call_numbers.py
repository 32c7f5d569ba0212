"""Calls that a chat template numbers or identifies: the number goes on, and results refer to the calls they answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest, Constraint, Message, Sampling, Thinking, ToolCall, ToolSpec
from serving.call_form import CallForm
from serving.call_readers import FormReader
from serving.transcript import Transcripts
from tests.tools.tiny_models import MISTRAL, make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch and vLLM, when they are imported
pytest.importorskip("vllm")
FRAME = r"""
{%- set at = namespace(call=0, result=0) %}
{%- if tools %}{{- "<|tools|>" + (tools | tojson) + "<|end|>" }}{% endif %}
{%- for message in messages %}
{{- "<|" + message.role + "|>" }}
{%- if message.role == "tool" %}RESULT{% else %}{{- message.content }}{% endif %}
{%- if message.tool_calls %}CALLS{% endif %}
{{- "<|end|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|assistant|>" }}{% endif %}
"""
MARKS = "{# <|system|> <|user|> <|assistant|> <|tool|> #}"
LISTED = r"""
{{- "<|calls|>[\n" }}
{%- for call in message.tool_calls %}
{{- '    {"id": "' ~ at.call ~ '", "tool": "' + call.function.name + '", ' }}
{{- '"with": ' + (call.function.arguments | tojson) }}
{{- "}" if loop.last else "},\n" }}{% set at.call = at.call + 1 %}
{%- endfor %}{{- "\n]<|/calls|>" }}"""
NAMED = r"""
{{- "<|tool_calls_section_begin|>" }}
{%- for call in message.tool_calls %}
{{- "<|tool_call_begin|>" ~ ID ~ "<|tool_call_argument_begin|>" ~ (call.function.arguments | tojson) }}
{{- "<|tool_call_end|>" }}{% set at.call = at.call + 1 %}
{%- endfor %}{{- "<|tool_calls_section_end|>" }}"""
IN_TURN = NAMED.replace("ID", "'functions.' + call.function.name ~ ':' ~ loop.index0")
BY_ID = NAMED.replace("ID", "call.id")
OVER_ALL = NAMED.replace("ID", "'functions.' + call.function.name ~ ':' ~ at.call")


def framed(calls: str, result: str) -> str:
    return MARKS + FRAME.replace("CALLS", calls).replace("RESULT", result).replace("\n", "")


SHOWS_ID = '{{- "## " + message.tool_call_id + " " + message.content }}'
COUNTS = '{{- "## " ~ at.result ~ " " + message.content }}{% set at.result = at.result + 1 %}'
TEMPLATES = {
    "in a list": (framed(LISTED, COUNTS), '"id": "{0}", "tool"', "## {0} "),
    "in the turn": (framed(IN_TURN, SHOWS_ID), "functions.gcd:0<", "## functions.gcd:0 "),
    "the id is the name": (framed(BY_ID, SHOWS_ID), "functions.gcd:{0}<", "## functions.gcd:{0} "),
    "over all": (framed(OVER_ALL, SHOWS_ID), "functions.gcd:{0}<", "## functions.gcd:{0} "),
    "an id of ours": (MISTRAL, "[CALL_ID]call0000{0}[ARGS]", "[TOOL_RESULTS]call0000{0}["),
}
ASK = Message(role="user", content="What is it?")
GCD = ToolCall(name="gcd", arguments={"n": 12})
TOOLS = tuple(
    ToolSpec(
        name=name,
        description="Does it.",
        parameters={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    )
    for name in ("gcd", "lcm")
)
CALL, RESULT = Message(role="assistant", tool_calls=(GCD,)), Message(role="tool", content="six")
TWO = Message(role="assistant", tool_calls=(GCD, ToolCall(name="lcm", arguments={"n": 7})))
ANSWER = Constraint(kind="turn", value="<answer>[a-z]{1,9}</answer>", max_thought_sentences=0)


def asking(*messages: Message) -> ChatRequest:
    return ChatRequest(messages=messages, tools=TOOLS, constraint=ANSWER, conversation="c")


def turn_of(transcripts: Transcripts, messages: tuple[Message, ...], turn: Message) -> str:
    """A turn as the template writes it, up to its end."""
    before = transcripts.render(messages, TOOLS, {}, open_turn=True)
    whole = transcripts.render((*messages, turn), TOOLS, {}, open_turn=False)
    assert whole.startswith(before)
    return transcripts._ending.sub("", whole[len(before) :])


def accepts(transcripts: Transcripts, constraint: Constraint, text: str) -> bool:
    import llguidance
    import llguidance.hf

    guide = llguidance.hf.from_tokenizer(transcripts.tokenizer)
    matcher = llguidance.LLMatcher(guide, llguidance.grammar_from(constraint.kind, constraint.value), log_level=0)
    ids = [*transcripts.encode(text), transcripts.stop_ids[-1]]
    return bool(matcher.validate_tokens(ids) == len(ids))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_next_call_has_the_next_number_and_its_result_the_same(kind: str) -> None:
    template, written, answered = TEMPLATES[kind]
    transcripts = Transcripts(make_tokenizer(template), name=kind)
    assert transcripts.family.reader is not None, transcripts.family.template.rules
    messages: tuple[Message, ...] = (ASK,)
    known: list[int] = []
    for number in range(3):
        request = asking(*messages)
        prompt = transcripts.prompt(request, 10_000)
        assert prompt.ids[: len(known)] == known
        turn = turn_of(transcripts, messages, CALL)
        assert written.format(number) in turn
        constraint = transcripts.constraint(request, prompt.opening)
        assert constraint is not None
        assert accepts(transcripts, constraint, turn), (turn, constraint.value)
        other = turn.replace(written.format(number), written.format(number + 4).replace("gcd:0", "gcd:4"))
        assert not accepts(transcripts, constraint, other)
        sampled = [*transcripts.encode(turn), transcripts.stop_ids[-1]]
        message, _ = transcripts.read(request, prompt, sampled)
        assert message == CALL
        transcripts.remember(request, prompt, message, sampled)
        known = prompt.ids + sampled[:-1]
        messages = (*messages, message, RESULT)
    ids = transcripts.prompt(asking(*messages), 10_000).ids
    assert ids[: len(known)] == known
    text = transcripts.tokenizer.decode(ids)
    assert text == transcripts.render(messages, TOOLS, {}, open_turn=True)
    assert [text.count(answered.format(number)) for number in range(3)] == ([1, 1, 1] if "{" in answered else [3, 3, 3])


@pytest.mark.parametrize("kind", TEMPLATES)
def test_all_calls_of_a_turn_are_read(kind: str) -> None:
    transcripts = Transcripts(make_tokenizer(TEMPLATES[kind][0]), name=kind)
    turn = turn_of(transcripts, (ASK, CALL, RESULT), TWO)
    request = asking(ASK, CALL, RESULT)
    sampled = [*transcripts.encode(turn), transcripts.stop_ids[-1]]
    message, _ = transcripts.read(request, transcripts.prompt(request, 10_000), sampled)
    assert message == TWO


def test_a_list_of_calls_is_read_whatever_its_white_space_and_numbers() -> None:
    transcripts = Transcripts(make_tokenizer(TEMPLATES["in a list"][0]))
    reader = transcripts.family.reader
    assert isinstance(reader, FormReader)
    text = '[{"id": "7", "tool": "gcd", "with": {"n": 12}}, {"id": "x", "tool": "lcm",\n"with": {"n": 7}}]'
    assert reader.read(f"<|calls|>{text}<|/calls|>", TOOLS) == TWO


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_id_that_the_model_makes_up_is_not_kept(kind: str) -> None:
    """Without a constraint it may; the template's results would refer to a call that the prompt does not have."""
    template, written, _ = TEMPLATES[kind]
    transcripts = Transcripts(make_tokenizer(template), name=kind)
    request = asking(ASK).model_copy(update={"constraint": None})
    prompt = transcripts.prompt(request, 10_000)
    turn = turn_of(transcripts, (ASK,), CALL)
    number = written.format(0)
    other = turn.replace(number, number.replace("0", "5"))
    assert other != turn
    for sampled, kept in ((turn, True), (other, False)):
        ids = [*transcripts.encode(sampled), transcripts.stop_ids[-1]]
        message, _ = transcripts.read(request, prompt, ids)
        assert message == CALL
        transcripts.remember(request, prompt, message, ids)
        grown = transcripts.prompt(asking(ASK, CALL, RESULT), 10_000).ids
        assert (grown[: len(prompt.ids) + len(ids) - 1] == prompt.ids + ids[:-1]) is kept
        assert transcripts.tokenizer.decode(grown) == transcripts.render((ASK, CALL, RESULT), TOOLS, {}, open_turn=True)


def test_a_call_without_marks_is_sought_in_linear_time() -> None:
    reader = FormReader(CallForm(opening="", named="\n", closing="", style="json"))
    assert reader.read('gcd\n{"n": 12}', TOOLS) == CALL
    assert reader.read('the set {"n": 12}', TOOLS) is None
    seconds = []
    for size in (16_000, 128_000):
        started = time.process_time()
        reader.read("a" * size, TOOLS)
        assert CallForm(opening="\ue000 ", named="", closing="", style="json").ids_in("a" * size) == []
        seconds.append(time.process_time() - started)
    assert seconds[1] < 30 * max(seconds[0], 0.02)


MOVES = r"""
{%- set rest = messages[1:] if messages[0].role == "system" else messages %}
{%- for message in rest %}
{{- "<|" + message.role + "|>" }}
{%- if loop.last and messages[0].role == "system" %}{{- messages[0].content + "\n\n" }}{% endif %}
{{- message.content + "<|end|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|assistant|>" }}{% endif %}
"""
READS_TOOLS = r"""
{%- for tool in tools %}{{- tool | tojson }}{% endfor %}
{%- for message in messages %}
{{- "<|" + message.role + "|>" + message.content }}
{%- if message.tool_calls is defined %}
{%- for call in message.tool_calls %}{{ call.missing.name }}{% endfor %}{% endif %}
{{- "<|end|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|assistant|>" }}{% endif %}
"""
UNKNOWN_THOUGHTS = r"""
{%- for message in messages %}{{- "<|" + message.role + "|>" + message.content + "<|end|>" }}{% endfor %}
{%- if add_generation_prompt %}{{- "<|assistant|>" + ("<|muse|>" if thinking else "") }}{% endif %}
"""
SYSTEM = Message(role="system", content="zsystem")
SAY = Message(role="assistant", content="zsay")
MORE = Message(role="user", content="zmore")


def test_a_system_message_that_moves_opens_the_first_question_and_the_ids_grow() -> None:
    transcripts = Transcripts(make_tokenizer(MARKS + MOVES))
    first = ChatRequest(messages=(SYSTEM, ASK), conversation="c")
    prompt = transcripts.prompt(first, 10_000)
    sampled = transcripts.encode("zsay<|end|>")
    transcripts.remember(first, prompt, SAY, sampled)
    later = transcripts.prompt(first.model_copy(update={"messages": (SYSTEM, ASK, SAY, MORE)}), 10_000)
    assert later.ids[: len(prompt.ids) + len(sampled)] == prompt.ids + sampled
    text = transcripts.tokenizer.decode(later.ids)
    assert text.index("zsystem") < text.index("What") < text.index("zmore")


def test_a_template_may_loop_over_tools_and_calls_that_there_are_not() -> None:
    transcripts = Transcripts(make_tokenizer(MARKS + READS_TOOLS))
    assert transcripts.family.template.rules.no_tools == "empty"
    text = transcripts.render((ASK, CALL, RESULT), TOOLS, {}, open_turn=True)
    assert '"name": "gcd", "arguments": {"n": 12}' in text


def test_a_thought_whose_marks_are_unknown_is_never_switched_on() -> None:
    transcripts = Transcripts(make_tokenizer(MARKS + UNKNOWN_THOUGHTS))
    assert transcripts.family.thinks == "never"
    request: Any = ChatRequest(messages=(ASK,), thinking=Thinking(effort="high"), sampling=Sampling(max_tokens=9))
    assert "muse" not in transcripts.tokenizer.decode(transcripts.prompt(request, 10_000).ids)
