"""Functions: everything is derived from the source, and what JSON cannot represent gets a useful error."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from agentopt_local.actions import AddFunction
from agentopt_local.errors import FunctionError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.run.writer import RunDir
from agentopt_local.showing import functions_text
from agentopt_local.source import clean, unbound_names, with_imports
from agentopt_local.steps import distinct
from agentopt_local.update import Update

ADD = 'def add(a: int, b: int = 2) -> int:\n    """Return a + b."""\n    return a + b\n'
JOIN = (
    "from typing import Literal\n\n"
    "def join(words: list[str], how: Literal['a', 'b'] = 'a', extra: dict[str, float] | None = None) -> str:\n"
    '    """Join words."""\n    import math\n    return "".join(words)\n'
)


def test_name_description_and_schema_come_from_the_source() -> None:
    function = Function(source=ADD)
    assert function.name == "add"
    assert function.description == "Return a + b."
    assert function.signature == "add(a: int, b: int=2) -> int"
    assert function.parameters == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 2}},
        "required": ["a"],
        "additionalProperties": False,
    }


def test_schema_of_every_allowed_type() -> None:
    properties = Function(source=JOIN).parameters["properties"]
    assert properties["words"] == {"type": "array", "items": {"type": "string"}}
    assert properties["how"] == {"enum": ["a", "b"], "default": "a"}
    number = {"type": "object", "additionalProperties": {"type": "number"}}
    assert properties["extra"] == {"anyOf": [number, {"type": "null"}], "default": None}
    assert Function(source=JOIN).imports == {"typing", "math"}


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("def f(*numbers):\n    '''d'''\n", r"\*numbers has no JSON schema; use a list"),
        ("def f(**more: int):\n    '''d'''\n", r"\*\*more has no JSON schema"),
        ("def f(a, /):\n    '''d'''\n", "positional-only"),
        ("def f(a):\n    '''d'''\n", "parameter 'a' needs a type"),
        ("def f(a: set):\n    '''d'''\n", "has type set; use one of int"),
        ("def f(a: dict[int, str]):\n    '''d'''\n", r"dict\[int, str\]"),
        ("def f(a: int = g()):\n    '''d'''\n", "must be a plain JSON literal"),
        ("def f(a: int):\n    return a\n", "docstring"),
        ("def f(a: int)\n    return a\n", "syntax error in line 1"),
        ("def f():\n    '''d'''\n    return\nx = 1\n", "exactly one top-level function"),
        ("async def f():\n    '''d'''\n", "AsyncFunctionDef"),
        ("@cache\ndef f():\n    '''d'''\n", "decorators"),
        ("", "it has: nothing"),
        ("def f():\n    '''d'''\n    return 1\n\0", "cannot be compiled|syntax error"),
        ("x = " + "(" * 5000 + ")" * 5000, "compiled|syntax error"),
    ],
)
def test_what_cannot_be_a_function_is_refused(source: str, what: str) -> None:
    with pytest.raises(FunctionError, match=what):
        Function(source=source)


BODY = "def f(x: str) -> str:\n    'Return x.'\n    return {}\n"
HUGE = "0x" + "f" * 4000
NESTED = """def f(x: str) -> str:
    'Return x.'
    try:
        try:
            return x
        finally:
            x = ''
    finally:
        x = ''
