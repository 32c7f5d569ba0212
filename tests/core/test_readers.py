"""Every reader of text that a model or a stranger wrote: none raises what it does not declare, none stalls.

A new reader is one line in ``READERS``. Its seeds are pieces that, repeated, are hard for it; the common ones are tried
on every reader.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentopt_local.actions import parse_header
from agentopt_local.agents import answers, react
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.dialect import code_in, whole_part
from agentopt_local.agents.function_calling import FunctionCallingDialect
from agentopt_local.boxed import has_box, last_box, whole_box
from agentopt_local.call_arguments import read_arguments, read_python
from agentopt_local.chat import ChatRequest, Constraint, Message, ToolSpec, Usage
from agentopt_local.errors import FunctionError
from agentopt_local.evidence import Evidence
from agentopt_local.exporting.package import plain
from agentopt_local.exporting.portable import server_name
from agentopt_local.exporting.sources import split_module
from agentopt_local.failed_ideas import form_of
from agentopt_local.fences import blocks_of
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.graders.catalog import named_graders
from agentopt_local.graders.clock import with_plain_times
from agentopt_local.graders.final_answer import final_answer, statements
from agentopt_local.graders.math.sentences import conclusion
from agentopt_local.graders.math.units import unit_of
from agentopt_local.graders.stated_number import stated_number
from agentopt_local.graders.tabmwp import tabmwp, tabmwp_lenient
from agentopt_local.grading import Grade
from agentopt_local.json_escapes import repaired
from agentopt_local.json_text import NotJsonError, only_object, read_file, read_json, read_kept
from agentopt_local.models.checking import tidy
from agentopt_local.models.known import Known, weaker
from agentopt_local.models.refusals import kind_of
from agentopt_local.models.secrets import Key
from agentopt_local.models.server_error import read_refusal
from agentopt_local.models.usage import usage_of
from agentopt_local.models.waiting import asked_wait_s
from agentopt_local.models.wire import broken_off, from_response
from agentopt_local.plain_text import printable, printable_json, quoted
from agentopt_local.problem import Problem, content_key
from agentopt_local.room import estimate_text
from agentopt_local.showing import transcript_text
from agentopt_local.source import clean
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.graded_rows import by_texts, grade_rows
from agentopt_local.thoughts import split_thought, without_thoughts
from agentopt_local.tool_calls import check_arguments, encodable, parse_reply
from agentopt_local.trajectory import Step, ToolRun, Trajectory
from agentopt_local.wrapping import bare_answer, tagged, untagged, unwrapped
from ray_jobs.toml_values import parsed as toml_parsed

SIZES = tuple(500 * 2**doubling for doubling in range(7))
"""From what is cheap even for a cubic reader to 32,000 characters; the last three decide about a quadratic one."""
FLOOR_S = 0.01
"""Shorter times are not compared: they are mostly noise."""
GROWTH = 3.2
"""How much longer twice the text may take: 2 for a linear reader, 4 for a quadratic one."""

ADD = 'def add(a: int, b: int = 2) -> int:\n    """Return a + b."""\n    return a + b\n'
SHOUT = 'def shout(text: str) -> str:\n    """Return text in capitals."""\n    return text.upper()\n'
FUNCTIONS = FunctionSet.of(ADD, SHOUT)
TOOLS = FUNCTIONS.tool_specs()
REACT = react.ReactDialect(AgentConfig(kind="react"))
CALLING = FunctionCallingDialect(AgentConfig())
HEAD = 'def f(x: int) -> int:\n    """Return x."""\n    return '
SCHEMA = Constraint(kind="json_schema", value=json.dumps({"type": "object"}))


KEY = Key("HOME", also=("sk-proverbial-4711",))
REQUEST = ChatRequest(messages=(), tools=TOOLS)
SENT = {
    "messages": [{"role": "user", "content": "x", "reasoning": "y"}],
    **{"max_tokens": 9, "temperature": 0.5, "top_p": 0.5, "seed": 2**40, "reasoning_effort": "low", "tools": []},
    **{"tool_choice": "auto", "chat_template_kwargs": {}, "response_format": {"json_schema": {"strict": True}}},
}


class Reader(NamedTuple):
    """Something that reads a text from outside."""

    name: str
    read: Callable[[str], object]
    errors: tuple[type[Exception], ...] = ()
    """What it may raise."""
    seeds: tuple[str, ...] = ()
    """Pieces to repeat. ``a…b…c`` repeats b, between one a and one c; ``a«b»c`` repeats a before and c after one b."""


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def trajectory(text: str) -> Trajectory:
    runs = tuple(
        ToolRun(name=name, arguments=given, ok=True, result=text)
        for name in ("python", "add")
        for given in ({"code": text}, {"code": 1}, {"x": text})
    )
    return Trajectory(
        problem_id="p",
        functions="f",
        seed=0,
        answer=text,
        stop_reason="answer",
        usage=Usage(),
        wall_s=0,
        steps=(Step(message=assistant(text), executed=runs),),
        grade=Grade(reward=0, reason=text),
    )


def evidence_text(text: str) -> str:
    return transcript_text(
        1, Evidence(problem=Problem(id="p", question=text, answer=text), trajectory=trajectory(text)), 900
    )


def draft(text: str) -> str:
    """A source as a draft keeps it, and all that is read from it afterwards."""
    function = Function.new(clean(text))
    json.dumps(function.tool_spec().model_dump(), ensure_ascii=False).encode()
    return function.normalized() + function.signature


def reply(**fields: object) -> object:
    body = {"choices": [{"message": {"content": "", **fields}}]}
    return from_response(ChatRequest(messages=(), tools=TOOLS), body).model_dump_json()


def error_of(text: str) -> object:
    """All that is made of a server's error."""
    # An escape of six characters would make a long text of a short one, and a cut one, which is read as plain text.
    body = {"error": {"message": re.sub(r"[\0-\x1f\"\\]", " ", text), "param": text[:500]}}
    refusal = read_refusal(400, json.dumps(body, ensure_ascii=False), {}, KEY.redact)
    learned = weaker(Known(mode="json_schema"), SENT, refusal, free=True, rows=lambda known: known.takes_turns)
    return kind_of(refusal), refusal.shown, learned


