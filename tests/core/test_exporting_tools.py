"""Tool definitions for the OpenAI and Anthropic APIs."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agentopt_local.errors import ConfigError
from agentopt_local.exporting.tool_json import anthropic_tools, openai_tools
from agentopt_local.functions import FunctionSet

PLAIN = 'def add(a: int, b: int) -> int:\n    """Return a + b."""\n    return a + b\n'
LOOSE = (
    'def loose(rows: list, table: dict[str, list[int]], kind: Literal["a", "b"] = "a") -> str:\n'
    '    """Loose."""\n    return kind\n'
)
CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def test_the_three_shapes() -> None:
    functions = FunctionSet.of(PLAIN)
    described = {"name": "add", "description": "Return a + b.", "parameters": CLOSED, "strict": True}
    assert openai_tools(functions) == [{"type": "function", "function": described}]
    assert openai_tools(functions, responses=True) == [{"type": "function", **described}]
    assert anthropic_tools(functions) == [{"name": "add", "description": "Return a + b.", "input_schema": CLOSED}]


def test_what_openai_would_refuse_is_mended() -> None:
    """An array must say what it holds; strict schemas are closed and have no optional parameter."""
    tool = openai_tools(FunctionSet.of(LOOSE))[0]["function"]
    assert tool["strict"] is False
    assert tool["parameters"]["properties"]["rows"] == {"type": "array", "items": {}}
    assert tool["parameters"]["properties"]["kind"] == {"enum": ["a", "b"], "default": "a"}
    long = PLAIN.replace("Return a + b.", "x" * 2000)
    assert len(openai_tools(FunctionSet.of(long))[0]["function"]["description"]) == 1024
    bare = PLAIN.replace("a: int, b: int", "a: list")
    assert openai_tools(FunctionSet.of(bare))[0]["function"]["strict"] is False


def test_a_name_that_the_interfaces_refuse_is_told() -> None:
    with pytest.raises(ConfigError, match="'größe' cannot be a tool there"):
        anthropic_tools(FunctionSet.of(PLAIN.replace("add", "größe")))


@pytest.mark.parametrize("source", [PLAIN, LOOSE])
def test_the_definitions_are_what_the_vendors_packages_take(source: str) -> None:
    """Their own types, as far as their packages are installed, and JSON Schema."""
    from pydantic import TypeAdapter

    functions = FunctionSet.of(source)
    anthropic = pytest.importorskip("anthropic.types")
    chat = pytest.importorskip("openai.types.chat")
    responses = pytest.importorskip("openai.types.responses")
    checks: list[tuple[Any, list[dict[str, Any]]]] = [
        (chat.ChatCompletionFunctionToolParam, openai_tools(functions)),
        (responses.FunctionToolParam, openai_tools(functions, responses=True)),
        (anthropic.ToolParam, anthropic_tools(functions)),
    ]
    for kind, tools in checks:
        TypeAdapter(list[kind]).validate_python(tools)
        for tool in tools:
            inner = tool.get("function", tool)
            Draft202012Validator.check_schema(inner.get("parameters", inner.get("input_schema")))
