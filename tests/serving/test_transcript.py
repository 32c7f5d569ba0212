"""Conversations as token ids: a growing one keeps its ids, even if the tokenizer would split the text differently."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt_local.chat import ChatRequest, Message, ToolCall, ToolSpec
from agentopt_local.errors import ConfigError, ModelError, RefusedPromptError
from serving.family import Opening
from serving.transcript import Transcripts
from tests.tools import tiny_models

MESSAGES = r"""
{%- for message in messages %}
{%- if message.role == "tool" %}
{{- "<|im_start|>user\n<tool_response>\n" + message.content + "\n</tool_response><|im_end|>\n" }}
{%- elif not (tools and loop.first and message.role == "system") %}
{{- "<|im_start|>" + message.role + "\n" + message.content }}
{%- for call in message.tool_calls or [] %}
{{- "\n<tool_call>\n{\"name\": \"" + call.function.name + "\", \"arguments\": " }}
{{- (call.function.arguments | tojson) + "}\n</tool_call>" }}
{%- endfor %}
{{- "<|im_end|>\n" }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\n" }}{%- endif %}
"""
TOOLS = r"""
{%- if tools %}
{{- "<|im_start|>system\n" }}
{%- if messages[0].role == "system" %}{{- messages[0].content + "\n\n" }}{%- endif %}
{{- "# Tools" }}{%- for tool in tools %}{{- "\n" + (tool | tojson) }}{%- endfor %}{{- "<|im_end|>\n" }}
{%- endif %}
"""
PLAIN = r"""
{%- for message in messages %}
{{- "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\n" }}{%- endif %}
"""
STRICT = r"""
{%- if messages[0].role == "system" and not allow_system %}{{ raise_exception("System role not supported") }}{% endif %}
{%- for message in messages %}
{%- if not loop.first and message.role == messages[loop.index0 - 1].role %}
{{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
{%- endif %}
{%- endfor %}
"""
ADD = ToolSpec(name="add", description="Add.", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
SYSTEM = Message(role="system", content="You add numbers.")
ASK = Message(role="user", content="What is 1 + 1?")
CALL = Message(role="assistant", content="Let me see.", tool_calls=(ToolCall(name="add", arguments={"a": 1}),))
RESULT = Message(role="tool", content="2")
SAY = Message(role="assistant", content="hello hello")
NEXT = Message(role="user", content="hello again")


def make_tokenizer(template: str) -> Any:
    """A tokenizer that merges whole words of a few lines."""
    return tiny_models.make_tokenizer(
        template, text="hello hello hello again system user assistant", bos=None, eos="<|im_end|>"
    )


@pytest.fixture(scope="module")
def native() -> Any:
    return make_tokenizer(TOOLS + MESSAGES)


@pytest.fixture(scope="module")
def plain() -> Any:
    return make_tokenizer(PLAIN)


def spelled(tokenizer: Any, text: str) -> list[int]:
    """``text`` in single bytes: ids that a model may sample and the tokenizer would never choose."""
    return [tokenizer.encode(char, add_special_tokens=False)[0] for char in text]


Messages = tuple[Message, ...]


def asking(conversation: str | None, messages: Messages, tools: tuple[ToolSpec, ...] = ()) -> ChatRequest:
    return ChatRequest(messages=messages, tools=tools, conversation=conversation)


def prompt_ids(
    transcripts: Transcripts, conversation: str | None, messages: Messages, tools: tuple[ToolSpec, ...] = ()
) -> list[int]:
    return transcripts.prompt(asking(conversation, messages, tools), 8192).ids


def render(transcripts: Transcripts, messages: Messages, tools: tuple[ToolSpec, ...] = (), *, open_turn: bool) -> str:
    return transcripts.render(messages, tools, {}, open_turn=open_turn)


def turn(
    transcripts: Transcripts,
    messages: Messages,
    reply: Message,
    sampled: list[int],
    *,
    tools: tuple[ToolSpec, ...] = (),
    conversation: str | None = "s",
) -> list[int]:
    """One completion: its whole ids, remembered as the engine does."""
    request = asking(conversation, messages, tools)
    prompt = transcripts.prompt(request, 8192)
    transcripts.remember(request, prompt, reply, sampled)
    return prompt.ids + sampled


def test_the_first_prompt_is_the_templates(native: Any) -> None:
    transcripts = Transcripts(native)
    ids = prompt_ids(transcripts, "s", (SYSTEM, ASK), ())
    assert native.decode(ids) == (
        "<|im_start|>system\nYou add numbers.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompt_ids(transcripts, None, (SYSTEM, ASK), ()) == ids


@pytest.mark.parametrize("template", ["native", "plain"])
def test_a_grown_conversation_is_its_ids_and_a_new_segment(template: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(template)
    transcripts = Transcripts(tokenizer)
    sampled = [*spelled(tokenizer, "hello hello"), tokenizer.eos_token_id]
    known = turn(transcripts, (SYSTEM, ASK), SAY, sampled)
    ids = prompt_ids(transcripts, "s", (SYSTEM, ASK, SAY, NEXT), ())
    assert ids[: len(known)] == known
    segment = "\n<|im_start|>user\nhello again<|im_end|>\n<|im_start|>assistant\n"
    assert ids[len(known) :] == tokenizer.encode(segment, add_special_tokens=False)
    anew = prompt_ids(Transcripts(tokenizer), "s", (SYSTEM, ASK, SAY, NEXT), ())
    assert tokenizer.decode(ids) == tokenizer.decode(anew)
    assert ids != anew, "the tokenizer would have split the sampled text at other places"


def test_it_grows_over_many_turns(native: Any) -> None:
    transcripts = Transcripts(native)
    messages: tuple[Message, ...] = (SYSTEM, ASK)
    known: list[int] = []
    for _ in range(4):
        before = known
        known = turn(transcripts, messages, SAY, [*spelled(native, "hello hello"), native.eos_token_id])
        assert known[: len(before)] == before
        messages = (*messages, SAY, NEXT)
    anew = prompt_ids(Transcripts(native), None, messages, ())
    assert native.decode(prompt_ids(transcripts, "s", messages, ())) == native.decode(anew)


def test_a_turn_that_was_cut_is_closed_first(native: Any) -> None:
    transcripts = Transcripts(native)
    known = turn(transcripts, (ASK,), SAY, spelled(native, "hello hello"))
    ids = prompt_ids(transcripts, "s", (ASK, SAY, NEXT), ())
    assert ids[: len(known)] == known
    assert native.decode(ids[len(known) :]).startswith("<|im_end|>\n<|im_start|>user\n")


def test_a_call_and_its_result_continue_the_ids(native: Any) -> None:
    transcripts = Transcripts(native)
    text = 'Let me see.\n<tool_call>\n{"name": "add",   "arguments": {"a":1}}\n</tool_call>'
    known = turn(transcripts, (SYSTEM, ASK), CALL, [*spelled(native, text), native.eos_token_id], tools=(ADD,))
    grown = prompt_ids(transcripts, "s", (SYSTEM, ASK, CALL, RESULT), (ADD,))
    assert grown[: len(known)] == known, "the call stays as the model wrote it"
    assert native.decode(grown[len(known) :]) == (
        "\n<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_changed_history_is_rendered_anew(native: Any) -> None:
    transcripts = Transcripts(native)
    turn(transcripts, (SYSTEM, ASK), SAY, [*spelled(native, "hello hello"), native.eos_token_id])
    other = Message(role="user", content="Something else")
    for messages in (
        (SYSTEM, other, SAY, NEXT),
        (ASK, SAY, NEXT),
        (SYSTEM, ASK, SAY.model_copy(update={"content": "hello"}), NEXT),
        (SYSTEM, ASK, NEXT),
        (SYSTEM, ASK),
    ):
        fresh = prompt_ids(Transcripts(native), "s", messages, ())
        assert prompt_ids(transcripts, "s", messages, ()) == fresh


def test_other_tools_or_another_session_are_rendered_anew(native: Any) -> None:
    transcripts = Transcripts(native)
    turn(transcripts, (SYSTEM, ASK), SAY, [*spelled(native, "hello hello"), native.eos_token_id])
    messages = (SYSTEM, ASK, SAY, NEXT)
    for session, tools in (("s", (ADD,)), ("t", ()), (None, ())):
        fresh = prompt_ids(Transcripts(native), None, messages, tools)
        assert prompt_ids(transcripts, session, messages, tools) == fresh


def test_sessions_are_forgotten_oldest_first(native: Any) -> None:
    transcripts = Transcripts(native, max_conversations=2)
    for name in ("a", "b", "a", "c"):
        turn(transcripts, (ASK,), SAY, [1], conversation=name)
    assert set(transcripts.conversations) == {"a", "c"}
    turn(transcripts, (ASK,), SAY, [1], conversation=None)
    assert set(transcripts.conversations) == {"a", "c"}


def test_a_template_with_tools_gets_them(native: Any) -> None:
    transcripts = Transcripts(native)
    assert transcripts.family.template.rules.tools
    text = render(transcripts, (SYSTEM, ASK), (ADD,), open_turn=True)
    assert text.startswith("<|im_start|>system\nYou add numbers.\n\n# Tools\n")
    assert '"name": "add"' in text
    assert text.count("You add numbers.") == 1
    assert "# Tools" not in render(transcripts, (SYSTEM, ASK), (), open_turn=True)


def test_a_template_without_tools_gets_instructions_and_plain_rows(plain: Any) -> None:
    transcripts = Transcripts(plain)
    assert not transcripts.family.template.rules.tools
    text = render(transcripts, (SYSTEM, ASK, CALL, RESULT), (ADD,), open_turn=True)
    head, _, rest = text.partition("<|im_end|>\n")
    assert head.startswith("<|im_start|>system\nYou add numbers.\n\nYou can call these functions")
    assert '{"name": "add", "description": "Add."' in head
    assert rest == (
        "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n"
        '<|im_start|>assistant\nLet me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    without_system = render(transcripts, (ASK,), (ADD,), open_turn=False)
    assert without_system.startswith("<|im_start|>system\nYou can call these functions")


def test_what_is_rendered_is_read_back_as_a_call(plain: Any) -> None:
    transcripts = Transcripts(plain)
    text = render(transcripts, (ASK, CALL), (ADD,), open_turn=False)
    written = text.rpartition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")
    message, _ = transcripts.family.read(transcripts.encode(written), (ADD,), None, Opening())
    assert message == CALL


@pytest.mark.parametrize("text", ["", " ", "lone \ud800 surrogate", "a\x00b\u2028\ufeff", "👩\u200d👩\u200d👧" * 9])
def test_odd_text_is_tokenised_in_first_and_later_turns(text: str) -> None:
    transcripts = Transcripts(make_tokenizer(MESSAGES))
    messages: tuple[Message, ...] = (SYSTEM, Message(role="user", content=text))
    ids = prompt_ids(transcripts, "s", messages, ())
    shown = transcripts.tokenizer.decode(ids, skip_special_tokens=False)
    assert text.encode("utf-8", "replace").decode() in shown
    sampled = transcripts.encode("hello<|im_end|>")
    turn(transcripts, messages, Message(role="assistant", content="hello"), sampled)
    later = (*messages, Message(role="assistant", content="hello"), Message(role="user", content=text))
    assert prompt_ids(transcripts, "s", later, ())[: len(ids + sampled)] == ids + sampled


def test_a_template_with_strict_roles_gets_conversations_that_it_accepts() -> None:
    transcripts = Transcripts(make_tokenizer(STRICT + PLAIN))
    text = render(transcripts, (SYSTEM, ASK, NEXT, SAY, NEXT, ASK), open_turn=True)
    assert text == (
        "<|im_start|>user\nYou add numbers.\n\nWhat is 1 + 1?\n\nhello again<|im_end|>\n"
        "<|im_start|>assistant\nhello hello<|im_end|>\n"
        "<|im_start|>user\nhello again\n\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt_ids(transcripts, "s", (SYSTEM, ASK, CALL, RESULT, NEXT), (ADD,))


FORBIDS = r"""
{%- for message in messages if "forbidden" in message.content %}{{ raise_exception("a bad word") }}{% endfor %}
"""
BAD = Message(role="user", content="forbidden")


def test_a_conversation_that_the_template_refuses_is_a_refused_prompt() -> None:
    tokenizer = make_tokenizer(FORBIDS + PLAIN)
    tokenizer.name_or_path = "models/strict"
    transcripts = Transcripts(tokenizer)
    with pytest.raises(RefusedPromptError, match=r"models/strict refuses the conversation: a bad word"):
        prompt_ids(transcripts, "s", (SYSTEM, ASK, SAY, BAD))
    turn(transcripts, (SYSTEM, ASK), SAY, transcripts.encode("hello"))
    with pytest.raises(RefusedPromptError, match="a bad word"):
        prompt_ids(transcripts, "s", (SYSTEM, ASK, SAY, BAD))


def test_a_template_that_refuses_the_opening_refuses_every_conversation() -> None:
    with pytest.raises(ModelError, match=r"a bad word; set model\.chat_template") as raised:
        prompt_ids(Transcripts(make_tokenizer(FORBIDS + PLAIN)), "s", (SYSTEM, BAD))
    assert not isinstance(raised.value, RefusedPromptError), "a run that went on would grade every problem 0"


@pytest.mark.parametrize("template", ["{{ raise_exception('never') }}", "hello", "{{ messages[0].content.text + 1 }}"])
def test_a_template_that_renders_no_question_is_an_error_before_the_engine_starts(template: str) -> None:
    with pytest.raises(ConfigError, match=r"the chat template of tiny does not render .*model\.chat_template"):
        Transcripts(make_tokenizer(template), name="tiny")