def native(text: str) -> object:
    return reply(tool_calls=[{"function": {"name": text, "arguments": text}}])


CALLS = (
    '\n{"name": "add", "arguments": {}} x',
    "<tool_call>",
    "```json\n",
    '\n{"a":',
    "\n[1,",
    ' {"',
    "|>{",
    '<tool_call>"',
    '<tool_call>{"name": "add", "arguments": {"a": 1}}',
    '\n[{"name":',
    "<tool_call>[…1,",
)
FORMS = (
    "<function=add>",
    "<function=add><parameter=a>",
    "<function=add>…<parameter=a>1</parameter>…</function>",
    "<tool_call>add<arg_key>a</arg_key><arg_value>",
    "<tool_call>{'a': ",
    "<tool_call>{'…</tool_call>",
    "<tool_call>add ",
    "[TOOL_CALLS]",
    "to=functions.add ",
    "[add(…a=1,…)]",
    "[add(a='\\n')…,",
    "```\n{}\n```",
    "```json\n…{}\n",
    "<think>",
)
ARGUMENTS = ("{}", '{"a": 1}', "{'a': ", "'\\'", '"\\"', "null", "```json\n", ", ]", "</a>", "}", "[…[…]")
THOUGHTS = (
    "<think>",
    "</think>",
    "\n<think>",
    "'<think>' ",
    "a'</think>",
    "<think>…<think>…</think>",
    "<|end|>",
    '\n{"a',
    "<reasoning>x",
)
FENCES = (
    "```\n",
    "```python\ns='''\n```\n'''\na…\u0301\u0323…\n```\n",
    "```\na…\u0301\u0323…\n```\n",
    "```python\n",
    "```python\n'''\n",
    '"""',
    "```python\nx = '…\\'…```",
    " ```\n",
    "x```\n",
    "~~~\n",
    "``",
    "```python\n…  x\n",
    "> ```py\n> x\n",
    '```python\n"""\n```\n',
)
BACKSLASHES = ("\\nu", "\\n", "\\", "\\frac", "\\to x", "C:\\a", "A:…\\b", "\\u12", "h\\nu ", "\\text{")
MATH = (
    "\\frac",
    "\\sqrt",
    "\\sin ",
    "3\\frac{«1»}{2}",
    "\\text{«$x$»}",
    "\\text{a… …b}",
    "{«x»}",
    "0.…1…2\\ldots",
    "\\sqrt{7^{9999}}+",
    "10^{700}…+\\sin x",
    "\\{…1,…\\}",
    "(1,",
    "x^",
    "\\pm 1",
    "9^",
    "1!",
    "\\begin{pmatrix}",
    "\\cup(1,2)",
    "|",
    "\\text{ and }",
    "\\boxed{",
    "\\log_",
    "x=",
    "²",
    "\\binom",
)
PLACES = (
    "the answer is ",
    "answer: ",
    "$a$ ",
    "#### 1",
    "Final answer",
    "1/0 ",
    "1,111",
    "…-…1",
    "x… …12 cm",
    "%… ",
    "a, ",
    "\\fbox",
    "\\frac{1}{0}",
    "1… …2/3",
    "the ",
    "(A) ",
    "total is 1/0\n",
)
WRAPPINGS = (
    "<think>",
    "</think>",
    "<think>a</think>",
    "<answer>",
    "</answer>",
    "<answer>a",
    "<answer>a</answer>",
    "<|channel|>analysis<|message|>",
    "<|channel|>analysis…a",
    "**",
    "**a",
    "**a** ",
    "**« »**",
    "*«a»*",
    "`",
    "$$",
    "\\(«a»\\)",
    "\\textbf{«a»}",
    "```\n",
    "**Final Answer**: ",
    "answer… …:",
    "final answer",
    "# Answer\n",
    "answer is $$",
    "answer is not ",
    "'",
    '"',
    '\\"',
    '"a ',
    " , ",
    "4:15 pm ",
    "4 ",
    "noon ",
    "8 * 9 = ",
    "1 (",
    "1 (2) ",
    "x^2 ",
    "}^{",
    "<<1",
    "mi/h ",
    "is ",
    "\\text{is }",
)
SOURCES = (
    HEAD + "x….strip()",
    HEAD + "…-…1",
    HEAD + "…(",
    HEAD + "0x…f",
    HEAD + '"""…\n',
    HEAD + "…[",
    HEAD + "x …if x else x ",
    "def f(x: …int | …int) -> int:\n    'd'\n",
    "def f(x: '…int | …int') -> int:\n    'd'\n",
    "def f(x: int = 0x…f…) -> int:\n    'd'\n",
    "def f() -> x….y…:\n    'd'\n",
    "def f(x: Literal[…1,…]) -> int:\n    'd'\n",
    HEAD + "0\n    x…\u0315\u0300",
    "def f():\n    'd'\n    try:\n        pass\n…        if f: return\n…    finally:\n        f = f(f(f), f(f))\n",
    "import a\n",
    "def f():\n 'd'\n",
    "def f():\n 'd'\n x…;x",
    "def f():\n    '''d …\\ud800…'''\n",
    "\x0c",
    "```",
    "    ",
)
LABELS = (
    "Action: ",
    "Action: a… …b",
    "Action Input: ",
    "Final Answer: ",
    "Observation:\n",
    "```",
    "\nThought:",
    "Action: add\n",
)

