"""How an update is tried: edit by edit on the problems that each is about, then what helped on all of them.

An edit for one kind of problem leaves the agent's work on other kinds nearly as it was, so trying it there would
mostly measure chance. Only what was tried on all problems can be kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from agentopt_local.acceptance import is_smaller, judge
from agentopt_local.actions import RemoveFunction
from agentopt_local.chat import Usage
from agentopt_local.concurrency import together
from agentopt_local.errors import FunctionError
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.steps import Tried, best_first, parts
from agentopt_local.train_state import TrainerConfig
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import Update

RollOut = Callable[[FunctionSet, Sequence[Problem], str], Awaitable[Sequence[Trajectory]]]
"""Rollouts of a set on problems; the last argument names the part of the step."""


class Trying:
    """Tries one candidate of a step."""

    def __init__(
        self,
        config: TrainerConfig,
        functions: FunctionSet,
        batch: Sequence[Problem],
        before: Sequence[Trajectory],
        roll_out: RollOut,
    ) -> None:
        """``before``: rollouts with ``functions`` on the problems in ``batch``."""
        self.config = config
        self.functions = functions
        self.batch = batch
        self.before = before
        self.roll_out = roll_out

    async def tried(self, number: int, update: Update) -> list[Tried]:
        """Everything that was rolled out of candidate ``number``: the whole update, or its parts as ``try_edits`` says,
        the one to be kept before all others first."""
        found = await self._tried(update)
        return best_first([replace(each, candidate=number) for each in found])

    async def _tried(self, update: Update) -> list[Tried]:
        everywhere = range(len(self.batch))
        if update.functions == self.functions:
            return [self._judged(update, self.before, everywhere)]
        alone = parts(update, self.functions) if self.config.try_edits else {}
        if len(alone) < 2 and not any(update.alternatives):
            return [await self._on(update, everywhere, "after")]
        tried = await together(self._edit(update, index, edits) for index, edits in alone.items())
        best = {index: best_first(each)[0] for index, each in zip(alone, tried, strict=True)}
        chosen = update.choosing({index: each.update.actions[-1] for index, each in best.items()})
        helped = [index for index, each in best.items() if each.helped]
        found = [one for each in tried for one in each]
        if not helped:
            return found
        joined = frozenset[int]().union(*(alone[index] for index in helped))
        all_of_them = self._having(chosen, joined) or update.having(self.functions, joined)
        first = await self._everywhere(all_of_them, "edits together", found)
        found = [each for each in found if each is not first]  # it may have been tried on all problems alone
        if first.judgement.accepted or len(helped) < 2:
            return [first, *found]
        index = max(helped, key=lambda each: best[each].judgement.gain)  # together they do harm
        second = await self._everywhere(chosen.having(self.functions, alone[index]), f"edit {index + 1} alone", found)
        return [first, second, *(each for each in found if each is not second)]

    async def _edit(self, update: Update, index: int, edits: frozenset[int]) -> list[Tried]:
        """One edit alone, with those that it needs, on the problems that it is about; and its alternatives, if more
        than a quarter of these fail without a use of its function."""
        choices = (self._having(choice, edits) for choice in update.choices(index))
        found = [each for each in choices if each is not None]
        where = self._about(found[0])
        names = [f"edit {index + 1}", *(f"edit {index + 1}, alternative {number}" for number in range(1, len(found)))]
        first = await self._on(found[0], where, names[0])
        called = getattr(found[0].actions[-1], "name", "")
        left = sum(not first.after[each].correct and not first.after[each].used(called) for each in where)
        if 4 * left <= len(where):
            return [first]
        rest = zip(found[1:], names[1:], strict=True)
        return [first, *await together(self._on(each, where, name) for each, name in rest)]

    async def _everywhere(self, update: Update, name: str, known: Sequence[Tried]) -> Tried:
        """A part on all problems; from ``known`` if it was tried there."""
        same = [each for each in known if each.whole and each.update.functions == update.functions]
        return same[0] if same else await self._on(update, range(len(self.batch)), name)

    def _having(self, update: Update, edits: frozenset[int]) -> Update | None:
        """Some edits of an update; None if an alternative among them has the name of another function."""
        try:
            return update.having(self.functions, edits)
        except FunctionError:
            return None

    def _about(self, update: Update) -> Sequence[int]:
        """Indices of the problems of the kinds that its authors were shown; of all if it takes a function away."""
        removes = any(isinstance(each, RemoveFunction) for each in update.actions)
        kinds = {each.kind for each in self.batch if each.id in update.seen}
        everywhere = range(len(self.batch))
        if self.config.try_edits_on == "all" or removes or not kinds:
            return everywhere
        return [index for index in everywhere if self.batch[index].kind in kinds]

    async def _on(self, update: Update, where: Sequence[int], name: str) -> Tried:
        return self._judged(update, await self.roll_out(update.functions, [self.batch[i] for i in where], name), where)

    def _judged(self, update: Update, after: Sequence[Trajectory], where: Sequence[int]) -> Tried:
        """An update with its rollouts and what the configured rule says of them."""
        smaller = is_smaller(update.functions, self.functions)
        judgement = judge(
            self.config.acceptance,
            [self.before[index].grade.reward for index in where],
            [each.grade.reward for each in after],
            shown={at for at, index in enumerate(where) if self.batch[index].id in update.seen},
            smaller=smaller,
            alpha=self.config.gate_alpha,
        )
        everywhere = list(self.before)
        for index, each in zip(where, after, strict=True):
            everywhere[index] = each
        whole = len(where) == len(self.batch)
        return Tried(0, update, everywhere, judgement, smaller, whole, sum((each.spent for each in after), Usage()))
