"""A call of a learned function: its arguments are checked, brought into the form that its types declare, and passed on.

Agents, the MCP server, trials and the tests of an export all call functions here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt_local.chat import ToolSpec
from agentopt_local.functions import FunctionSet
from agentopt_local.sandbox.base import Execution, Sandbox
from agentopt_local.signatures import declared
from agentopt_local.tool_calls import check_arguments


def as_declared(spec: ToolSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as Python values of the types that the function declares: 3.0 for an int is 3."""
    return dict(declared(dict(arguments), spec.parameters))


async def call_function(
    sandbox: Sandbox,
    functions: FunctionSet,
    name: str,
    arguments: dict[str, Any],
    *,
    timeout_s: float,
    seed: int = 0,
    offered: FunctionSet | None = None,
) -> Execution:
    """What the function ``name`` does with ``arguments``; it may call all ``functions``. An unknown name and wrong
    arguments are failed executions, with a text for a model to act on. ``offered``: those that may be called; None:
    all. Raises SandboxError if the sandbox could not run it."""
    known = functions if offered is None else offered
    if name not in known:
        names = ", ".join(known.names) or "none"
        return Execution(ok=False, error=f"there is no function {name!r}; there are: {names}")
    spec = functions.get(name).tool_spec()
    if (wrong := check_arguments(spec, arguments)) is not None:
        return Execution(ok=False, error=wrong)
    given = as_declared(spec, arguments)
    return await sandbox.call(functions.source, name, given, timeout_s=timeout_s, seed=seed)