READERS = [
    *(
        Reader(
            f"grader {name}, the answer", lambda text, grade=grade: grade(text, "12 cm"), (), MATH + PLACES + WRAPPINGS
        )
        for name, grade in named_graders().items()
    ),
    *(
        Reader(
            f"grader {name}, what is expected",
            lambda text, grade=grade: grade("x, 1; 12", text),
            (),
            MATH + PLACES + WRAPPINGS,
        )
        for name, grade in named_graders().items()
    ),
    *(
        Reader(f"{rule.__name__} {how}", functools.partial(rule, expected="12", **row), (), PLACES + WRAPPINGS)
        for rule in (tabmwp, tabmwp_lenient)
        for how, row in (("number", {"unit": "cm"}), ("choice", {"choices": ["a b", "12"]}))
    ),
    Reader("math, against the same text", lambda text: named_graders()["math"](text + "+0", text), (), MATH),
    Reader(
        "graded rows",
        lambda text: list(
            grade_rows(
                [text.encode("utf-8", "replace"), json.dumps({"gold": text, "prediction": text}).encode()],
                by_texts(named_graders()["exact"]),
            )
        ),
        (),
        ("[", '{"gold":'),
    ),
    *(
        Reader(f"{read.__name__.replace('_', ' ')}", read, (), (*WRAPPINGS, *PLACES))
        for read in (without_thoughts, tagged, untagged, unwrapped, with_plain_times, final_answer, conclusion, unit_of)
    ),
    Reader("statements", lambda text: list(statements(text, sums=True)), (), (*WRAPPINGS, *PLACES)),
    Reader("stated number", lambda text: stated_number(text, first=True), (), (*WRAPPINGS, *PLACES)),
    Reader("bare answer", lambda text: (bare_answer(text, "a"), bare_answer("a", text)), (), WRAPPINGS),
    Reader("last box of a turn", lambda text: last_box(text, "turn"), (), ("\\boxed{", "\\boxed ", "{", "\\boxed… ")),
    Reader(
        "last box of a solution", lambda text: (has_box(text), last_box(text, "solution")), (), ("\\fbox ", "\\boxed… ")
    ),
    Reader("whole box", whole_box, (), ("\\boxed{…{", "\\boxed{")),
    Reader(
        "answer",
        lambda text: (answers.read_answer(text), answers.without_answer(text), answers.unboxed(text)),
        (),
        ("<answer>", "<answer>a</answer>", "</answer>", "$"),
    ),
    Reader("turn with calls", lambda text: CALLING.read(assistant(text), FUNCTIONS), (), ("```python\n", "```… ")),
    Reader(
        "turn that was cut off",
        lambda text: [whole_part(each.read(assistant(text), FUNCTIONS)) for each in (CALLING, REACT)],
        (),
        (*LABELS, "```python\n", "```… ", "<answer>"),
    ),
    Reader("form of a failed source", lambda text: form_of(text, by_name=False), (), SOURCES),
    Reader("estimate of tokens", estimate_text, (), ("1", "a", "漢", "\n ")),
    Reader("turn of ReAct", lambda text: REACT.read(assistant(text), FUNCTIONS), (), LABELS),
    Reader(
        "input of ReAct",
        lambda text: (
            react.input_of(text, 0),
            react.code_of(text),
            react.final_answer(text),
            react.arguments_of(FUNCTIONS.get("shout"), text, as_text=True),
        ),
        (),
        (*LABELS, *CALLS),
    ),
    Reader("reply with calls", lambda text: parse_reply(text, TOOLS).model_dump_json(), (), (*CALLS, *FORMS)),
    Reader("arguments as text", lambda text: (read_arguments(text), read_python(text)), (), ARGUMENTS),
    Reader("thoughts", split_thought, (), THOUGHTS),
    Reader("thoughts of a cut reply", functools.partial(split_thought, cut=True), (), THOUGHTS),
    Reader("fenced blocks", lambda text: (blocks_of(text), code_in(text)), (), FENCES),
    Reader("backslashes", repaired, (), BACKSLASHES),
    Reader("native call", native, (ValueError,), CALLS),
    Reader("content of a response", lambda text: reply(content=text), (ValueError,), ("<think>", "</think>", *CALLS)),
    Reader("arguments of a call", lambda text: check_arguments(TOOLS[0], {"a": text, text: text}), (), ("[",)),
    Reader("JSON", read_json, (NotJsonError,), ("[", '{"a":', '"…a', "1", "[…1,", "\\u", "-", "[1,", '["…\\ud800')),
    Reader(
        "JSON of a data set",
        lambda text: read_file(text.encode("utf-8", "replace")),
        (NotJsonError,),
        ("[", '{"a":', "[1,"),
    ),
    Reader(
        "JSON of a run", lambda text: read_kept(text.encode("utf-8", "replace")), (NotJsonError,), ("[", '{"a":', "[1,")
    ),
    Reader(
        "settings in TOML",
        toml_parsed,
        (ValueError,),
        ("a.", "[", "a={", "'a'.", "a=1\n", "[a…a.…a]", "x = [1,", "[[a]]\n"),
    ),
    Reader(
        "what is printed",
        lambda text: (printable(text), printable_json([text, {text: text}]), quoted(text)),
        (),
        ("\\", "\\u001b", "\x1b", "\r\n", "\u202e"),
    ),
    Reader("suggestion", lambda text: did_you_mean(text, ["question", text]), (), ("question",)),
    Reader("JSON in a reply", only_object, (NotJsonError,), ("{", "}", '{"a": 1}')),
    Reader(
        "reply without its fence", lambda text: tidy(SCHEMA, text), (), ("```json\n", "\n   ", "```json\n…{}\n…\n```")
    ),
    Reader(
        "header",
        lambda text: parse_header(text, FUNCTIONS),
        (FunctionError,),
        ('{"action": "add_function", "name": "…a…"}',),
    ),
    Reader("source", draft, (FunctionError,), SOURCES),
    Reader("module", split_module, (FunctionError,), (*SOURCES, "import a\ndef f():\n 'd'\n a\n", "x=1;import a\n")),
    Reader("name of a server", lambda text: server_name(None, text, FUNCTIONS)),
    Reader("evidence", evidence_text, (), ("add (", "def add", "add… ")),
    Reader("use in code", lambda text: trajectory(text).used("add"), (), ("add (", "def add", "add… ", "add")),
    Reader("question", content_key, (), ("a\u0315\u0300", "é")),
    Reader("encodable text", encodable),
    Reader("cell of a table", plain),
    Reader(
        "a server's error",
        error_of,
        (),
        ("prompt violat", "input ", "content… ", "exceed", "alternat", "<", "<style", "tool ", "role "),
    ),
    Reader(
        "form of a server's error", lambda text: read_refusal(400, text, {}, str), (), ('{"error":', '["', "<a", "[1,")
    ),
    Reader("a wait", lambda text: asked_wait_s({"Retry-After": text}), (), ("Mon, ", "1:", "+0", "9")),
    Reader("a key in a text", KEY.redact, (), ("sk-prove", "sk-proverbial-1", "://a@", "://", "?key=", "&a=b")),
    Reader("tokens of a response", lambda text: usage_of({"usage": {"prompt_tokens": text}}, REQUEST, text), (), ()),
    Reader(
        "end of a response", lambda text: broken_off({"choices": [], "x": text, "error": text[:9]}), (), ('"filtered"',)
    ),
]
"""Every reader, once."""

