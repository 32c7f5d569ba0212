"""Functions as the tool definitions of the OpenAI and Anthropic interfaces.

Shapes: OpenAI's function-calling guide for Chat Completions (``{"type", "function": {...}}``) and for Responses (the
same, flat); Anthropic's Messages reference (``{"name", "description", "input_schema"}``). They only describe the
functions. To run the model's calls, use the exported package or the MCP server.
"""

from __future__ import annotations

from typing import Any

from agentopt_local.exporting.portable import portable_specs
from agentopt_local.functions import FunctionSet
from agentopt_local.models.wire import can_be_strict, with_items

MAX_DESCRIPTION = 1024
"""Longest description that OpenAI accepts, in characters."""


def openai_tools(functions: FunctionSet, *, responses: bool = False) -> list[dict[str, Any]]:
    """The ``tools`` of a Chat Completions request, or of a Responses request.

    ``strict`` is set if OpenAI's strict mode accepts the schema: closed objects and no optional parameters.
    """
    tools = []
    for spec in portable_specs(functions):
        described = {
            "name": spec.name,
            "description": _cut(spec.description),
            "parameters": with_items(spec.parameters),
            "strict": can_be_strict(spec.parameters) and with_items(spec.parameters) == spec.parameters,
        }
        tools.append({"type": "function", **described} if responses else {"type": "function", "function": described})
    return tools


def anthropic_tools(functions: FunctionSet) -> list[dict[str, Any]]:
    """The ``tools`` of a Messages request."""
    return [
        {"name": spec.name, "description": spec.description, "input_schema": spec.parameters}
        for spec in portable_specs(functions)
    ]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_DESCRIPTION else text[: MAX_DESCRIPTION - 1] + "…"
