"""What the grammars accept, what the parser reads, and how arguments are checked."""

from __future__ import annotations

import functools
import time
from typing import Any

import llguidance
import llguidance.hf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentopt_local.chat import ToolSpec
from agentopt_local.tool_calls import check_arguments
from agentopt_local.tool_formats import HermesFormat, LlamaJsonFormat, ToolFormat

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "s": {"type": "string", "maxLength": 10},
        "xs": {"type": "array", "items": {"type": "number"}},
        "mode": {"enum": ["fast", "slow"]},
    },
    "required": ["a"],
}
TOOLS = [ToolSpec(name=name, description=f"Does {name}.", parameters=PARAMETERS) for name in ("f", "f2", "gcd")]
TEXT = r"[^<`]*(```python\n([^`]|`[^`])+\n```|<answer>[^<]+</answer>)"


@functools.cache
def tokenizer(mark_tokens: bool) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer, with or without the Hermes marks as single tokens."""
    small = Tokenizer(models.BPE())
    small.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    small.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"]
    )
    small.train_from_iterator(['{"name": "gcd", "arguments": {"a": 1}} we call the function\n'] * 50, trainer)
    if mark_tokens:
        small.add_tokens([AddedToken(mark, special=False) for mark in ("<tool_call>", "</tool_call>")])
    return PreTrainedTokenizerFast(tokenizer_object=small, eos_token="<|end|>")


@functools.cache
def guide(mark_tokens: bool) -> Any:
    return llguidance.hf.from_tokenizer(tokenizer(mark_tokens))


def ids(text: str, *, mark_tokens: bool, spelled: bool) -> list[int]:
    pieces = list(text) if spelled else [text]
    return [i for piece in pieces for i in tokenizer(mark_tokens).encode(piece, add_special_tokens=False)]


def accepts(grammar: str, text: str, *, mark_tokens: bool = False, spelled: bool = False) -> bool:
    matcher = LLMatcher(guide(mark_tokens), llguidance.grammar_from("grammar", grammar), log_level=0)
    assert matcher.get_error() == ""
    tokens = ids(text, mark_tokens=mark_tokens, spelled=spelled)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def hermes(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


CALL = '{"name": "f2", "arguments": {"a": 1, "s": "<x>\\né", "xs": [1, 2.5], "mode": "fast"}}'


@pytest.mark.parametrize("mark_tokens", [True, False])
@pytest.mark.parametrize("spelled", [True, False])
@pytest.mark.parametrize(
    "turn",
    [
        hermes(CALL),
        "I use {x}: it is short.\n" + hermes(CALL),
        "I use it.\n```json\n" + CALL + "\n```",
        '```json\n{\n  "name": "f2",\n  "arguments": {"a": 1}\n}\n```',
        CALL,
        "I use it:\n\n" + CALL,
    ],
)
def test_the_hermes_grammar_accepts_calls(turn: str, mark_tokens: bool, spelled: bool) -> None:
    format_ = HermesFormat(mark_tokens=mark_tokens)
    for text_pattern in (TEXT, r"(.|\n)*"):
        assert accepts(format_.grammar(TOOLS, text_pattern), turn, mark_tokens=mark_tokens, spelled=spelled)
    calls = format_.parse(turn, TOOLS).tool_calls
    assert [call.name for call in calls] == ["f2"]
    assert check_arguments(TOOLS[1], calls[0].arguments) is None


@pytest.mark.parametrize("mark_tokens", [True, False])
@pytest.mark.parametrize("text_pattern", [TEXT, r"(.|\n)*"])
@pytest.mark.parametrize(
    "call",
    [
        '{"name": "nope", "arguments": {"a": 1}}',
        '{"name": "f22", "arguments": {"a": 1}}',
        '{"name": "f2", "arguments": {}}',
        '{"name": "f2", "arguments": {"a": "1"}}',
        '{"name": "f2", "arguments": {"a": 1, "zz": 1}}',
        '{"name": "f2", "arguments": {"a": 1, "s": "longer than ten"}}',
        '{"name": "f2", "arguments": {"a":1}}',
        '{"name": "f2", "arguments": {"a": 1      }}',
        '{"arguments": {"a": "1"}, "name": "f2"}',
    ],
)
def test_no_grammar_accepts_a_bad_call(call: str, text_pattern: str, mark_tokens: bool) -> None:
    grammar = HermesFormat(mark_tokens=mark_tokens).grammar(TOOLS, text_pattern)
    for spelled in (True, False):
        assert not accepts(grammar, hermes(call), mark_tokens=mark_tokens, spelled=spelled)
        if "nope" not in call and "f22" not in call:
            assert not accepts(grammar, f"So:\n{call}", mark_tokens=mark_tokens, spelled=spelled)
            assert not accepts(grammar, f"```json\n{call}\n```", mark_tokens=mark_tokens, spelled=spelled)
    llama = LlamaJsonFormat().grammar(TOOLS, text_pattern)
    assert not accepts(llama, call.replace('"arguments"', '"parameters"')) or "nope" in call or "f22" in call


@pytest.mark.parametrize("format_", [HermesFormat(), HermesFormat(mark_tokens=True), LlamaJsonFormat()])
def test_text_must_match_its_pattern(format_: ToolFormat) -> None:
    mark_tokens = getattr(format_, "mark_tokens", False)
    for tools in (TOOLS, []):
        grammar = format_.grammar(tools, TEXT)
        for good in ("<answer>a {b} c</answer>", "So.\n```python\nif a < b: print({1: 2})\n```"):
            assert accepts(grammar, good, mark_tokens=mark_tokens)
            assert format_.parse(good, TOOLS).tool_calls == ()
        for bad in ("So.", "<answer></answer>", "x" * 20_000):
            assert not accepts(grammar, bad, mark_tokens=mark_tokens)
    assert not accepts(format_.grammar([], TEXT), hermes(CALL), mark_tokens=mark_tokens)


def test_a_pattern_with_slashes_and_alternatives_stays_whole() -> None:
    grammar = HermesFormat().grammar(TOOLS, r"a/b\n|c")
    assert accepts(grammar, "a/b\n")
    assert accepts(grammar, "c")
    assert not accepts(grammar, "a/bc")


def test_the_llama_grammar_accepts_calls() -> None:
    grammar = LlamaJsonFormat().grammar(TOOLS, TEXT)
    call = CALL.replace('"arguments"', '"parameters"')
    for turn in (call, f"Let me see:\n{call}", f"```json\n{call}\n```"):
        assert accepts(grammar, turn)
        assert [c.name for c in LlamaJsonFormat().parse(turn, TOOLS).tool_calls] == ["f2"]
    assert not accepts(grammar, hermes(CALL))


def test_thoughts_are_bounded() -> None:
    grammar = HermesFormat().grammar(TOOLS, TEXT, max_thought_sentences=2)
    assert accepts(grammar, "One. Two. Three " + hermes(CALL))
    for thought in ("One. Two. Three. ", "   \n\n\n\n", "a < b", "`a`"):
        assert not accepts(grammar, thought + hermes(CALL))


def test_forty_tools_compile_in_milliseconds() -> None:
    tools = [ToolSpec(name=f"tool_{i}", description="", parameters=PARAMETERS) for i in range(40)]
    grammar = HermesFormat(mark_tokens=True).grammar(tools, TEXT)
    started = time.perf_counter()
    assert accepts(grammar, hermes('{"name": "tool_39", "arguments": {"a": 1}}'), mark_tokens=True)
    assert time.perf_counter() - started < 2.0, "usually about 10 ms"


def test_the_embedded_model_writes_its_marks_as_single_tokens() -> None:
    from transformers import AutoTokenizer

    from serving.model_store import cache_dir

    pulled = [cache_dir() / "models" / name for name in ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b")]
    folder = next((folder for folder in pulled if (folder / "tokenizer.json").is_file()), None)
    if folder is None:
        pytest.skip("no Qwen2.5-Coder model has been pulled: agentopt models pull qwen2.5-coder-0.5b")
    real = AutoTokenizer.from_pretrained(folder)
    format_ = HermesFormat(mark_tokens=True)
    grammar = llguidance.grammar_from("grammar", format_.grammar(TOOLS, TEXT))
    real_guide = llguidance.hf.from_tokenizer(real)
    for pieces in ([hermes(CALL)], list(hermes(CALL))):
        matcher = LLMatcher(real_guide, grammar, log_level=0)
        tokens = [i for piece in pieces for i in real.encode(piece, add_special_tokens=False)]
        assert (len(pieces) > 1) != (real.convert_tokens_to_ids("<tool_call>") in tokens)
        assert matcher.try_consume_tokens(tokens) == len(tokens)
        assert matcher.is_stopped()


def test_instructions_name_the_tools() -> None:
    for format_ in (HermesFormat(), LlamaJsonFormat()):
        assert '"f2"' in format_.instructions(TOOLS)


ONE = '{"name": "f", "arguments": {"a": 1}}'
BAD = '{"name": "f", "arguments": {"a": "x"}}'
PIECES = [
    ONE,
    BAD,
    BAD.replace("arguments", "parameters"),
    "<tool_call>\n",
    "\n</tool_call>",
    "```json\n",
    "\n```",
    "```python\n",
]
PIECES += ["\n", "So. ", "{", " ", '{"function": ' + BAD + "}", '{"arguments": {}, "name": "f"}', "x < y"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=6))
def test_what_a_grammar_accepts_never_parses_as_a_bad_call(pieces: list[str]) -> None:
    text = "".join(pieces)
    for format_ in (HermesFormat(), LlamaJsonFormat()):
        if accepts(format_.grammar(TOOLS, r"(.|\n)*"), text):
            for call in format_.parse(text, TOOLS).tool_calls:
                tool = next(tool for tool in TOOLS if tool.name == call.name)
                assert check_arguments(tool, call.arguments) is None
