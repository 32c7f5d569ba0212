"""Functions: everything is derived from the source, and what JSON cannot represent gets a useful error."""

from __future__ import annotations

import pickle

import pytest

from agentopt_local.errors import FunctionError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.source import clean, unbound_names, with_imports

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
