"""The optimizer's four actions, and the grammars under which they are sampled.

An action is sampled in two phases of one conversation: a header (which action, on which function) and, for add and
revise, the function's source. Small models fail at writing code inside a JSON string, so the source is raw Python. Both
grammars are built with outlines types from the current function set: a name that does not exist cannot be revised or
removed, and a name that exists cannot be added.
"""

from __future__ import annotations

import json
import keyword
from typing import TYPE_CHECKING, Any, Literal, get_args

from agentopt_local.chat import Constraint
from agentopt_local.errors import FunctionError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.json_text import only_object
from agentopt_local.names import MAX_NAME_CHARS, RESERVED, check_name
from agentopt_local.record import Record

if TYPE_CHECKING:  # outlines takes a second to import, which commands that only read a run need not pay
    from outlines.types import CFG, JsonSchema

Arguments = dict[str, Any]


class AddFunction(Record):
    """Add a new function at the end of the set."""

    kind: Literal["add_function"] = "add_function"
    function: Function
    examples: tuple[Arguments, ...] = ()
    """Arguments of the function's trials."""

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    def apply(self, functions: FunctionSet) -> FunctionSet:
        """The set with the function added. Raises FunctionError if the name is taken."""
        return functions.adding(self.function)


class ReviseFunction(Record):
    """Replace a function's source; the name stays."""

    kind: Literal["revise_function"] = "revise_function"
    function: Function
    examples: tuple[Arguments, ...] = ()

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    def apply(self, functions: FunctionSet) -> FunctionSet:
        """The set with the new source. Raises FunctionError if there is no such function."""
        return functions.replacing(self.name, self.function)


class RemoveFunction(Record):
    """Remove a function from the set."""

    kind: Literal["remove_function"] = "remove_function"
    name: str

    def apply(self, functions: FunctionSet) -> FunctionSet:
        """The set without the function. Raises FunctionError if there is no such function."""
        return functions.removing(self.name)


class Terminate(Record):
    """Leave the set as it is and end the step."""

    kind: Literal["terminate"] = "terminate"

    def apply(self, functions: FunctionSet) -> FunctionSet:
        """The same set."""
        return functions


Action = AddFunction | ReviseFunction | RemoveFunction | Terminate
ActionKind = Literal["add_function", "revise_function", "remove_function", "terminate"]


class Header(Record):
    """The first phase of an action: what to do with which function."""

    action: ActionKind
    name: str = ""

    def check(self, functions: FunctionSet) -> None:
        """Raise FunctionError if the header is not legal for ``functions``, which the grammar rules out."""
        if len(self.name) > MAX_NAME_CHARS:
            raise FunctionError(f"a name has at most {MAX_NAME_CHARS} characters, not {len(self.name)}")
        if self.action == "add_function":
            check_name(self.name)
            if self.name in functions:
                raise FunctionError(f"a function {self.name!r} exists already; revise it or choose another name")
        elif self.action != "terminate":
            functions.get(self.name)


HEADER_GRAMMAR = r"""
start: {alternatives}
add: "{{\"action\": \"add_function\", \"name\": \"" NEW_NAME "\"}}"
{existing}terminate: "{{\"action\": \"terminate\"}}"
NEW_NAME: /[a-z][a-z0-9_]{{2,39}}/ & ~/({taken})/
"""
EXISTING_GRAMMAR = r"""revise: "{{\"action\": \"revise_function\", \"name\": \"" OLD_NAME "\"}}"
remove: "{{\"action\": \"remove_function\", \"name\": \"" OLD_NAME "\"}}"
OLD_NAME: /({names})/
"""

