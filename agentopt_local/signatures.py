"""A function's signature as data: the JSON schema of its arguments, and which values fit a schema.

Nothing here executes a source. Errors are FunctionErrors with a message that an optimizer can act on.
"""

from __future__ import annotations

import ast
import contextlib
import json
from typing import Any

from agentopt_local.errors import FunctionError
from agentopt_local.json_text import NotJsonError, check_json
from agentopt_local.source import shown, type_name
from agentopt_local.unicode_form import normal_marks

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
TYPES_ALLOWED = "int, float, str, bool, list[...], dict[str, ...], Optional[...], Literal[...]"
NULL: dict[str, Any] = {"type": "null"}


def schema_of(node: ast.FunctionDef) -> dict[str, Any]:
    """JSON schema of a function's arguments. Raises FunctionError for parameters that JSON cannot express.

    A parameter whose default is None may be null, whatever its annotation says: callers copy defaults.
    """
    args = node.args
    if args.vararg or args.kwarg:
        star = f"*{args.vararg.arg}" if args.vararg else f"**{args.kwarg.arg if args.kwarg else ''}"
        raise FunctionError(f"{node.name}: {star} has no JSON schema; use a list or dict parameter instead")
    if args.posonlyargs:
        raise FunctionError(f"{node.name}: positional-only parameters cannot be passed by name; remove the '/'")
    properties: dict[str, Any] = {}
    required: list[str] = []
    for arg, default in parameters_of(node):
        if arg.annotation is None:
            raise FunctionError(f"{node.name}: parameter {arg.arg!r} needs a type: one of {TYPES_ALLOWED}")
        schema = annotation_schema(arg.annotation, f"{node.name}: parameter {arg.arg!r}")
        if default is None:
            required.append(arg.arg)
        else:
            value = json_literal(default, f"{node.name}: the default of {arg.arg!r}")
            schema = {**(schema if value is not None else or_null(schema)), "default": value}
        properties[arg.arg] = schema
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def parameters_of(node: ast.FunctionDef) -> list[tuple[ast.arg, ast.expr | None]]:
    """The parameters that can be passed by name, each with its default; None if it has none."""
    args = node.args
    defaults: list[ast.expr | None] = [None] * (len(args.args) - len(args.defaults)) + list(args.defaults)
    return list(zip([*args.args, *args.kwonlyargs], [*defaults, *args.kw_defaults], strict=True))


def check_signature(node: ast.FunctionDef) -> None:
    """Raise FunctionError for a new function whose signature misleads a caller, or cannot be sent to a model.

    That is: a default that does not fit its type, a return annotation that is not a type, and a docstring or schema
    that is not text.
    """
    for (arg, default), schema in zip(parameters_of(node), schema_of(node)["properties"].values(), strict=True):
        if default is not None and not fits(ast.literal_eval(default), schema):
            raise FunctionError(
                f"{node.name}: the default of {arg.arg!r} is {shown(default)[:80]}, which is not of its type "
                f"{shown(arg.annotation or default)[:80]}; change one of them"
            )
    if node.returns is not None and not is_type(node.returns):
        raise FunctionError(f"{node.name}: the return type must be a type such as str, not {shown(node.returns)[:80]}")
    try:
        check_json([ast.get_docstring(node), schema_of(node)])
    except NotJsonError as error:
        raise FunctionError(
            f"{node.name}: its docstring, types or defaults cannot be sent to a model: {error}"
        ) from None


def json_literal(node: ast.expr, where: str) -> Any:
    """The value of a literal that JSON can express; ``where`` begins the error message."""
    try:
        return json.loads(json.dumps(ast.literal_eval(node), allow_nan=False))
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise FunctionError(f"{where} must be a plain JSON literal, not {shown(node)[:80]}") from None


def annotation_schema(node: ast.expr, where: str) -> dict[str, Any]:
    """JSON schema of one annotation; ``where`` begins the error message."""
    if (quoted := unquoted(node)) is not None:
        return annotation_schema(quoted, where)
    if type_name(node) in PLAIN_TYPES:
        return {"type": PLAIN_TYPES[type_name(node)]}
    if isinstance(node, ast.Constant) and node.value is None:
        return NULL
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return {"anyOf": [annotation_schema(node.left, where), annotation_schema(node.right, where)]}
    if isinstance(node, ast.Subscript):
        schema = subscript_schema(node, where)
        if schema is not None:
            return schema
    raise FunctionError(f"{where} has type {shown(node)[:200]}; use one of {TYPES_ALLOWED}")


