"""Signatures: defaults, literals, annotations, and the values that fit them."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt_local.errors import FunctionError
from agentopt_local.functions import Function
from agentopt_local.signatures import declared, fits


def source(parameters: str, returns: str = "str") -> str:
    return f"def f({parameters}) -> {returns}:\n    'Do.'\n    return 1\n"


def schema(parameters: str) -> dict[str, Any]:
    return dict(Function.new(source(parameters)).parameters["properties"]["x"])


NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        pytest.param("x: str = None", {"anyOf": [{"type": "string"}, NULL], "default": None}, id="F2"),
        ("x: list[int] = None", {"anyOf": [{"type": "array", "items": {"type": "integer"}}, NULL], "default": None}),
        ("x: Literal['a'] = None", {"anyOf": [{"enum": ["a"]}, NULL], "default": None}),
        ("x: Literal['a', None] = None", {"enum": ["a", None], "default": None}),
        ("x: int | str = None", {"anyOf": [{"type": "integer"}, {"type": "string"}, NULL], "default": None}),
        ("x: Optional[int] = None", {"anyOf": [{"type": "integer"}, NULL], "default": None}),
        ("x: 'str' = None", {"anyOf": [{"type": "string"}, NULL], "default": None}),
        ("*, x: dict = None", {"anyOf": [{"type": "object"}, NULL], "default": None}),
        ("x: float = 1", {"type": "number", "default": 1}),
        ("x: list[float] = (0, 1.5)", {"type": "array", "items": {"type": "number"}, "default": [0, 1.5]}),
        ("x: int = -1", {"type": "integer", "default": -1}),
        pytest.param("x: Literal[-1, 1] = 1", {"enum": [-1, 1], "default": 1}, id="F3"),
        ("x: Literal[-1.5, +2, 'a', True, None] = -1.5", {"enum": [-1.5, 2, "a", True, None], "default": -1.5}),
        ("x: Literal[1, 1, True, 1.0]", {"enum": [1, True, 1.0]}),
        ("x: typing.Literal[-0] = 0", {"enum": [0], "default": 0}),
        ("x: 'Literal[-1]' = -1", {"enum": [-1], "default": -1}),
    ],
)
def test_the_schema_says_what_may_be_passed(parameters: str, expected: dict[str, Any]) -> None:
    assert schema(parameters) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param("x: Literal['a'] = 'c'", id="F2-literal"),
        pytest.param("x: int = 1.5", id="F2-int"),
        "x: int = 2.0",
        "x: int = True",
        "x: int = '3'",
        "x: bool = 1",
        "x: str = 5",
        "x: float = '1'",
        "x: float = True",
        "x: list[int] = ['a']",
        "x: list[int] = [1, None]",
        "x: dict = {1: 2}",
        "x: dict[str, int] = {'a': 'b'}",
        "x: dict[str, dict[str, int]] = {'a': {1: 1}}",
        "x: int | bool = 'y'",
        "x: Literal[1] = True",
        "x: Literal[-1] = 1",
        "x: None = 0",
        "*, x: int = ''",
    ],
)
def test_a_default_of_another_type_is_refused_when_it_is_new(parameters: str) -> None:
    with pytest.raises(FunctionError, match=r"f: the default of 'x' is .*, which is not of its type .*change one"):
        Function.new(source(parameters))
    assert Function(source=source(parameters)).name == "f", "a run may hold one that an older version kept"


@pytest.mark.parametrize(
    "parameters",
    [
        "x: Literal[()]",
        "x: Literal[-'a']",
        "x: Literal[1 + 2]",
        "x: Literal[[1]]",
        "x: Literal[~1]",
        "x: Union[()]",
        "x: Literal[x.y]",
        "x: list[print(1)]",
        "x: print('ran')",
        "x: 'print(1)'",
        "x: int = print(1)",
        "x: float = 1e999",
        "x: Literal[1e999]",
        "x: str = b'a'",
        "x: str = ...",
    ],
)
def test_what_is_not_a_literal_or_type_is_refused(parameters: str) -> None:
    with pytest.raises(FunctionError, match=r"has type|must be a plain JSON literal"):
        Function.new(source(parameters))


@pytest.mark.parametrize(
    "returns",
    [
        pytest.param("print('ran')", id="row 12"),
        "(lambda: print(1))()",
        "[print(1)]",
        '"print(1)"',
        "(y := 3)",
        "f'{print(1)}'",
        "str if print(1) else int",
        "dict[str, print(1)]",
        "Literal[print(1)]",
        "[x for x in y]",
        "-1",
        "3",
        "'the sum of x'",
        "str and print(1)",
        "int + str",
        "x()[int]",
        "x().y",
        "{'a': int}",
        "(yield)",
    ],
)
def test_a_return_annotation_is_a_type(returns: str) -> None:
    with pytest.raises(FunctionError, match=r"f: the return type must be a type such as str, not|syntax error"):
        Function.new(source("x: int", returns))


@pytest.mark.parametrize(
    "returns",
    [
        "str",
        "None",
        "'None'",
        "int | None",
        pytest.param("Tuple[int, int]", id="F7"),
        "tuple[()]",
        "tuple[int, ...]",
        "'tuple[int, ...]'",
        "np.ndarray",
        "Callable[[int, str], list[int]]",
        "Literal[-1, 'a', None]",
        "typing.Union[int, 'str']",
        "Iterator[dict[str, 'Whatever']]",
    ],
)
def test_types_of_all_kinds_may_be_returned(returns: str) -> None:
    assert Function.new(source("x: int", returns)).name == "f"


@pytest.mark.parametrize(
    ("type_", "given", "expected"),
    [
        pytest.param("int", 3.0, 3, id="F8"),
        ("int", -0.0, 0),
        ("int", 1e20, 10**20),
        ("int", 2.5, 2.5),
        ("int", True, True),
        ("int", "3", "3"),
        ("float", 3, 3),
        ("float", 3.0, 3.0),
        ("str", 3.0, 3.0),
        ("list[int]", [1.0, 2, "a"], [1, 2, "a"]),
        ("list[list[int]]", [[1.0], []], [[1], []]),
        ("list", [1.0], [1.0]),
        ("dict", {"a": 1.0}, {"a": 1.0}),
        ("dict[str, int]", {"a": 1.0}, {"a": 1}),
        ("Optional[int]", 3.0, 3),
        ("Optional[int]", None, None),
        ("int | float", 3.0, 3.0),
        ("int | str", 3.0, 3),
        ("str | list[int]", [3.0], [3]),
        ("Literal[1, 2]", 2.0, 2),
        ("Literal[True]", 1.0, 1.0),
        ("Literal[1, 'a']", True, True),
    ],
)
def test_whole_numbers_are_ints_where_an_int_is_declared(type_: str, given: Any, expected: Any) -> None:
    found = declared(given, schema(f"x: {type_}"))
    assert (found, repr(found)) == (expected, repr(expected))


def test_true_is_not_a_number_and_a_tuple_is_a_list() -> None:
    assert not fits(True, {"type": "integer"})
    assert not fits(1, {"type": "boolean"})
    assert fits((1, 2), {"type": "array", "items": {"type": "integer"}})
    assert not fits({1: 2}, {"type": "object"})