COMMON = (
    "x",
    " ",
    "\n",
    "1",
    "-",
    "(",
    "{",
    "}",
    "[",
    "$",
    "\\",
    '"',
    "`",
    ",",
    ".",
    "the ",
    "a b ",
    "x1 ",
    "1 ",
    "\t",
    "é",
    "\u0315\u0300",
    "\u0f73",
    "\u2028",
    "\ud800",
    "x… …1",
    "1… …x",
)
BY_NAME = {reader.name: reader for reader in READERS}


def text_of(seed: str, n: int) -> str:
    """About ``n`` characters of a seed."""
    if "«" in seed:
        before, piece, after = re.split("[«»]", seed)
        times = max(1, n // len(before + after))
        return before * times + piece + after * times
    parts = seed.split("…")
    before, piece, after = (["", *parts, ""], [*parts, ""], parts)[len(parts) - 1]
    return before + piece * max(1, (n - len(before) - len(after)) // len(piece)) + after


def seconds(reader: Reader, text: str) -> float:
    """CPU seconds for one reading. Errors that the reader does not declare pass."""
    started = time.thread_time()
    with contextlib.suppress(*reader.errors):
        reader.read(text)
    return time.thread_time() - started


def check_growth(reader: Reader, text: Callable[[int], str], sizes: tuple[int, ...] = SIZES) -> None:
    """Double the text again and again; the time may grow by ``GROWTH``. A violation is measured again, three times."""
    before = seconds(reader, text(sizes[0]))
    for smaller, size in itertools.pairwise(sizes):
        after = seconds(reader, text(size))
        if after > GROWTH * max(before, FLOOR_S):
            before = max(seconds(reader, text(smaller)) for _ in range(3))
            after = min(after, *(seconds(reader, text(size)) for _ in range(3)))
            assert after <= GROWTH * max(before, FLOOR_S), (
                f"{reader.name} took {before:.3f} s for {smaller} characters and {after:.3f} s for {size}: {text(40)!r}"
            )
        before = after


@pytest.mark.parametrize("name", BY_NAME)
def test_the_time_grows_no_faster_than_the_text(name: str) -> None:
    reader = BY_NAME[name]
    reader.read("x") if not reader.errors else seconds(reader, "x")  # imports and caches
    for seed in dict.fromkeys((*COMMON, *reader.seeds)):
        check_growth(reader, functools.partial(text_of, seed))


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_text_makes_it_raise_or_stall(name: str, data: st.DataObject) -> None:
    reader = BY_NAME[name]
    pieces = st.sampled_from(
        [part for seed in (*COMMON, *reader.seeds) for part in re.split("[…«»]", seed) if part]
    ) | st.text(max_size=8)
    before, unit, after = (data.draw(st.lists(pieces, min_size=1, max_size=3).map("".join)) or "x" for _ in range(3))
    seconds(reader, before + unit + after)
    check_growth(reader, lambda n: before + unit * (n // len(unit) + 1) + after, SIZES[:5])


def test_the_check_sees_a_reader_that_is_not_linear() -> None:
    def quadratic(text: str) -> int:
        return sum(text[at:].count("x") for at in range(len(text)))

    with pytest.raises(AssertionError, match="slow took"):
        check_growth(Reader("slow", quadratic), functools.partial(text_of, "x"))


def test_every_named_grader_is_a_reader() -> None:
    assert {f"grader {name}, the answer" for name in named_graders()} <= set(BY_NAME)
    assert isinstance(TOOLS[0], ToolSpec)
