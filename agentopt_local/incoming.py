"""The evidence of a step, which may still be under way: drafting need not wait for the slowest rollout."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from agentopt_local.evidence import Evidence
from agentopt_local.problem import Problem
from agentopt_local.trajectory import Trajectory

More = Callable[[Sequence[Evidence]], Awaitable[Sequence[Evidence]]]
"""What else is found out about problems, from the evidence about them."""


class Incoming:
    """Evidence that is complete."""

    def __init__(self, evidence: Sequence[Evidence]) -> None:
        self._evidence = evidence

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the problems, in their order."""
        return tuple(dict.fromkeys(each.problem.kind for each in self._evidence))

    async def of_kind(self, kind: str) -> list[Evidence]:
        """All evidence about one kind of problems, once it is complete. Raises what its rollouts raise."""
        return [each for each in self._evidence if each.problem.kind == kind]

    async def all(self) -> list[Evidence]:
        """All evidence, once it is complete. Raises what the rollouts raise."""
        return list(self._evidence)


class UnderWay(Incoming):
    """Evidence of rollouts that may not have ended."""

    def __init__(
        self, problems: Sequence[Problem], rollouts: Sequence[asyncio.Task[Trajectory]], more: More | None = None
    ) -> None:
        """``rollouts``: one for each problem. ``more``: adds evidence about a kind whose rollouts have ended."""
        self._problems = problems
        self._rollouts = rollouts
        self._more = more
        self._known: dict[str, list[Evidence]] = {}
        self._asked: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the problems, in their order."""
        return tuple(dict.fromkeys(each.kind for each in self._problems))

    async def any_failed(self) -> bool:
        """Whether a problem was not solved, as soon as that is known. Raises what the rollouts raise."""
        for rollout in asyncio.as_completed(self._rollouts):
            if not (await rollout).correct:
                return True
        return False

    async def of_kind(self, kind: str) -> list[Evidence]:
        """All evidence about one kind of problems, once it is complete. Raises what its rollouts raise."""
        async with self._asked[kind]:
            if kind not in self._known:
                found = [
                    Evidence(problem=problem, trajectory=await asyncio.shield(rollout))
                    for problem, rollout in zip(self._problems, self._rollouts, strict=True)
                    if problem.kind == kind
                ]
                self._known[kind] = [*found, *(await self._more(found) if self._more else ())]
            return self._known[kind]

    async def all(self) -> list[Evidence]:
        """All evidence, once it is complete: in the order of the problems, then what was added."""
        found = [each for kind in self.kinds for each in await self.of_kind(kind)]
        place = {problem.id: number for number, problem in enumerate(self._problems)}
        first: dict[str, Evidence] = {}
        for each in found:
            first.setdefault(each.problem.id, each)
        ordered = sorted(first.values(), key=lambda each: place[each.problem.id])
        return [*ordered, *(each for each in found if first[each.problem.id] is not each)]
