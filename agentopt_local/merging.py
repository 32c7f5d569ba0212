"""Near-duplicates in a set: functions with equal code, or with equal results for all arguments that are known.

Two that do the same cost the prompt of every rollout twice, and split what is learned about when to call them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentopt_local.actions import AddFunction, Arguments, RemoveFunction, ReviseFunction
from agentopt_local.calling import as_declared
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.leaving_out import calls
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.tool_calls import check_arguments
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import ActionCounts, Update, Verified

LEAST = 3
"""Distinct arguments on which both must have run: fewer agree by chance."""
MOST = 32
"""Distinct arguments that functions are called with, at most."""
Results = list[str | None]
"""What a function returned on each of the arguments, as JSON; None after an error."""


async def merge_update(
    functions: FunctionSet,
    examples: Mapping[str, Sequence[Arguments]],
    rollouts: Sequence[Trajectory],
    sandbox: Sandbox,
    timeout_s: float,
) -> Update:
    """An update that removes what is there twice; its set equals ``functions`` if nothing is.

    ``examples``: known arguments by function, as of :func:`examples_of`; those of direct calls in ``rollouts`` are
    added. ``timeout_s``: of one call, s. Raises SandboxError.
    """
    returned: dict[str, Results] = {}
    for alike in same_types(functions):
        known = [each for function in alike for each in arguments_of(function, examples, rollouts)]
        distinct = list({json.dumps(each, sort_keys=True): each for each in known}.values())[:MOST]
        for function in alike if len(distinct) >= LEAST else ():
            given = [named(function, each) for each in distinct]
            executions = await sandbox.call_many(functions.source, function.name, given, timeout_s=timeout_s)
            returned[function.name] = [
                json.dumps(each.value, sort_keys=True) if each.ok else None for each in executions
            ]
    update = Update(functions=functions)
    for name in duplicates(functions, returned, rollouts):
        update = update.applying(Verified(action=RemoveFunction(name=name)))
    return update.model_copy(update={"counts": ActionCounts()})  # no model has sampled these actions


def duplicates(functions: FunctionSet, returned: Mapping[str, Results], rollouts: Sequence[Trajectory]) -> list[str]:
    """Names of the functions that do what another one does, which was used in more of ``rollouts`` or, where both were
    in as many, is older. A function that others call stays.

    ``returned``: by function; results of functions whose parameters have the same types are for the same arguments.
    """
    used = {name: sum(each.used(name) for each in rollouts) for name in functions.names}
    needed = frozenset[str]().union(*calls(functions).values()) if functions.functions else frozenset()
    ranked = sorted(functions.each(), key=lambda each: (each.name not in needed, -used[each.name]))
    kept: list[Function] = []
    found = []
    for each in ranked:
        twice = any(same(each, other, returned) for other in kept)
        if twice and each.name not in needed:
            found.append(each.name)
        else:
            kept.append(each)
    return found


def same(one: Function, other: Function, returned: Mapping[str, Results]) -> bool:
    """Whether two functions have equal code, or the same parameter types and equal, varied results."""
    if one.nameless() == other.nameless():
        return True
    if types(one) != types(other) or one.name not in returned or other.name not in returned:
        return False
    pairs = list(zip(returned[one.name], returned[other.name], strict=True))
    both = [left for left, right in pairs if left is not None and right is not None]
    return all(left == right for left, right in pairs) and len(both) >= LEAST and len(set(both)) > 1


def same_types(functions: FunctionSet) -> list[list[Function]]:
    """The functions of a set whose parameters have the same types in the same order, where there are two or more."""
    found: dict[str, list[Function]] = {}
    for each in functions.each():
        found.setdefault(types(each), []).append(each)
    return [alike for alike in found.values() if len(alike) > 1]


def types(function: Function) -> str:
    """The types of a function's parameters in order, and which may be left out."""
    required = function.parameters.get("required", [])
    told = [
        (
            {key: value for key, value in schema.items() if key not in ("title", "description", "default")},
            name in required,
        )
        for name, schema in function.parameters["properties"].items()
    ]
    return json.dumps(told, sort_keys=True)


def arguments_of(
    function: Function, examples: Mapping[str, Sequence[Arguments]], rollouts: Sequence[Trajectory]
) -> list[list[Any]]:
    """Known arguments of a function that fit its types, by position; an optional one that is missing ends a list."""
    spec = function.tool_spec()
    called = [call.arguments for each in rollouts for call in each.calls if call.name == function.name]
    found = []
    for given in (*examples.get(function.name, ()), *called):
        if check_arguments(spec, given) is None:
            fitting = as_declared(spec, given)
            names = [name for name in function.parameters["properties"] if name in fitting]
            if names == list(function.parameters["properties"])[: len(names)]:
                found.append([fitting[name] for name in names])
    return found


def named(function: Function, given: Sequence[Any]) -> Arguments:
    """Arguments by position as arguments of ``function`` by name."""
    return dict(zip(function.parameters["properties"], given, strict=False))


def examples_of(updates: Iterable[Update]) -> dict[str, list[Arguments]]:
    """The arguments of the trials of all edits, by function."""
    found: dict[str, list[Arguments]] = {}
    for update in updates:
        for action in (each for index in range(len(update.actions)) for each in update.drafted(index)):
            if isinstance(action, AddFunction | ReviseFunction):
                found.setdefault(action.name, []).extend(action.examples)
    return found
