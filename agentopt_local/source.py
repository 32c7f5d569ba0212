"""A function's source as data: its required form, the JSON schema of its arguments, the names it leaves undefined.

Nothing here executes the source. Errors are FunctionErrors with a message that an optimizer can act on.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import inspect
import io
import json
import keyword
import symtable
from collections.abc import Iterable, Iterator
from typing import Any

from agentopt_local.errors import FunctionError
from agentopt_local.json_text import NotJsonError, check_json

MAX_SOURCE_CHARS = 20_000
MAX_DEPTH = 100
"""Deepest nesting of a new source's syntax tree. Compiling and printing use Python's stack, of which a caller may have
used much already."""
MAX_BITS = 13_000
"""Largest whole number in a new source: about 3,900 digits. Python refuses to print one of more than 4,300."""
PLAIN_TYPES = {
    "int": "integer",
    "float": "number",
    "str": "string",
    "bool": "boolean",
    "list": "array",
    "List": "array",
    "dict": "object",
    "Dict": "object",
}
RUNTIME_NAMES = frozenset({"Any", "Dict", "List", "Literal", "Optional", "Union"})
RUNTIME_HEADER = f"from typing import {', '.join(sorted(RUNTIME_NAMES))}\n\n"
"""Precedes the sources when they run, because a ``def`` evaluates its annotations."""
ABBREVIATIONS = {"np": "numpy", "pd": "pandas", "sp": "sympy"}
"""Short names that models use for packages, whether or not they import them."""
TYPES_ALLOWED = "int, float, str, bool, list[...], dict[str, ...], Optional[...], Literal[...]"


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Whatever Python raises for a source in the block, as a FunctionError."""
    try:
        yield
    except SyntaxError as error:
        line = (error.text or "").strip()[:200]
        message = "a number has too many digits" if "integer string conversion" in error.msg else error.msg
        raise FunctionError(f"syntax error in line {error.lineno}: {message}: {line}") from None
    except RecursionError:
        raise FunctionError(f"the source cannot be compiled: {TOO_DEEP}") from None
    except (ValueError, MemoryError) as error:
        raise FunctionError(f"the source cannot be compiled: {error or TOO_DEEP}") from None


TOO_DEEP = (
    f"the code is nested more than {MAX_DEPTH} levels deep. Each call, operator or elif of a chain is a level: "
    "use variables, a loop or a dict"
)


def parsed(source: str) -> ast.Module:
    """The syntax tree of ``source``. Raises FunctionError if it is too long or not Python."""
    if len(source) > MAX_SOURCE_CHARS:
        raise FunctionError(f"the source has {len(source)} characters; at most {MAX_SOURCE_CHARS} are allowed")
    with compiling():
        return ast.parse(source)


def check_limits(source: str) -> None:
    """Raise FunctionError for a source that is Python, but that a later step could fail or hang on.

    Every new source must pass; functions of older runs need not.
    """
    level: list[tuple[ast.AST, bool]] = [(parsed(source), False)]
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[ast.AST, bool]] = []
        for node, guarded in level:
            if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value.bit_length() > MAX_BITS:
                raise FunctionError(f"line {node.lineno}: a number has too many digits; compute it, as in 10**5000")
            ends = getattr(node, "finalbody", None)
            if guarded and ends:  # Python compiles a copy of each block for every way out, so their numbers multiply
                raise FunctionError("a try with finally is inside another one; move it into a function of its own")
            inside = (guarded or bool(ends)) and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            below += [(child, inside) for child in ast.iter_child_nodes(node)]
        if not below:
            return
        level = below
    raise FunctionError(TOO_DEEP)


def check_shown(node: ast.FunctionDef) -> None:
    """Raise FunctionError if a function's docstring or schema cannot be sent to a model."""
    try:
        check_json([ast.get_docstring(node), schema_of(node)])
    except NotJsonError as error:
        raise FunctionError(
            f"{node.name}: its docstring, types or defaults cannot be sent to a model: {error}"
        ) from None


