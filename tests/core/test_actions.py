"""Actions and their grammars: only actions that are legal for the current set can be sampled."""

from __future__ import annotations

import json

import llguidance
import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer

from agentopt_local.actions import (
    AddFunction,
    RemoveFunction,
    ReviseFunction,
    Terminate,
    examples_type,
    header_constraint,
    parse_header,
    source_type,
)
from agentopt_local.chat import Constraint
from agentopt_local.errors import FunctionError
from agentopt_local.functions import Function, FunctionSet

ADD = 'def add(a: int, b: int) -> int:\n    """Return a + b."""\n    return a + b\n'
SUB = 'def sub(a: int, b: int) -> int:\n    """Return a - b."""\n    return a - b\n'
BYTES = LLTokenizer("byte")


def accepts(constraint: Constraint, text: str) -> bool:
    """Whether ``text`` is a whole sentence of a grammar."""
    assert constraint.kind == "grammar"
    matcher = LLMatcher(BYTES, llguidance.LLMatcher.grammar_from_lark(constraint.value))
    assert not matcher.is_error(), matcher.get_error()
    data = text.encode()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


def header(action: str, name: str | None = None) -> str:
    return json.dumps({"action": action} | ({"name": name} if name else {}))


def test_the_header_grammar_knows_the_present_set() -> None:
    constraint = header_constraint(FunctionSet.of(ADD, SUB))
    assert accepts(constraint, header("add_function", "multiply"))
    assert accepts(constraint, header("add_function", "add_all"))
    assert accepts(constraint, header("revise_function", "add"))
    assert accepts(constraint, header("remove_function", "sub"))
    assert accepts(constraint, header("terminate"))
    assert not accepts(constraint, header("add_function", "add"))
    assert not accepts(constraint, header("revise_function", "multiply"))
    assert not accepts(constraint, header("remove_function", "su"))
    assert not accepts(constraint, header("add_function", "print"))
    assert not accepts(constraint, header("add_function", "lambda"))
    assert not accepts(constraint, header("add_function", "python"))


def test_an_empty_set_has_nothing_to_revise_or_remove() -> None:
    constraint = header_constraint(FunctionSet())
    assert accepts(constraint, header("add_function", "add"))
    assert accepts(constraint, header("terminate"))
    assert not accepts(constraint, header("revise_function", "add"))


def test_every_header_of_the_grammar_parses() -> None:
    functions = FunctionSet.of(ADD)
    for text in (header("add_function", "mul"), header("revise_function", "add"), header("terminate")):
        assert accepts(header_constraint(functions), text)
        assert parse_header(text, functions).action == json.loads(text)["action"]


@pytest.mark.parametrize(
    "text",
    ["", "no", "[1]", header("add_function", "add"), header("revise_function", "x"), header("add_function", "a b")],
)
def test_headers_that_are_not_legal_are_refused(text: str) -> None:
    with pytest.raises(FunctionError):
        parse_header(text, FunctionSet.of(ADD))


def test_the_source_grammar_fixes_name_types_and_docstring() -> None:
    constraint = Constraint.of(source_type("mul"))
    good = (
        'def mul(a: int, words: list[str], top: float | None = None, mode: str = "x") -> str:\n'
        '    """Return the product of a and top."""\n    import math\n\n    if a:\n        return f"{a} × {top}"\n'
        "    return str(math.pi)\n"
    )
    assert accepts(constraint, good)
    Function(source=good)
    assert not accepts(constraint, good.replace("def mul", "def div"))
    assert not accepts(constraint, good.replace("a: int", "a"))
    assert not accepts(constraint, good.replace("a: int", "*a: int"))
    assert not accepts(constraint, good.replace('    """Return the product of a and top."""\n', ""))
    assert accepts(constraint, good.replace("Return the", "For problems that ask to multiply: the"))
    assert not accepts(constraint, good.replace("Return the", "Multiplies the"))
    assert not accepts(constraint, good + "print(1)\n")
    assert not accepts(constraint, good.replace("words: list", "lambda: list"))


def test_example_arguments_follow_the_functions_schema() -> None:
    schema = json.loads(Constraint.of(examples_type(Function(source=ADD), 2)).value)
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"problem_1": {"a": 1, "b": 2}, "problem_2": {"a": 3, "b": 4}})
    assert not validator.is_valid({"problem_1": {"a": 1, "b": 2}})
    assert not validator.is_valid({"problem_1": {"a": 1, "b": 2}, "problem_2": {"a": 3, "b": "4"}})


def test_actions_apply() -> None:
    functions = FunctionSet.of(ADD)
    assert AddFunction(function=Function(source=SUB)).apply(functions).names == ("add", "sub")
    revised = Function(source=ADD.replace("return a + b", "return b + a"))
    assert ReviseFunction(function=revised).apply(functions).get("add") == revised
    assert RemoveFunction(name="add").apply(functions) == FunctionSet()
    assert Terminate().apply(functions) is functions
    with pytest.raises(FunctionError):
        AddFunction(function=Function(source=ADD)).apply(functions)
    with pytest.raises(FunctionError):
        RemoveFunction(name="sub").apply(functions)
