"""Calls that are not one JSON object: elements with parameters, pairs of keys and values, Python's own calls."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from typing import Any

from agentopt_local.call_arguments import read_arguments, typed
from agentopt_local.chat import ToolCall, ToolSpec
from agentopt_local.json_escapes import repaired
from agentopt_local.json_text import NotJsonError, check_json, read_json

_NAMESPACE = r"(?:｜\w{1,10}｜|\w{1,10}:)?"
"""A namespace of tags, such as that of DeepSeek."""
ELEMENT = re.compile(rf"<{_NAMESPACE}(?:function|invoke)(?: ?= ?| +name *= *)[\"']?[\w.-]+[\"']?\s*/?>")
"""Opens a call in the form of Qwen3-Coder, or in that of Claude and MiniMax."""
_NAME = re.compile(r"([\w.-]+)[\"']?\s*/?>\Z")
_END = re.compile(rf"</{_NAMESPACE}(?:function|invoke)>|</tool_call>|<{_NAMESPACE}(?:function|invoke)[= ]")
_PARAMETER = re.compile(
    rf"\s*<{_NAMESPACE}(?:parameter|param|argument)(?: ?= ?| +name *= *)[\"']?([^<>\"'\s=]+)[\"']?[^<>\n]*>"
)
_PARAMETER_END = re.compile(
    rf"</{_NAMESPACE}(?:parameter|param|argument)>|(?=\n[^\S\n]*<(?:parameter|param)[= ])|(?=\n?</(?:function|invoke)>)"
)
_SPACE = re.compile(r"\s*")
PAIRS = re.compile(r"([\w.-]+)\s*(?=<arg_key>|</tool_call>)")
"""Opens a call in GLM's form."""
_PAIR = re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>")
_PAIR_END = "</arg_value>"
_LIST = re.compile(
    r"\s*+(?:<\|python_tag\|>|<\|tool_call_start\|>)?\s*+(?=\[\s*+(?:functions\.)?([A-Za-z_]\w*)(?:\.call)?\()"
)
_LIST_END = re.compile(r"\s*(?:<\|tool_call_end\|>|<\|eot_id\|>|<\|eom_id\|>)?\s*\Z")
_STRING = re.compile(r"\"((?:[^\"\\]|\\.)*+)\"|'((?:[^'\\]|\\.)*+)'", re.DOTALL)
PYTHON_CALLS = re.compile(r"(?:\[\s{0,9})?(?:functions\.)?[A-Za-z_]\w*(?:\.call)?\(")
_PYTHON = re.compile(rf"(?:[^<\"']|<(?!/?\|?\w)|{_STRING.pattern})*+", re.DOTALL)
"""Up to the next mark or the beginning of a string without an end."""
MAX_LIST_CHARS = 20_000
"""Longest list of calls in Python that is read."""

Read = tuple[list[ToolCall], int]
"""Calls, and the offset of their end; without calls, the offset up to which the text was read."""


def read_element(text: str, at: int, known: Mapping[str, ToolSpec], *, tagged: bool = False) -> Read:
    """The call whose element begins at ``at``; ``tagged``: it is in a tag for calls, so that any name counts.

    Its arguments are elements, whose text gets the types of the tool's schema, or one JSON object. Without either, and
    without an end, it is not a call.
    """
    opening = ELEMENT.match(text, at)
    found = _NAME.search(opening[0]) if opening else None
    name = known_name(found[1], known) if found else ""
    if opening is None or not (tagged or name in known):
        return [], at
    if opening[0].endswith("/>"):
        return _checked(name, {}), opening.end()
    properties = _properties(name, known)
    arguments: dict[str, Any] = {}
    here = opening.end()
    while parameter := _PARAMETER.match(text, here):
        end = _PARAMETER_END.search(text, parameter.end())
        if end is None:
            return [], len(text)
        value = _without_line_breaks(text[parameter.end() : end.start()])
        arguments[parameter[1]] = typed(value, properties.get(parameter[1]))
        here = end.end()
    space = _SPACE.match(text, here)
    here = space.end() if space else here
    if not arguments and text.startswith("{", here):
        try:
            value, here = read_json(text, here)
        except NotJsonError as error:
            return [], error.reached
        given = read_arguments(value)
        return ([ToolCall(name=name, arguments=given[0])] if given else []), here
    whole = _END.match(text, here)  # half a call is not what the model meant
    return (_checked(name, arguments) if whole else []), here


def read_pairs(text: str, at: int, known: Mapping[str, ToolSpec]) -> Read:
    """A name and its arguments, as ``<arg_key>`` and ``<arg_value>``."""
    opening = PAIRS.match(text, at)
    if opening is None:
        return [], at
    properties = _properties(opening[1], known)
    arguments: dict[str, Any] = {}
    here = opening.end()
    while pair := _PAIR.match(text, here):
        end = text.find(_PAIR_END, pair.end())
        if end < 0:
            return [], len(text)
        key = pair[1].strip()
        arguments[key] = typed(_without_line_breaks(text[pair.end() : end]), properties.get(key))
        here = end + len(_PAIR_END)
    return (_checked(opening[1], arguments) if arguments or opening[1] in known else []), here