def function_node(source: str) -> ast.FunctionDef:
    """The one top-level ``def`` of ``source``. Raises FunctionError if there is anything else."""
    tree = parsed(source)
    with compiling():
        compile(source, "<function>", "exec", dont_inherit=True)
    definitions = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    if len(definitions) != 1 or not isinstance(definitions[0], ast.FunctionDef):
        kinds = ", ".join(type(node).__name__ for node in definitions) or "nothing"
        raise FunctionError(
            f"the source must be exactly one top-level function (imports may precede it); it has: {kinds}. "
            "Put helpers inside the function."
        )
    node = definitions[0]
    if node.decorator_list:
        raise FunctionError(f"{node.name}: decorators are not allowed")
    if keyword.issoftkeyword(node.name) or node.name.startswith("__"):
        raise FunctionError(f"{node.name!r} cannot be the name of a function here")
    if not (ast.get_docstring(node) or "").strip():
        raise FunctionError(f"{node.name}: the first statement must be a docstring that says what it returns")
    return node


def schema_of(node: ast.FunctionDef) -> dict[str, Any]:
    """JSON schema of a function's arguments. Raises FunctionError for parameters that JSON cannot express."""
    args = node.args
    if args.vararg or args.kwarg:
        star = f"*{args.vararg.arg}" if args.vararg else f"**{args.kwarg.arg if args.kwarg else ''}"
        raise FunctionError(f"{node.name}: {star} has no JSON schema; use a list or dict parameter instead")
    if args.posonlyargs:
        raise FunctionError(f"{node.name}: positional-only parameters cannot be passed by name; remove the '/'")
    defaults: list[ast.expr | None] = [None] * (len(args.args) - len(args.defaults)) + list(args.defaults)
    pairs = list(zip([*args.args, *args.kwonlyargs], [*defaults, *args.kw_defaults], strict=True))
    properties: dict[str, Any] = {}
    required: list[str] = []
    for arg, default in pairs:
        if arg.annotation is None:
            raise FunctionError(f"{node.name}: parameter {arg.arg!r} needs a type: one of {TYPES_ALLOWED}")
        properties[arg.arg] = annotation_schema(arg.annotation, f"{node.name}: parameter {arg.arg!r}")
        if default is None:
            required.append(arg.arg)
        else:
            properties[arg.arg]["default"] = json_literal(default, f"{node.name}: the default of {arg.arg!r}")
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def json_literal(node: ast.expr, where: str) -> Any:
    """The value of a literal that JSON can express; ``where`` begins the error message."""
    try:
        return json.loads(json.dumps(ast.literal_eval(node), allow_nan=False))
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise FunctionError(f"{where} must be a plain JSON literal, not {shown(node)[:80]}") from None


