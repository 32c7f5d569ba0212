"""Conversations as token ids: a growing one keeps its ids, even if the tokenizer would split the text differently."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt_local.chat import Message, ToolCall, ToolSpec
from agentopt_local.errors import ModelError, RefusedPromptError
from serving.transcript import Transcripts

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
    """A byte-level tokenizer that merges whole words of a few lines."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello hello hello again system user assistant"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=template)


@pytest.fixture(scope="module")
def native() -> Any:
    return make_tokenizer(TOOLS + MESSAGES)


@pytest.fixture(scope="module")
def plain() -> Any:
    return make_tokenizer(PLAIN)


def spelled(tokenizer: Any, text: str) -> list[int]:
    """``text`` in single bytes: ids that a model may sample and the tokenizer would never choose."""
    return [tokenizer.encode(char, add_special_tokens=False)[0] for char in text]


def turn(transcripts: Transcripts, messages: tuple[Message, ...], reply: Message, sampled: list[int]) -> list[int]:
    """One completion: its whole ids, remembered as the engine does."""
    ids = transcripts.prompt_ids("s", messages, ()) + sampled
    transcripts.remember("s", (*messages, reply), (), ids)
    return ids


def test_the_first_prompt_is_the_templates(native: Any) -> None:
    transcripts = Transcripts(native)
    ids = transcripts.prompt_ids("s", (SYSTEM, ASK), ())
    assert native.decode(ids) == (
        "<|im_start|>system\nYou add numbers.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert transcripts.prompt_ids(None, (SYSTEM, ASK), ()) == ids


@pytest.mark.parametrize("template", ["native", "plain"])
def test_a_grown_conversation_is_its_ids_and_a_new_segment(template: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(template)
    transcripts = Transcripts(tokenizer)
    sampled = [*spelled(tokenizer, "hello hello"), tokenizer.eos_token_id]
    known = turn(transcripts, (SYSTEM, ASK), SAY, sampled)
    ids = transcripts.prompt_ids("s", (SYSTEM, ASK, SAY, NEXT), ())
    assert ids[: len(known)] == known
    segment = "\n<|im_start|>user\nhello again<|im_end|>\n<|im_start|>assistant\n"
    assert ids[len(known) :] == tokenizer.encode(segment, add_special_tokens=False)
    anew = Transcripts(tokenizer).prompt_ids("s", (SYSTEM, ASK, SAY, NEXT), ())
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
    anew = Transcripts(native).prompt_ids(None, messages, ())
    assert native.decode(transcripts.prompt_ids("s", messages, ())) == native.decode(anew)


def test_a_turn_that_was_cut_is_closed_first(native: Any) -> None:
    transcripts = Transcripts(native)
    known = turn(transcripts, (ASK,), SAY, spelled(native, "hello hello"))
    ids = transcripts.prompt_ids("s", (ASK, SAY, NEXT), ())
    assert ids[: len(known)] == known
    assert native.decode(ids[len(known) :]).startswith("<|im_end|>\n<|im_start|>user\n")


def test_a_call_and_its_result_continue_the_ids(native: Any) -> None:
    transcripts = Transcripts(native)
    text = 'Let me see.\n<tool_call>\n{"name": "add",   "arguments": {"a":1}}\n</tool_call>'
    ids = transcripts.prompt_ids("s", (SYSTEM, ASK), (ADD,))
    known = [*ids, *spelled(native, text), native.eos_token_id]
    transcripts.remember("s", (SYSTEM, ASK, CALL), (ADD,), known)
    grown = transcripts.prompt_ids("s", (SYSTEM, ASK, CALL, RESULT), (ADD,))
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
        fresh = Transcripts(native).prompt_ids("s", messages, ())
        assert transcripts.prompt_ids("s", messages, ()) == fresh


def test_other_tools_or_another_session_are_rendered_anew(native: Any) -> None:
    transcripts = Transcripts(native)
    turn(transcripts, (SYSTEM, ASK), SAY, [*spelled(native, "hello hello"), native.eos_token_id])
    messages = (SYSTEM, ASK, SAY, NEXT)
    for session, tools in (("s", (ADD,)), ("t", ()), (None, ())):
        fresh = Transcripts(native).prompt_ids(None, messages, tools)
        assert transcripts.prompt_ids(session, messages, tools) == fresh


def test_sessions_are_forgotten_oldest_first(native: Any) -> None:
    transcripts = Transcripts(native, max_conversations=2)
    for name in ("a", "b", "a", "c"):
        transcripts.remember(name, (ASK, SAY), (), [1])
    assert set(transcripts.conversations) == {"a", "c"}
    transcripts.remember(None, (ASK, SAY), (), [1])
    assert set(transcripts.conversations) == {"a", "c"}


def test_a_template_with_tools_gets_them(native: Any) -> None:
    transcripts = Transcripts(native)
    assert transcripts.native_tools
    text = transcripts.render((SYSTEM, ASK), (ADD,), open_turn=True)
    assert text.startswith("<|im_start|>system\nYou add numbers.\n\n# Tools\n")
    assert '"name": "add"' in text
    assert text.count("You add numbers.") == 1
    assert "# Tools" not in transcripts.render((SYSTEM, ASK), (), open_turn=True)


def test_a_template_without_tools_gets_instructions_and_plain_rows(plain: Any) -> None:
    transcripts = Transcripts(plain)
    assert not transcripts.native_tools
    text = transcripts.render((SYSTEM, ASK, CALL, RESULT), (ADD,), open_turn=True)
    head, _, rest = text.partition("<|im_end|>\n")
    assert head.startswith("<|im_start|>system\nYou add numbers.\n\nYou can call these functions")
    assert '{"name": "add", "description": "Add."' in head
    assert rest == (
        "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n"
        '<|im_start|>assistant\nLet me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    without_system = transcripts.render((ASK,), (ADD,), open_turn=False)
    assert without_system.startswith("<|im_start|>system\nYou can call these functions")


def test_what_is_rendered_is_read_back_as_a_call(plain: Any) -> None:
    transcripts = Transcripts(plain)
    text = transcripts.render((ASK, CALL), (ADD,), open_turn=False)
    written = text.rpartition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")
    assert transcripts.tool_format.parse(written, (ADD,)) == CALL


@pytest.mark.parametrize("text", ["", " ", "lone \ud800 surrogate", "a\x00b\u2028\ufeff", "👩\u200d👩\u200d👧" * 9])
def test_odd_text_is_tokenised_in_first_and_later_turns(text: str) -> None:
    transcripts = Transcripts(make_tokenizer(MESSAGES))
    messages: tuple[Message, ...] = (SYSTEM, Message(role="user", content=text))
    ids = transcripts.prompt_ids("s", messages, ())
    shown = transcripts.tokenizer.decode(ids, skip_special_tokens=False)
    assert text.encode("utf-8", "replace").decode() in shown
    sampled = transcripts.encode("hello<|im_end|>")
    transcripts.remember("s", (*messages, Message(role="assistant", content="hello")), (), ids + sampled)
    later = (*messages, Message(role="assistant", content="hello"), Message(role="user", content=text))
    assert transcripts.prompt_ids("s", later, ())[: len(ids + sampled)] == ids + sampled


def test_a_conversation_that_the_template_refuses_is_a_refused_prompt() -> None:
    tokenizer = make_tokenizer("{%- set allow_system = true %}" + STRICT + PLAIN)
    tokenizer.name_or_path = "models/strict"
    transcripts = Transcripts(tokenizer)
    assert transcripts.prompt_ids("s", (SYSTEM, ASK, SAY, NEXT), ())
    with pytest.raises(RefusedPromptError, match=r"models/strict refuses the conversation: .*roles must alternate"):
        transcripts.prompt_ids("s", (SYSTEM, ASK, SAY, NEXT, NEXT), ())
    transcripts.remember("s", (SYSTEM, ASK, SAY), (), transcripts.encode("hello"))
    with pytest.raises(RefusedPromptError, match="roles must alternate"):
        transcripts.prompt_ids("s", (SYSTEM, ASK, SAY, NEXT, NEXT), ())


def test_a_template_that_refuses_the_opening_refuses_every_conversation() -> None:
    tokenizer = make_tokenizer(STRICT + PLAIN)
    with pytest.raises(ModelError, match="System role not supported") as raised:
        Transcripts(tokenizer).prompt_ids("s", (SYSTEM, ASK), ())
    assert not isinstance(raised.value, RefusedPromptError), "a run that went on would grade every problem 0"