def _properties(name: str, known: Mapping[str, ToolSpec]) -> dict[str, Any]:
    properties: dict[str, Any] = known[name].parameters.get("properties", {}) if name in known else {}
    return properties


def _checked(name: str, arguments: dict[str, Any]) -> list[ToolCall]:
    try:
        check_json(arguments)
    except NotJsonError:
        return []
    return [ToolCall(name=name, arguments=arguments)]


def _without_line_breaks(text: str) -> str:
    return text.removeprefix("\r").removeprefix("\n").removesuffix("\n").removesuffix("\r")


def known_name(name: str, known: Mapping[str, ToolSpec]) -> str:
    """``name`` without what models write around the name of a tool: quotes, a namespace, marks."""
    if name in known:
        return name
    bare = re.split(r"<\||\(", name.strip(" \t`'\"*"), maxsplit=1)[0].strip()
    return next((each for each in (bare, re.split(r"[.:/]", bare)[-1]) if each in known), name)


def read_calls(text: str, at: int, known: Mapping[str, ToolSpec]) -> Read:
    """Calls as Python writes them, up to the next mark."""
    written = _PYTHON.match(text, at, at + MAX_LIST_CHARS)
    assert written is not None
    end = written.end()
    # A string without an end was read in vain up to the limit.
    return _python_calls(written[0].strip(), known), at + MAX_LIST_CHARS if text[end : end + 1] in ("'", '"') else end


def read_list(text: str, known: Mapping[str, ToolSpec]) -> list[ToolCall]:
    """The calls of a reply that is nothing but a list of them in Python: ``[area(w=3, h=4), today()]``."""
    opening = _LIST.match(text)
    if opening is None or opening[1] not in known:
        return []
    ending = _LIST_END.search(text, max(0, len(text.rstrip()) - 40))
    return _python_calls(text[opening.end() : ending.start() if ending else len(text)], known)


def _python_calls(source: str, known: Mapping[str, ToolSpec]) -> list[ToolCall]:
    """The calls that are all of ``source``: statements, or items of a list."""
    if len(source) > MAX_LIST_CHARS:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statements = ast.parse(_STRING.sub(_repaired, source)).body
            values = [each.value if isinstance(each, ast.Expr) else each for each in statements]
            nodes = [
                node for each in values for node in (each.elts if isinstance(each, ast.List | ast.Tuple) else [each])
            ]
            calls = [_python_call(node, known) for node in nodes]
            check_json([call.arguments for call in calls])
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []
    return calls


def read_loose_arguments(tool: ToolSpec, given: str) -> list[dict[str, Any]]:
    """What the arguments in a text that is no JSON object may be: of a call of the tool, values in order, or pairs such
    as ``w: 3, h=4``. The first that fits the tool is meant."""
    known = {tool.name: tool}
    inside = given.strip("`{}()[] \t\n")
    calls = (given, *(f"{tool.name}({each})" for each in (given, inside, _as_keywords(tool, inside))))
    return [read[0].arguments for call in calls if (read := read_list(f"[{call}]", known))]


def _as_keywords(tool: ToolSpec, pairs: str) -> str:
    """``pairs`` with each name of a parameter outside of quotation marks as Python writes it."""
    names = "|".join(map(re.escape, _properties(tool.name, {tool.name: tool})))
    written = rf"(?:\A|(?<![\s,;])[\s,;]++)[\"']?({names})[\"']?\s*[:=]\s*|{_STRING.pattern}"
    return re.sub(written, lambda m: f", {m[1]}=" if m[1] else m[0], pairs, flags=re.DOTALL).removeprefix(", ")


def _repaired(string: re.Match[str]) -> str:
    quote = string[0][0]
    inside = string[0][1:-1].replace("\\'", "'" if quote == '"' else "\\x27")
    return quote + repaired(inside).replace("\\\\x27", "\\x27").replace("\n", "\\n") + quote


def _python_call(node: ast.AST, known: Mapping[str, ToolSpec]) -> ToolCall:
    """Raises ValueError for anything but a call of a known name with plain values."""
    name = ast.unparse(node.func).removeprefix("functions.").removesuffix(".call") if isinstance(node, ast.Call) else ""
    if not isinstance(node, ast.Call) or name not in known:
        raise ValueError("not a call")
    names = list(_properties(name, known))
    if len(node.args) > len(names):
        raise ValueError("too many arguments")
    if len(node.args) == 1 and isinstance(node.args[0], ast.Dict) and not node.keywords:
        given = ast.literal_eval(node.args[0])
        if given and set(given) <= set(names):  # all arguments as one object
            return ToolCall(name=name, arguments=given)
    values = dict(zip(names, node.args, strict=False)) | {str(each.arg): each.value for each in node.keywords}
    return ToolCall(name=name, arguments={key: ast.literal_eval(value) for key, value in values.items()})