def annotation_schema(node: ast.expr, where: str) -> dict[str, Any]:
    """JSON schema of one annotation; ``where`` begins the error message."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        with contextlib.suppress(SyntaxError, ValueError):  # of the parser: not Python
            return annotation_schema(ast.parse(node.value, mode="eval").body, where)
    if type_name(node) in PLAIN_TYPES:
        return {"type": PLAIN_TYPES[type_name(node)]}
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return {"anyOf": [annotation_schema(node.left, where), annotation_schema(node.right, where)]}
    if isinstance(node, ast.Subscript):
        schema = subscript_schema(node, where)
        if schema is not None:
            return schema
    raise FunctionError(f"{where} has type {shown(node)[:200]}; use one of {TYPES_ALLOWED}")


def subscript_schema(node: ast.Subscript, where: str) -> dict[str, Any] | None:
    """JSON schema of ``X[...]``; None if X is not a supported generic."""
    name = type_name(node.value)
    items = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name in ("list", "List") and len(items) == 1:
        return {"type": "array", "items": annotation_schema(items[0], where)}
    if name in ("dict", "Dict") and len(items) == 2 and type_name(items[0]) == "str":
        return {"type": "object", "additionalProperties": annotation_schema(items[1], where)}
    if name == "Optional" and len(items) == 1:
        return {"anyOf": [annotation_schema(items[0], where), {"type": "null"}]}
    if name == "Union":
        return {"anyOf": [annotation_schema(item, where) for item in items]}
    if name == "Literal" and all(isinstance(item, ast.Constant) for item in items):
        return {"enum": [json_literal(item, where) for item in items]}
    return None


def unbound_names(source: str) -> tuple[str, ...]:
    """Names that ``source`` reads but nothing defines: no parameter, assignment, import, built-in or typing name."""
    scopes = [symtable.symtable(source, "<function>", "exec")]
    for scope in scopes:  # grows while it is iterated over
        scopes += scope.get_children()
    symbols = [symbol for scope in scopes[1:] for symbol in scope.get_symbols() if symbol.is_global()]
    known = {symbol.get_name() for symbol in scopes[0].get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    known |= {symbol.get_name() for symbol in symbols if symbol.is_assigned()} | set(dir(builtins)) | RUNTIME_NAMES
    read = [symbol.get_name() for symbol in symbols if symbol.is_referenced()]
    return tuple(dict.fromkeys(name for name in read if name not in known))


def with_imports(source: str, packages: Iterable[str], others: Iterable[str] = ()) -> str:
    """``source`` with missing imports added: of ``packages``, also under their usual abbreviations such as ``np``.

    ``others``: functions that it may call. Raises FunctionError for any other undefined name, before tokens are spent
    on arguments for a function that cannot work.
    """
    allowed, known = set(packages), set(others)
    lines, undefined = [], []
    for name in unbound_names(source):
        if name in known:
            continue
        package = ABBREVIATIONS.get(name, name)
        if package in allowed:
            lines.append(f"import {package}" + ("" if package == name else f" as {name}"))
        else:
            undefined.append(name)
    if undefined:
        raise FunctionError(f"nothing defines {', '.join(undefined)}: import or define what the function uses")
    if not lines:
        return source
    node = function_node(source)
    first = node.body[1] if len(node.body) > 1 else node.body[0]
    rows = lines_of(source)
    indent = rows[first.lineno - 1][: first.col_offset]
    rows[first.lineno - 1 : first.lineno - 1] = [f"{indent}{line}\n" for line in lines]
    return "".join(rows)


def lines_of(source: str) -> list[str]:
    """The lines of ``source`` with their ends, as Python counts them: only line breaks end a line."""
    return io.StringIO(source, newline="").readlines()


def shown(node: ast.AST) -> str:
    """Code as a message or a signature shows it; an ellipsis where it is nested too deeply to be written."""
    try:
        return ast.unparse(node)
    except (ValueError, RecursionError):
        return "..."


def code_of(source: str) -> str:
    """The code of ``source`` without comments, docstrings and layout: equal code gives equal text.

    Works without recursion and prints no decimal number, so no source is too deep or has too many digits.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    words: list[str] = []
    rest: list[Any] = [tree]
    while rest:
        item = rest.pop()
        if isinstance(item, ast.AST):
            words.append(type(item).__name__)
            rest += [getattr(item, name, None) for name in reversed(item._fields)]
        elif isinstance(item, list):
            words.append(f"[{len(item)}]")
            rest += reversed(item)
        else:
            words.append(hex(item) if type(item) is int else repr(item))
    return " ".join(words)


def type_name(node: ast.expr) -> str:
    """``int`` for ``int``, ``List`` for ``typing.List``; empty for anything that is not a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "typing":
        return node.attr
    return ""


def imports_of(tree: ast.AST) -> frozenset[str]:
    """Top-level packages imported anywhere in ``tree``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else (node.module or "").split(".")[0])
    return frozenset(found)


def clean(source: str) -> str:
    """``source`` dedented and taken out of the Markdown fence in which models like to write it."""
    text = source.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    if "```" in text:
        parts = text.split("```")
        if len(parts) >= 2:
            text = parts[1].split("\n", 1)[-1] if "\n" in parts[1] else parts[1]
    return inspect.cleandoc(text) if text.startswith((" ", "\t")) else text
