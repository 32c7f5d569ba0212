"""Functions as learnable parameters: values defined by their Python source alone.

A function's name, description and JSON schema are read from its source, so they cannot contradict it. Nothing here
executes the source.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from pydantic import field_validator

from agentopt_local.chat import ToolSpec
from agentopt_local.errors import FunctionError
from agentopt_local.names import bindings, check_names
from agentopt_local.record import Record, fingerprint
from agentopt_local.sandbox.zygote.imports import PACKAGES
from agentopt_local.signatures import check_signature, schema_of
from agentopt_local.source import RUNTIME_HEADER, code_of, compiling, function_node, imports_of, shown, without_future
from agentopt_local.source_limits import check_limits
from agentopt_local.tool_calls import encodable

MAX_QUESTIONS, MAX_QUESTION_CHARS = 8, 1000
"""How many source questions a function keeps, and how much of each: enough to tell its problems from others."""


class Function(Record):
    """One function that an agent may call.

    The source is one top-level ``def`` with typed, non-variadic parameters and a docstring; imports may precede it.
    Anything else raises FunctionError with a message that an optimizer can act on.
    """

    source: str
    """Python source; ends with one newline."""
    questions: tuple[str, ...] = ()
    """Source questions: of problems that it was written for. They say which problems it is offered to, nothing else."""

    @field_validator("source")
    @classmethod
    def _check(cls, source: str) -> str:
        source = without_future(source).strip("\n").rstrip() + "\n"
        with compiling():
            schema_of(function_node(source))
        return source

    @staticmethod
    def new(source: str) -> Function:
        """A function that a model or a file offers: the one way into a set for a new function.

        Raises FunctionError also for what is legal, but what a later step would fail or hang on (code that is nested
        too deeply, numbers with thousands of digits, a docstring that cannot be sent), and for what misleads: a default
        of another type, a name that hides another. A run's own files are read without these limits, because an older
        version may have kept such a function.
        """
        source = without_future(source)
        check_limits(source)
        function = Function(source=source)
        with compiling():
            check_names(ast.parse(function.source), node := function._node)
            check_signature(node)
        return function

    def for_questions(self, questions: Iterable[str]) -> Function:
        """The function with further source questions; the latest MAX_QUESTIONS are kept, each cut to its beginning."""
        known = dict.fromkeys((*self.questions, *(each[:MAX_QUESTION_CHARS] for each in questions)))
        return self.model_copy(update={"questions": tuple(known)[-MAX_QUESTIONS:]})

    @property  # not kept: a syntax tree may be too deep to be pickled, and what is kept is pickled
    def _node(self) -> ast.FunctionDef:
        return function_node(self.source)

    @cached_property
    def name(self) -> str:
        """The name of the ``def``."""
        return self._node.name

    @cached_property
    def description(self) -> str:
        """The docstring."""
        return encodable(ast.get_docstring(self._node) or "")

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """JSON schema of the arguments, with ``required``."""
        schema: dict[str, Any] = json.loads(encodable(json.dumps(schema_of(self._node), ensure_ascii=False)))
        return schema

    @cached_property
    def signature(self) -> str:
        """``name(a: int, b: str = 'x') -> str``."""
        node = self._node
        returns = f" -> {shown(node.returns)}" if node.returns else ""
        return f"{node.name}({shown(node.args)}){returns}"

    @cached_property
    def imports(self) -> frozenset[str]:
        """Top-level packages that the source imports anywhere."""
        return imports_of(ast.parse(self.source))

    @cached_property
    def bindings(self) -> dict[str, str]:
        """The names that its imports above the ``def`` bind, with what each means: ``{"sqrt": "math.sqrt"}``."""
        return bindings(ast.parse(self.source))

    def tool_spec(self) -> ToolSpec:
        """The function as a model sees it."""
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters)

    def normalized(self) -> str:
        """The source without comments, docstrings and formatting: equal code gives equal text."""
        return code_of(self.source)

    def nameless(self) -> str:
        """:meth:`normalized` without the function's name."""
        return re.sub(rf"(FunctionDef|Name) '{self.name}'", r"\1 '_'", self.normalized())