"""


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (BODY.format("x" + ".strip()" * 170), "nested more than 100 levels deep.*use variables, a loop or a dict"),
        (BODY.format(HUGE), "line 3: a number has too many digits; compute it"),
        (BODY.format("9" * 5000), "syntax error in line 3: a number has too many digits"),
        (BODY.format("x").replace("x: str", f"x: int = {HUGE}"), "too many digits"),
        (BODY.format("x").replace("Return", "\\ud800"), "docstring, types or defaults.*half of a surrogate pair"),
        (BODY.format("x").replace("x: str", "x: str = '\\ud800'"), "half of a surrogate pair"),
        (BODY.format("x").replace("x: str", "x: Literal['\\ud800']"), "half of a surrogate pair"),
        (BODY.format("x").replace("x: str", "x: " + "int | " * 150 + "str"), "nested more than 100 levels"),
        (BODY.format("x").replace("x: str", f"x: '{'int | ' * 600}str'"), "nested more than 100 levels"),
        (BODY.format("x").replace("-> str", "-> x" + ".y" * 600), "nested more than 100 levels"),
        (NESTED, "a try with finally is inside another one; move it into a function"),
        ("x" * 30_000, "30000 characters; at most 20000"),
    ],
)
def test_a_new_function_must_survive_all_that_is_done_with_it(source: str, what: str) -> None:
    with pytest.raises(FunctionError, match=what):
        Function.new(source)


def test_the_limits_leave_room_for_ordinary_code() -> None:
    chain = "\n".join(f"    {'elif' if i else 'if'} x == '{i}':\n        return '{i}'" for i in range(80))
    inner = "def g():\n            try:\n                return x\n            finally:\n                pass"
    apart = BODY.format("x").replace(
        "return x", f"try:\n        {inner}\n        return g()\n    finally:\n        pass"
    )
    for source in (
        BODY.format("+".join(["x"] * 90)),
        BODY.format("str(" + "9" * 3000 + ")"),
        BODY.format("x").replace("    return", f"{chain}\n    return"),
        apart,
    ):
        assert Function.new(source).normalized()


OLD = [
    BODY.format("x" + ".strip()" * 400),
    BODY.format(HUGE),
    BODY.format("x").replace("Return", "\\ud800"),
    BODY.format("x").replace("x: str", "x: str = '\\ud800'"),
    BODY.format("x").replace("-> str", "-> x" + ".y" * 400),
    NESTED,
]


@pytest.mark.parametrize("source", OLD)
def test_a_function_that_an_older_version_kept_can_be_read_and_compared(source: str, tmp_path: Path) -> None:
    functions = FunctionSet(functions=(Function(source=source),))
    run_dir = RunDir(tmp_path / "run", create=True)
    run_dir.keep_proposal(1, 0, Update(functions=functions, actions=(AddFunction(function=functions.functions[0]),)))
    update = run_dir.proposals()[1, 0]
    run_dir.close()
    assert update.functions == functions
    assert distinct([update, update], FunctionSet()) == [0]
    assert distinct([update], functions) == [0]
    assert "Return" in functions_text(functions, [], 10_000) or functions.functions[0].description
    json.dumps(functions.tool_specs()[0].model_dump(), ensure_ascii=False).encode()


def test_normalized_tells_code_apart() -> None:
    sources = [
        BODY.format(value) for value in ("1", "'1'", "1.0", "True", "x", "x()", "(x,)", "[x]", "x[0]", "-1", "None")
    ]
    assert len({Function(source=source).normalized() for source in sources}) == len(sources)


def test_a_set_is_immutable_and_comparable() -> None:
    empty = FunctionSet()
    one = empty.adding(Function(source=ADD))
    assert len(empty) == 0
    assert one.names == ("add",)
    assert one == FunctionSet.of(ADD)
    assert one.fingerprint == FunctionSet.of(ADD).fingerprint != empty.fingerprint
    assert one.removing("add") == empty
    revised = Function(source=ADD.replace("a + b\n", "a - b\n"))
    assert one.replacing("add", revised).get("add") == revised
    assert pickle.loads(pickle.dumps(one)) == one
    assert FunctionSet.model_validate_json(one.model_dump_json()) == one


def test_sets_refuse_what_does_not_fit() -> None:
    one = FunctionSet.of(ADD)
    with pytest.raises(FunctionError, match="exists already"):
        one.adding(Function(source=ADD))
    with pytest.raises(FunctionError, match="no function 'sub'; there are: add"):
        one.removing("sub")
    with pytest.raises(FunctionError, match="two functions"):
        FunctionSet.of(ADD, ADD)


def test_normalized_ignores_comments_docstring_and_layout() -> None:
    other = 'def add(a: int, b: int=2) -> int:\n    """Sum."""\n    # a comment\n    return (a + b)\n'
    assert Function(source=ADD).normalized() == Function(source=other).normalized()


def test_clean_takes_a_source_out_of_its_fence() -> None:
    assert clean(f"Here:\n```python\n{ADD}```\nDone.") == ADD
    assert clean(ADD) == ADD.strip("\n")


FORGETFUL = '''def roots(text: str) -> str:
    """Return the roots of text."""
    def key(root: Any) -> float:
        return math.fabs(root)
    return str(sorted(sp.solve(text), key=key)) + helper(text)
'''


def test_forgotten_imports_are_added_below_the_docstring() -> None:
    mended = with_imports(FORGETFUL, ["math", "sympy"], ["helper"])
    added = ["    import math", "    import sympy as sp"]
    assert sorted(mended.splitlines()[2:4]) == added
    assert [line for line in mended.splitlines() if line not in added] == FORGETFUL.splitlines()
    assert with_imports(mended, ["math", "sympy"], ["helper"]) == mended


def test_source_questions_are_bounded_and_the_latest_are_kept() -> None:
    function = Function(source=ADD)
    assert function.for_questions([]) == function
    asked = function.for_questions(["q" * 3000, "one", "two"]).for_questions(["two", "three"])
    assert asked.questions == ("q" * 1000, "one", "two", "three")
    assert asked.for_questions(map(str, range(6))).questions == ("two", "three", *"012345")
    assert (asked.name, asked.source, asked.tool_spec()) == (function.name, function.source, function.tool_spec())


def test_source_questions_tell_sets_apart_but_not_their_code() -> None:
    plain = FunctionSet.of(ADD, JOIN)
    asked = FunctionSet(functions=tuple(each.for_questions(["What is 1 + 2?"]) for each in plain.each()))
    other = FunctionSet(functions=tuple(each.for_questions(["What is 2 + 2?"]) for each in plain.each()))
    assert len({each.fingerprint for each in (plain, asked, other)}) == 3, "they may be offered to other problems"
    assert plain.fingerprint == "d93f32157b549173", "as in runs of older versions"
    assert plain.source == asked.source
    assert distinct([Update(functions=asked), Update(functions=other)], plain) == [0], "no edit that is worth a rollout"
    assert FunctionSet.model_validate_json(asked.model_dump_json()) == asked
    assert asked.removing("add").functions[0].questions == ("What is 1 + 2?",)


def test_lines_are_counted_as_python_counts_them() -> None:
    source = "def f(x: str) -> str:\n\t'Return \u2028 x.\x0c'\n\treturn math.pi\n"
    lines = with_imports(source, ["math"]).split("\n")
    assert lines == ["def f(x: str) -> str:", "\t'Return \u2028 x.\x0c'", "\timport math", "\treturn math.pi", ""]


def test_names_that_nothing_defines_are_refused() -> None:
    with pytest.raises(FunctionError, match="nothing defines sp: import or define"):
        with_imports(FORGETFUL, ["math"], ["helper"])
    with pytest.raises(FunctionError, match="nothing defines helper"):
        with_imports(FORGETFUL, ["math", "sympy"])


@pytest.mark.parametrize(
    "body",
    [
        "return f(x)",
        "import math\n    return math.pi",
        "global y\n    y = x\n    return y",
        "return [each for each in x if (n := len(each))]",
        "try:\n        return int(x)\n    except ValueError as error:\n        return str(error)",
        "with open(x) as file:\n        return file.read()",
        "class A:\n        y = 1\n    return A().y",
    ],
)
def test_bound_names_are_known(body: str) -> None:
    assert unbound_names(f'def f(x: str) -> Optional[str]:\n    """Do."""\n    {body}\n') == ()