SOURCE_GRAMMAR = r"""
start: ["```python\n"] "def {name}(" {parameters} ") -> " type ":\n" doc line{{1,{max_lines}}} [/```\n?/]
params: param (", " param)*
param: PARAM ": " type [" = " literal]
type: base | base " | None"
base: "int" | "float" | "str" | "bool" | "list[" base "]" | "list[list[" base "]]" | "dict[str, " base "]"
literal: "None" | "True" | "False" | /-?[0-9]{{1,9}}(\.[0-9]{{1,9}})?/ | /"[^"\\\n]{{0,40}}"/ | /'[^'\\\n]{{0,40}}'/
doc: "    \"\"\"" ("For problems that ask to " | "Return ") DOCTEXT "\"\"\"\n"
DOCTEXT: /[^"\\\n ][^"\\\n]+/
line: CODE | BLANK
CODE: /( {{4}}){{1,8}}[^ \t\n#`][^\n]*\n/
BLANK: /\n/
PARAM: /[a-z][a-z0-9_]{{0,29}}/ & ~/({keywords})/
"""


def header_type(functions: FunctionSet) -> CFG:
    """The outlines type of a header that is legal for ``functions``."""
    from outlines.types import CFG

    names = functions.names
    chosen = ["add", "revise", "remove", "terminate"] if names else ["add", "terminate"]
    return CFG(
        HEADER_GRAMMAR.format(
            alternatives=" | ".join(chosen),
            existing=EXISTING_GRAMMAR.format(names="|".join(names)) if names else "",
            taken="|".join(sorted(RESERVED | set(names))),
        )
    )


def source_type(name: str, max_lines: int = 40, *, one_text: bool = False) -> CFG:
    """The outlines type of the source of a function called ``name``. ``one_text``: its only parameter is a str.

    The grammar fixes the name, typed non-variadic parameters, a docstring and the indentation. Statements are free
    text, checked by ``compile`` afterwards: a grammar that covers less Python than the model knows distorts what it
    writes. The docstring must open in one of two ways. Otherwise it describes what the code does ("Reverse a string"),
    and an agent does not recognize its problem ("Spell this word backward") in it. A fence is allowed because a model
    that cannot close one does not know how to end, and it would fill the budget with comments, so lines that hold only
    a comment are not. The closing fence may include a line break: Qwen's tokenizer has one token for both.
    """
    from outlines.types import CFG

    keywords = "|".join(sorted(keyword.kwlist))
    parameters = 'PARAM ": str"' if one_text else "[params]"
    return CFG(SOURCE_GRAMMAR.format(name=name, max_lines=max_lines, keywords=keywords, parameters=parameters))


def examples_type(function: Function, n: int) -> JsonSchema:
    """The outlines type of ``n`` sets of arguments for ``function``: ``{"problem_1": {...}, ...}``."""
    from outlines.types import JsonSchema

    keys = [f"problem_{i + 1}" for i in range(n)]
    return JsonSchema(
        {
            "type": "object",
            "properties": dict.fromkeys(keys, function.parameters),
            "required": keys,
            "additionalProperties": False,
        }
    )


def header_constraint(functions: FunctionSet) -> Constraint:
    """:func:`header_type` as a constraint for a request.

    It also carries the closest JSON schema, for endpoints that do not accept grammars. What a schema cannot express,
    such as which names exist, is checked by :func:`parse_header`.
    """
    kinds = list(get_args(ActionKind)) if functions.names else ["add_function", "terminate"]
    schema = {
        "type": "object",
        "properties": {"action": {"enum": kinds}, "name": {"type": "string"}},
        "required": ["action", "name"],
        "additionalProperties": False,
    }
    return Constraint.of(header_type(functions)).model_copy(update={"json_schema": json.dumps(schema)})


def parse_header(text: str, functions: FunctionSet) -> Header:
    """The header in ``text``. Raises FunctionError if there is none, or it is not legal for ``functions``."""
    try:
        header = Header.model_validate(only_object(text))
    except ValueError:
        raise FunctionError(
            'reply with one JSON object: {"action": "add_function" | "revise_function" | "remove_function" | '
            f'"terminate", "name": "..."}}, not {text[:80]!r}'
        ) from None
    header.check(functions)
    return header