class FunctionSet(Record):
    """An immutable, ordered set of functions with distinct names."""

    functions: tuple[Function, ...] = ()

    @field_validator("functions")
    @classmethod
    def _distinct(cls, functions: tuple[Function, ...]) -> tuple[Function, ...]:
        counts = Counter(function.name for function in functions)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise FunctionError(f"two functions are called {', '.join(twice)}; names must differ")
        return functions

    @staticmethod
    def of(*sources: str) -> FunctionSet:
        """A set made from sources."""
        return FunctionSet(functions=tuple(Function(source=source) for source in sources))

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(function.name for function in self.functions)

    @cached_property
    def source(self) -> str:
        """All sources, one after another, ready to execute; empty for the empty set.

        The sandbox holds them to the packages that the first line names, which are those that they visibly import.
        """
        if not self.functions:
            return ""
        packages = ", ".join(sorted(frozenset().union(*(each.imports for each in self.functions)))) or "none"
        return f"{PACKAGES} {packages}\n{RUNTIME_HEADER}" + "\n\n".join(each.source for each in self.functions)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that depend on all sources, their order, and source questions where there are any."""
        return fingerprint([[each.source, *each.questions] if each.questions else each.source for each in self.each()])

    def __len__(self) -> int:
        return len(self.functions)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def each(self) -> Iterator[Function]:
        """The functions in order."""
        return iter(self.functions)

    def get(self, name: str) -> Function:
        """The function called ``name``. Raises FunctionError listing the names that exist."""
        for function in self.functions:
            if function.name == name:
                return function
        raise FunctionError(f"there is no function {name!r}; there are: {', '.join(self.names) or 'none'}")

    def adding(self, function: Function) -> FunctionSet:
        """A set with ``function`` added at the end. Raises FunctionError if the name is taken."""
        if function.name in self:
            raise FunctionError(f"a function {function.name!r} exists already; revise it or choose another name")
        self._check_beside(function)
        return FunctionSet(functions=(*self.functions, function))

    def replacing(self, name: str, function: Function) -> FunctionSet:
        """A set with ``function`` in place of the one called ``name``."""
        old = self.get(name)
        self.removing(name)._check_beside(function)
        return FunctionSet(functions=tuple(function if each is old else each for each in self.functions))

    def _check_beside(self, function: Function) -> None:
        """Raise FunctionError if ``function`` and one of the set mean different things by a name that both share."""
        for each in self.functions:
            for one, other in ((function, each), (each, function)):
                for name, target in one.bindings.items():
                    meant = f"the function {name}" if name == other.name else other.bindings.get(name, target)
                    if target != meant:
                        raise FunctionError(
                            f"{one.name} imports {target} as {name!r}, which in {other.name} is {meant}: all functions "
                            "share these names, so move the import into the function"
                        )

    def removing(self, name: str) -> FunctionSet:
        """A set without the function called ``name``."""
        old = self.get(name)
        return FunctionSet(functions=tuple(each for each in self.functions if each is not old))

    def keeping(self, names: frozenset[str]) -> FunctionSet:
        """A set of only the functions whose names are in ``names``."""
        return FunctionSet(functions=tuple(each for each in self.functions if each.name in names))

    def tool_specs(self) -> tuple[ToolSpec, ...]:
        """The functions as a model sees them."""
        return tuple(function.tool_spec() for function in self.functions)


def one_text_parameter(function: Function) -> str | None:
    """The name of a function's only parameter if that is a text; None otherwise."""
    properties = function.parameters["properties"]
    return next(iter(properties)) if [each.get("type") for each in properties.values()] == ["string"] else None


def render_value(value: Any) -> str:
    """A function's value as a model reads it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
