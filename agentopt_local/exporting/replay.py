"""Recorded calls, repeated in the sandbox: those that return the same result become the tests of an export."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from agentopt_local.calling import as_declared, call_function
from agentopt_local.functions import FunctionSet, render_value
from agentopt_local.record import Record, canonical_json
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.trajectory import ToolRun, Trajectory

MAX_TRIED = 60
"""Most recorded calls of one function that are repeated."""
MAX_EXAMPLES = 20
"""Most of these that become tests."""
MAX_CHARS = 4000
"""Calls with longer arguments are skipped: they would make unreadable tests."""
CUT = re.compile(r"\n\[\.\.\. \d+ characters cut \.\.\.]\n")
"""The mark of a result that was not recorded completely."""


class Example(Record):
    """One call and what it returns."""

    arguments: dict[str, Any]
    value: Any
    """As JSON."""


class Replayed(Record):
    """What happened to the recorded calls of one function."""

    name: str
    recorded: int
    """Distinct arguments with which it was called without error."""
    tried: int
    """Of these, called again."""
    same: int
    """Of these, calls with the recorded result, regardless of the seed of the random generators."""
    examples: tuple[Example, ...]


async def replay(
    functions: FunctionSet, rollouts: Iterable[Trajectory], sandbox: Sandbox, *, timeout_s: float
) -> tuple[Replayed, ...]:
    """Repeat the recorded calls of ``functions``. Returns one result per function, in their order.

    Calls made with exactly this set come first, and among them those of rollouts that were graded right. Calls from
    before a function's last revision are tried too, but may not reproduce.
    """
    calls: dict[str, dict[str, tuple[int, ToolRun, int]]] = defaultdict(dict)
    for trajectory in rollouts:
        rank = 2 * (trajectory.functions != functions.fingerprint) + (not trajectory.correct)
        for call in trajectory.calls:
            if call.ok and call.name in functions:
                known = calls[call.name]
                key = canonical_json(call.arguments)
                if key not in known or rank < known[key][0]:
                    known[key] = (rank, call, trajectory.seed)
    return tuple([await _one(functions, name, calls[name], sandbox, timeout_s) for name in functions.names])


async def _one(
    functions: FunctionSet,
    name: str,
    calls: dict[str, tuple[int, ToolRun, int]],
    sandbox: Sandbox,
    timeout_s: float,
) -> Replayed:
    short = [
        (call, seed)
        for key, (_, call, seed) in sorted(calls.items(), key=lambda item: (item[1][0], item[0]))
        if len(key) <= MAX_CHARS and not CUT.search(call.result)
    ][:MAX_TRIED]

    spec = functions.get(name).tool_spec()

    async def again(call: ToolRun, seed: int) -> Example | None:
        first, second = await asyncio.gather(
            *(
                call_function(sandbox, functions, name, call.arguments, timeout_s=timeout_s, seed=each)
                for each in (seed, seed + 1)
            )
        )
        same = first.ok and second.ok and first.value == second.value and render_value(first.value) == call.result
        return Example(arguments=as_declared(spec, call.arguments), value=first.value) if same else None

    found = await asyncio.gather(*(again(call, seed) for call, seed in short))
    examples = tuple(each for each in found if each is not None)
    return Replayed(
        name=name, recorded=len(calls), tried=len(short), same=len(examples), examples=examples[:MAX_EXAMPLES]
    )
