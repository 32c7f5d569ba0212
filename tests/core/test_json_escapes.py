"""T4: which backslashes in a model's JSON are escapes: LaTeX, code, paths and patterns, with and without a grammar."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.react import ReactDialect
from agentopt_local.chat import Message, ToolSpec
from agentopt_local.functions import FunctionSet
from agentopt_local.json_text import only_object, read_json
from agentopt_local.models.checking import fault
from agentopt_local.tool_calls import parse_reply
from agentopt_local.tool_formats import COMPACT_JSON, HermesFormat, LlamaJsonFormat, guided, without_escapes

NOTE = ToolSpec(
    name="note",
    description="Keep a text.",
    parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)
UNDOUBLED = (
    r"\frac{1}{2}",
    r"\beta",
    r"\theta",
    r"\nu",
    r"\rho",
    r"\underline{x}",
    r"\alpha + \sqrt{2}",
    r"x \ne 0",
    r"a\ne b",
    r"E = h\nu",
    r"2\nu",
    r"$\nu = 5$",
    r"\frac{h\nu}{c}",
    r"3\times 4",
    r"x\to\infty",
    r"\lim_{x\to0} f",
    r"x \to y",
    r"\text{red}",
    r"5\text{ cm}",
    r"\tan x",
    r"\sin x\tan x",
    r"\nabla f",
    r"\neq",
    r"1\neq2",
    r"a \neq b",
    r"\left(\frac{1}{2}\right)",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
    r"\boxed{\tfrac12}",
    r"p \neg q",
    r"\bar{x}",
    r"\rightarrow",
    r"2\tau",
    r"\tau",
    r"\{1, 2\}",
    r"\(x\)",
    r"\[x\]",
    r"50\%",
    r"\$5",
    r"\bmod 7",
    r"10 \bmod 3",
    r"\binom{n}{k}",
    r"\bigcup",
    r"\forall x",
    r"\floor",
    r"\uparrow",
    r"\cup",
    r"\d+\s*",
    r"\bfoo\b",
    r"^\w+\.\w+$",
    r"C:\new\table.txt",
    r"C:\Users\name\temp",
    r"C:\temp\file",
    r"C:\Program Files\new\readme.txt",
    r"\rangle",
    r"\notin",
    r"x\notin A",
    r"\not=",
    r"A\nsubseteq B",
    r"\Re",
    r"\Delta",
    r"\unit",
    r"x^{\top}",
    r"A^\top",
    r"\textbf{a}",
    r"\rm{d}x",
    r"\frac{dy}{dx}=\nu",
    r"\mu=\nu",
    r"\mu\nu",
    r"F_{\mu\nu}",
    r"\partial_\nu",
    r"\nu_0",
    r"\nu^2",
)
"""Texts that are meant as they are."""
ESCAPED = (
    r"print(1)\nprint(2)",
    r"a\tb",
    r"lo = 0\nmid = 3",
    r"x = 1\nu = 2\nprint(u)",
    r"d\ne",
    r"a\nb\nc\nd\ne",
    r"s\nt\nu\nv",
    r"if x:\n\tprint(x)",
    r"if x:\n\top = 3",
    r"if x:\n\text = 1",
    r"\nu = 3\nprint(u)",
    r"line\r\nline",
    r"fruit\tan apple",
    r"file\text",
    r"a\tan\tb",
    r"name\tage\ttop",
    r"import re\nprint(re.findall('\\d+', s))",
    r"if x:\n    y = 1\nelse:\n    y = 2",
    r"A:\nfirst option\nB:\nsecond",
    '\\"quoted\\"',
    r"C:\\new\\table",
    r"\\frac{1}{2}",
    r"\\nu",
    r"\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
    r"\u00e9",
    r"\ud83d\ude00",
    r"a\/b",
    r"for i in x:\n\ttotal += i\n\treturn total",
    r"x\n",
    r"\n",
    r"\t",
    r"\n\n",
    r"n = 5\nt = 3",
    r"e = 1\nne = 2",
    r"first\nnot second",
    r"one\nto two",
    r"\tto",
    r"def f(u):\n    return u\nu = f(1)",
    r"x\nexit()",
    r"\nnu",
    r"progress\rdone",
    r"a,b\n1,2\n",
    r"import numpy as np\nrho = 1\ntheta = 2\nprint(rho)",
    r"x = 5\neq = x == 5\nprint(eq)",
    r"items\n- to\n- do",
    r"1\n2\n3\ni\nu",
    r"\f",
)
"""Insides of strings in which escapes are escapes."""


def call(inside: str) -> str:
    return f'<tool_call>\n{{"name": "note", "arguments": {{"text": "{inside}"}}}}\n</tool_call>'


def said(text: str) -> str:
    (found,) = parse_reply(text, [NOTE]).tool_calls
    return str(found.arguments["text"])


@pytest.mark.parametrize("text", UNDOUBLED)
def test_t4_what_is_not_doubled_survives(text: str) -> None:
    assert read_json(f'"{text}"')[0] == text
    assert only_object(f'Here: {{"text": "{text}"}}') == {"text": text}
    assert said(call(text)) == text
    react = ReactDialect(AgentConfig(kind="react"))
    functions = FunctionSet.of('def note(text: str) -> str:\n    """Keep text."""\n    return text\n')
    turn = react.read(Message(role="assistant", content=f'Action: note\nAction Input: {{"text": "{text}"}}'), functions)
    assert getattr(turn.acts[0], "arguments", None) == {"text": text}


@pytest.mark.parametrize("text", UNDOUBLED)
def test_t4_what_is_doubled_is_read_as_json(text: str) -> None:
    assert said(call(json.dumps(text)[1:-1])) == text


@pytest.mark.parametrize("inside", ESCAPED)
def test_t4_escapes_stay_escapes(inside: str) -> None:
    assert read_json(f'"{inside}"')[0] == json.loads(f'"{inside}"')
    assert said(call(inside)) == json.loads(f'"{inside}"')


@given(st.dictionaries(st.text(max_size=5), st.text() | st.lists(st.text()), max_size=4))
def test_t4_a_programs_json_is_read_exactly(value: dict[str, Any]) -> None:
    for dumped in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert read_json(dumped, exact=True)[0] == value


def accepts(grammar: str, text: str) -> bool:
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.grammar_from("grammar", grammar), log_level=0)
    assert matcher.get_error() == ""
    tokens = tokenizer.tokenize_bytes(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@pytest.mark.parametrize("format_", [HermesFormat(), LlamaJsonFormat()])
def test_t4_a_grammar_offers_no_escape_that_eats_latex(format_: Any) -> None:
    grammar = format_.grammar([NOTE], "x")
    key = "arguments" if isinstance(format_, HermesFormat) else "parameters"

    def bare(inside: str) -> str:
        return f'{{"name": "note", "{key}": {{"text": "{inside}"}}}}'

    for inside in (r"\\frac{1}{2}", r"\\nu", r"print(1)\nprint(2)", r"a\tb", r"say \"hi\"", "é", r"C:\\new"):
        assert accepts(grammar, bare(inside))
        assert said(bare(inside)) == json.loads(f'"{inside}"')
    for inside in (r"\frac", r"\beta", r"\rho", r"\underline", r"\u0041", r"\sqrt", r"\/"):
        assert not accepts(grammar, bare(inside))
    for inside in (r"\nu", r"\theta", r"\text{a}", r"x \ne 0"):  # the reader decides
        assert accepts(grammar, bare(inside))
        assert said(bare(inside)) == inside


def test_t4_the_grammar_of_react_is_the_same() -> None:
    functions = FunctionSet.of('def note(text: str) -> str:\n    """Keep text."""\n    return text\n')
    constraint = ReactDialect(AgentConfig(kind="react", think=False)).constraint(functions, "forbidden")
    assert accepts(constraint.value, 'Action: note\nAction Input: {"text": "\\\\frac\\n"}')
    assert not accepts(constraint.value, 'Action: note\nAction Input: {"text": "\\frac"}')


def test_t4_constants_may_need_other_escapes() -> None:
    parameters = {"type": "object", "properties": {"text": {"enum": ["\x0c", "\r", "a"]}}, "required": ["text"]}
    grammar = HermesFormat().grammar([NOTE.model_copy(update={"parameters": parameters})], "x")
    assert accepts(grammar, call(r"\f"))
    assert "json_allowed_escapes" not in guided(parameters)["x-guidance"]
    assert guided(NOTE.parameters)["x-guidance"] == COMPACT_JSON


def test_t4_older_grammars_can_do_without_the_option() -> None:
    for text in (HermesFormat().grammar([NOTE], "x"), json.dumps(guided(NOTE.parameters))):
        assert "json_allowed_escapes" in text
        assert "json_allowed_escapes" not in without_escapes(text)
    assert accepts(without_escapes(HermesFormat().grammar([NOTE], "x")), call(r"\f"))


def test_t4_a_scripted_constrained_turn_may_hold_either() -> None:
    from agentopt_local.chat import ChatRequest, Constraint

    request = ChatRequest(messages=(), tools=(NOTE,), constraint=Constraint(kind="turn", value="x"))
    assert fault(request, parse_reply(call(r"\frac{1}{2}"), [NOTE])) is None
