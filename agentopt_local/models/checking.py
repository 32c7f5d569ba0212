"""Whether a reply matches its request, for models that cannot be held to a constraint while they sample."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from agentopt_local.chat import ChatRequest, Constraint, Message
from agentopt_local.json_text import NotJsonError, read_json
from agentopt_local.tool_calls import check_arguments

_FENCED = re.compile(r"\s*```(?:json)?[^\S\n]*\n(.*)\n[^\S\n]*```\s*", re.DOTALL)


def tidy(constraint: Constraint | None, content: str) -> str:
    """``content`` without the fence or white space that unconstrained models put around an answer."""
    if constraint is None or constraint.kind == "turn" or _text_fault(constraint, content) is None:
        return content
    inner = fenced.group(1) if (fenced := _FENCED.fullmatch(content)) else content
    inner = inner.strip()
    forms = (inner, inner + "\n")  # a grammar may demand the final line break, which parsing has removed
    return next((form for form in forms if _text_fault(constraint, form) is None), content)


def fault(request: ChatRequest, message: Message, *, schema_suffices: bool = False) -> str | None:
    """What is wrong with ``message`` as an answer to ``request``, in words for the model; None if nothing is.

    Whatever the constraint, calls must name one of the request's tools and have valid arguments. Text must match the
    constraint; one that cannot be checked here, because it names tokens, counts as met.
    ``schema_suffices``: accept text that fits a grammar's ``json_schema``.
    """
    tools = {tool.name: tool for tool in request.tools}
    for call in message.tool_calls:
        if call.name not in tools:
            return f"There is no function {call.name[:80]!r}. The functions are: {', '.join(tools) or 'none'}."
        if wrong := check_arguments(tools[call.name], call.arguments):
            return f"The call is wrong: {wrong}."
    if request.constraint is None or (message.tool_calls and request.constraint.kind == "turn"):
        return None
    if message.tool_calls:
        return "Answer with text, without a call of a function."
    return _text_fault(request.constraint, message.content, schema_suffices)


def _text_fault(constraint: Constraint, content: str, schema_suffices: bool = True) -> str | None:
    if constraint.kind == "json_schema":
        return _json_fault(constraint.value, content)
    if _matches(constraint.kind, constraint.value, content):
        return None
    if schema_suffices and constraint.json_schema is not None:
        return _json_fault(constraint.json_schema, content)
    if constraint.kind == "turn":
        return f"Answer with one call of a function, or with text that matches {constraint.value[:400]}"
    return f"The answer must match this {constraint.kind}: {constraint.value[:400]}"


def _json_fault(schema: str, content: str) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    try:
        value, end = read_json(content)
        if content[end:].strip():
            raise NotJsonError(f"text follows at character {end}")
    except NotJsonError as error:
        return f"The answer must be one JSON value and nothing else ({error})."
    misfit = best_match(Draft202012Validator(json.loads(schema)).iter_errors(value))
    return (
        None if misfit is None else f"The JSON does not fit its schema: at {misfit.json_path}: {misfit.message[:300]}"
    )


@functools.cache
def _byte_tokenizer() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _matches(kind: str, pattern: str, content: str) -> bool:
    """Whether ``content`` matches a regular expression or a grammar, in linear time and in the dialect that
    engines sample with. Python's ``re`` offers neither."""
    import llguidance

    tokenizer = _byte_tokenizer()
    grammar = llguidance.grammar_from("grammar" if kind == "grammar" else "regex", pattern)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        return True
    tokens = tokenizer.tokenize_bytes(content.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())