def unquoted(node: ast.expr) -> ast.expr | None:
    """The annotation that a text contains; None for anything else and for a text that is not Python."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        with contextlib.suppress(SyntaxError, ValueError):
            if normal_marks(node.value) == node.value:
                return ast.parse(node.value.strip(), mode="eval").body
    return None


def subscript_schema(node: ast.Subscript, where: str) -> dict[str, Any] | None:
    """JSON schema of ``X[...]``; None if X is not a supported generic."""
    name = type_name(node.value)
    items = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name in ("list", "List") and len(items) == 1:
        return {"type": "array", "items": annotation_schema(items[0], where)}
    if name in ("dict", "Dict") and len(items) == 2 and type_name(items[0]) == "str":
        return {"type": "object", "additionalProperties": annotation_schema(items[1], where)}
    if name == "Optional" and len(items) == 1:
        return {"anyOf": [annotation_schema(items[0], where), NULL]}
    if name == "Union" and items:
        return {"anyOf": [annotation_schema(item, where) for item in items]}
    if name == "Literal" and items and all(is_scalar(item) for item in items):
        values = [json_literal(item, where) for item in items]
        return {"enum": list({(type(value), value): value for value in values}.values())}
    return None


def is_scalar(node: ast.expr) -> bool:
    """Whether code is one number, text, True, False or None, perhaps with a sign."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return isinstance(node.operand, ast.Constant) and type(node.operand.value) in (int, float)
    return isinstance(node, ast.Constant)


def is_type(node: ast.expr) -> bool:
    """Whether an annotation only names types: nothing in it could be run."""
    node = unquoted(node) or node
    inner: list[ast.expr] = []
    if isinstance(node, ast.Subscript):
        inner = [node.value, *parts(node.slice)]
        if type_name(node.value) in ("Literal", "Annotated"):
            inner = [each for each in inner if not is_scalar(each)]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        inner = [node.left, node.right]
    elif isinstance(node, ast.List | ast.Tuple):  # as in Callable[[int], str] and tuple[()]
        inner = node.elts
    elif isinstance(node, ast.Attribute):
        inner = [node.value]
    else:
        return isinstance(node, ast.Name) or (
            isinstance(node, ast.Constant) and (node.value is None or node.value is ...)
        )
    return all(is_type(each) for each in inner)


def parts(node: ast.expr) -> list[ast.expr]:
    """What stands between the brackets of ``X[...]``."""
    return node.elts if isinstance(node, ast.Tuple) else [node]


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema``, which also allows null."""
    return schema if fits(None, schema) else {"anyOf": [*schema.get("anyOf", [schema]), NULL]}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a Python value is of the type that a schema of :func:`schema_of` was made from: 1.0 is not an int."""
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if "enum" in schema:
        return any(same(value, each) for each in schema["enum"])
    kind = schema["type"]
    if kind == "array":
        inner = schema.get("items")
        return isinstance(value, list | tuple) and all(inner is None or fits(each, inner) for each in value)
    if kind == "object":
        inner = schema.get("additionalProperties")
        return isinstance(value, dict) and all(
            isinstance(key, str) and (inner is None or fits(each, inner)) for key, each in value.items()
        )
    return type(value) in _PYTHON[kind]


_PYTHON: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
}


def same(value: Any, other: Any) -> bool:
    """Equality that tells 1 from True."""
    return type(value) is type(other) and bool(value == other)


def declared(value: Any, schema: dict[str, Any]) -> Any:
    """``value`` with whole numbers written as 3.0 as an int where its schema wants one: in JSON they are the same."""
    if "anyOf" in schema:
        options = [value, *(declared(value, each) for each in schema["anyOf"])]
        return next((each for each in options if fits(each, schema)), value)
    if "enum" in schema:
        equal = (each for each in schema["enum"] if not isinstance(each, bool) and not isinstance(value, bool))
        return next((each for each in equal if each == value), value)
    kind = schema.get("type")
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind == "array" and isinstance(value, list) and "items" in schema:
        return [declared(each, schema["items"]) for each in value]
    if kind == "object" and isinstance(value, dict):
        inner = schema.get("additionalProperties")
        each_of = schema.get("properties", {})
        return {
            key: declared(each, each_of.get(key, inner)) if each_of.get(key, inner) else each
            for key, each in value.items()
        }
    return value
