"""One edit: the drafts of its authors, the pool that they are tried on, and the best of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from agentopt_local.actions import Action, AddFunction, ReviseFunction
from agentopt_local.briefing import Briefing, Material
from agentopt_local.call_trials import CallVerifier
from agentopt_local.chat import Usage
from agentopt_local.choosing import alternatives, best, promising
from agentopt_local.concurrency import together
from agentopt_local.docstrings import described_anew
from agentopt_local.drafts import Draft, DraftContext
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.groups import Group, some_of
from agentopt_local.outcomes import outcome_of
from agentopt_local.problem import Problem
from agentopt_local.screening import Pool
from agentopt_local.seeds import derive
from agentopt_local.talk import Talk
from agentopt_local.update import ActionCounts, EditOutcome, Verified, grown

OFTEN = 3
"""The limit of a source's tokens grows if one in so many was cut off there."""


class Edit(NamedTuple):
    """An edit that was drafted."""

    verified: Verified | None
    """The best draft; None if there is none to be applied."""
    outcome: EditOutcome
    usage: Usage
    shown: tuple[Evidence, ...]
    alternatives: tuple[Action, ...] = ()
    """Of other drafts that are just as right."""
    cut_sources: int = 0
    source_tokens: int = 0
    """The limit of a draft's sources, where it has become longest."""

    @property
    def settled(self) -> bool:
        """Whether another try is no use: its function is right, or there is nothing to improve."""
        return self.outcome.end == "terminated" or (self.verified is not None and self.verified.right)


class Editor:
    """Drafts edits."""

    def __init__(self, briefing: Briefing) -> None:
        """``briefing`` prepares the drafts; its settings and model are used."""
        self.briefing = briefing
        self.config = briefing.config
        self.source_tokens = briefing.config.max_source_tokens
        """Generated tokens of a draft's first source; it grows where sources are cut off again and again."""

    async def tries(
        self, group: Group, functions: FunctionSet, material: Material, times: int, *, seed: int
    ) -> list[Edit]:
        """At most ``times`` edits about a group, until one is right or terminates; each is shown other problems."""
        edits: list[Edit] = []
        while len(edits) < times and not (edits and edits[-1].settled):
            another = derive(seed, "try", len(edits)) if edits else seed
            evidence = self._pick(group, material.rollouts, another)
            edits.append(await self._edit(functions, group, evidence, material, seed=another))
        return edits

    def learn(self, edits: Sequence[Edit]) -> None:
        """Allow longer sources from now on if they were cut off again and again."""
        cut = sum(edit.cut_sources for edit in edits)
        often = cut > 1 and cut * OFTEN >= sum(edit.outcome.counts.legal for edit in edits)
        if often and any(edit.source_tokens > self.source_tokens for edit in edits):
            self.source_tokens = grown(self.source_tokens, self.config.max_source_tokens)

    def _pick(self, group: Group, rollouts: Sequence[Evidence], seed: int) -> tuple[Evidence, ...]:
        """What an edit's drafts are shown: rollouts of the group and, where these failed, right ones of their kind."""
        config = self.config
        shown = some_of(group.attempts, config.n_evidence, seed, hold_back=config.hold_back)
        if group.attempts[0].trajectory.correct or not config.n_solved:
            return shown
        solved = [each for each in rollouts if each.trajectory.correct and each.problem.kind == group.kind]
        return (*shown, *some_of(solved, config.n_solved, seed, hold_back=config.hold_back))

    async def _edit(
        self, functions: FunctionSet, group: Group, evidence: tuple[Evidence, ...], material: Material, *, seed: int
    ) -> Edit:
        """The best of ``n_samples`` drafts of one edit of ``functions``, which are shown ``evidence``."""
        n, usage = self.config.n_samples, Usage()
        while True:
            known = self.briefing.room.limit
            context = await self.briefing.of(functions, evidence, material, self.source_tokens)
            if context is None:
                counts = ActionCounts(unfit=n)
                unfit = EditOutcome(kind=group.kind, group=group.name, drafts=n, end="unfit", counts=counts)
                return Edit(None, unfit, usage, evidence)
            drafts = [Draft(context, derive(seed, "draft", index)) for index in range(n)]
            pool = self._pool(context, group, material, seed)
            await self._run(drafts, pool)
            usage = sum((draft.talk.usage for draft in drafts), usage) + pool.usage
            if self.briefing.room.limit == known or not all(draft.counts().unfit for draft in drafts):
                break  # else the context has turned out to be smaller than it was thought to be
        verified = best(drafts, self.config.min_matches)
        cut_sources = sum(draft.cut_sources for draft in drafts)
        source_tokens = max(draft.source_tokens for draft in drafts)
        outcome = outcome_of(group, drafts, verified)
        others = alternatives(drafts, verified)[: self.config.n_alternatives]
        if verified is not None and verified.right and len(others) < self.config.n_alternatives:
            talks = [context.talk(derive(seed, "doc", n)) for n in range(self.config.n_alternatives - len(others))]
            others += await self._described(verified.action, [each.problem for each in context.evidence], talks)
            usage = sum((each.usage for each in talks), usage)
        return Edit(verified, outcome, usage, context.evidence, others, cut_sources, source_tokens)

    @staticmethod
    async def _described(action: Action, problems: Sequence[Problem], talks: Sequence[Talk]) -> tuple[Action, ...]:
        """The same function with other docstrings."""
        if not isinstance(action, AddFunction | ReviseFunction):
            return ()
        written = await together(described_anew(action.function, problems, talk) for talk in talks)
        distinct = dict.fromkeys(each for each in written if each is not None)
        return tuple(action.model_copy(update={"function": each}) for each in distinct)

    def _pool(self, context: DraftContext, group: Group, material: Material, seed: int) -> Pool:
        """The other problems of the group or, where the kind is whole, of the kind; none for a helper, which need not
        return an answer."""
        shown = {each.problem.id for each in context.evidence}
        failed = not context.evidence[0].trajectory.correct
        alike = group.attempts if group.name else material.rollouts
        others = {each.problem.id: each.problem for each in alike if each.problem.kind == group.kind}
        unseen = [problem for problem in others.values() if problem.id not in shown]

        def make(problems: Sequence[Problem], seed: int) -> CallVerifier:
            return CallVerifier(context.talk(seed), problems, self.briefing.task, self.briefing.sandbox)

        return Pool(unseen if failed else [], self.config.n_screen, seed, make)

    async def _run(self, drafts: Sequence[Draft], pool: Pool) -> None:
        """Run drafts at once, until one is right, also on the pool, or all have ended."""
        tasks = [asyncio.create_task(self._tried(draft, pool)) for draft in drafts]
        try:
            for finished in asyncio.as_completed(tasks):
                verified = await finished
                if verified is not None and verified.right:
                    return  # no other draft can do much better
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await pool.screen(promising(drafts, self.config.min_matches))

    @staticmethod
    async def _tried(draft: Draft, pool: Pool) -> Verified | None:
        verified = await draft.run()
        if verified is not None and verified.complete:
            await pool.screen([draft])
        return draft.verified
