"""Algorithm 1 of the paper, progressive function update: up to ``max_actions`` edits, one after another.

For each edit ``n_samples`` drafts are sampled at once: header, source, trials in the sandbox, and repairs after an
error or wrong results. Those that are right on the shown problems are tried on others of the kind (``screening.py``).
The best one is applied, and the next edit starts from the result. By default edits for different kinds of failed
problems are sampled together, because a local engine has free slots, and kinds of which no draft was right are tried
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agentopt_local.actions import Action
from agentopt_local.briefing import Briefing, Material
from agentopt_local.call_trials import CallVerifier
from agentopt_local.chat import ChatModel, Thinking, Usage
from agentopt_local.choosing import alternatives, best, promising
from agentopt_local.concurrency import together
from agentopt_local.drafts import Draft, DraftContext
from agentopt_local.evidence import Evidence, focus_groups, pick
from agentopt_local.functions import FunctionSet
from agentopt_local.outcomes import outcome_of
from agentopt_local.problem import Problem
from agentopt_local.program_trials import program_groups
from agentopt_local.reasons import outcome_text
from agentopt_local.room import Room
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.screening import Pool
from agentopt_local.seeds import derive
from agentopt_local.talk import Talk
from agentopt_local.tasks.base import Task
from agentopt_local.train_state import FailedUpdate
from agentopt_local.update import ActionCounts, EditOutcome, OptimizerConfig, Update, Verified, grown

log = logging.getLogger("agentopt.optimizer")
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


class Optimizer:
    """Proposes updates of a function set, from rollouts made with it."""

    def __init__(
        self,
        model: ChatModel,
        task: Task,
        sandbox: Sandbox,
        config: OptimizerConfig,
        *,
        one_text: bool = False,
        thinking: Thinking | None = None,
        room: Room | None = None,
    ) -> None:
        """``model`` writes the functions, ``sandbox`` runs their trials and ``task`` grades the results.

        ``one_text``: functions take exactly one str. ``thinking``: how the model thinks before each reply. ``room``: of
        the model's context, where ``model`` does not know it itself.
        """
        self.model = model
        self.config = config
        self.room = Room(model) if room is None else room
        self.briefing = Briefing(model, task, sandbox, config, self.room, one_text=one_text, thinking=thinking)
        self.source_tokens = config.max_source_tokens
        """Generated tokens of a draft's first source; it grows where sources are cut off again and again."""

    def continue_from(self, updates: Iterable[Update]) -> None:
        """Go on as after ``updates``, which a run that is resumed has proposed before."""
        self.source_tokens = max([self.source_tokens, *(each.source_tokens or 0 for each in updates)])

    async def propose(
        self,
        functions: FunctionSet,
        rollouts: Sequence[Evidence],
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> Update:
        """An update. Its set equals ``functions`` if the optimizer terminates at once or no edit was verified.

        ``rollouts`` were made with ``functions`` on the training problems. Raises ModelError and SandboxError.
        """
        config, progressive, drafted = self.config, self.config.progressive, 0
        update = Update(functions=functions if progressive else FunctionSet())
        queue = self._queue(rollouts)
        extra = config.extra_edits if progressive else 0
        most = config.max_actions + extra
        while queue and drafted < most and len(update.actions) < config.max_actions:
            at_once = len(queue) if config.concurrent or not progressive else 1
            n = min(at_once, most - drafted, config.max_actions - len(update.actions))
            wave, queue = queue[:n], queue[n:]
            # Kinds of which no draft is right are tried again at once, rather than after the slowest of the others.
            tries = 1 + min(extra, most - drafted - n) // n if config.concurrent and not queue else 1
            material = Material(update.functions if progressive else functions, rollouts, failures)
            found = await together(
                self._tries(group, update.functions, material, tries, seed=derive(seed, "edit", drafted + index))
                for index, group in enumerate(wave)
            )
            drafted += sum(len(edits) for edits in found)
            extra -= sum(len(edits) - 1 for edits in found)
            for group, edits in zip(wave, found, strict=True):
                update = self._applied(update, edits)
                if progressive and not edits[-1].settled:  # another try, after the other kinds
                    queue.append(group)
            if any(edits[-1].outcome.end == "terminated" for edits in found):
                break
            self._learn([edit for edits in found for edit in edits])
        if self.source_tokens > config.max_source_tokens:
            update = update.model_copy(update={"source_tokens": self.source_tokens})
        return update if update.actions else update.model_copy(update={"functions": functions})

    def _queue(self, rollouts: Sequence[Evidence]) -> list[list[Evidence]]:
        """What the edits of a step are about, in order: groups of failures and, as configured, of right programs."""
        most = self.config.max_actions
        failed = focus_groups(rollouts)
        helpers = program_groups(rollouts)[: min(self.config.max_helpers, most)] if self.config.max_helpers else []
        if not self.config.progressive:  # the functions of the new set are written at once, independently
            return (failed * most)[:most]
        return [*failed[: most - len(helpers)], *helpers, *failed[most - len(helpers) :]]

    async def _tries(
        self, group: Sequence[Evidence], functions: FunctionSet, material: Material, times: int, *, seed: int
    ) -> list[Edit]:
        """At most ``times`` edits about a group, until one is right or terminates; each is shown other problems."""
        edits: list[Edit] = []
        while len(edits) < times and not (edits and edits[-1].settled):
            another = derive(seed, "try", len(edits)) if edits else seed
            evidence = self._pick(group, material.rollouts, another)
            edits.append(await self._edit(functions, evidence, material, seed=another))
        return edits

    @staticmethod
    def _applied(update: Update, edits: Sequence[Edit]) -> Update:
        """The update after the best of ``edits``, with what became of them all."""
        best_one = max(edits, key=lambda each: each.verified.share if each.verified else -1.0)
        for edit in edits:
            outcome, before = edit.outcome, update
            if edit is best_one and edit.verified is not None and outcome.end == "applied":
                update = update.applying(edit.verified, [each.problem.id for each in edit.shown], edit.alternatives)
            if outcome.end == "applied" and update is before:
                outcome = outcome.model_copy(update={"end": "taken" if edit is best_one else "unmatched"})
            log.info("edit %d, %s: %s", len(update.outcomes) + 1, outcome.kind or "problems", outcome_text(outcome))
            update = update.plus(outcome, edit.usage)
        return update

    def _learn(self, edits: Sequence[Edit]) -> None:
        """Allow longer sources from now on if they were cut off again and again."""
        cut = sum(edit.cut_sources for edit in edits)
        often = cut > 1 and cut * OFTEN >= sum(edit.outcome.counts.legal for edit in edits)
        if often and any(edit.source_tokens > self.source_tokens for edit in edits):
            self.source_tokens = grown(self.source_tokens, self.config.max_source_tokens)

    def _pick(self, group: Sequence[Evidence], rollouts: Sequence[Evidence], seed: int) -> tuple[Evidence, ...]:
        """What an edit's drafts are shown: rollouts of the group and, where these failed, right ones of their kind."""
        config = self.config

        def some(of: Sequence[Evidence], n: int) -> tuple[Evidence, ...]:
            return pick(of, min(n, max(1, len(of) // 2) if config.hold_back else len(of)), seed)

        shown = some(group, config.n_evidence)
        if group[0].trajectory.correct or not config.n_solved:
            return shown
        solved = [each for each in rollouts if each.trajectory.correct and each.problem.kind == group[0].problem.kind]
        return (*shown, *(some(solved, config.n_solved) if solved else ()))

    async def _edit(
        self, functions: FunctionSet, evidence: tuple[Evidence, ...], material: Material, *, seed: int
    ) -> Edit:
        """The best of ``n_samples`` drafts of one edit of ``functions``."""
        n, kind, usage = self.config.n_samples, evidence[0].problem.kind, Usage()
        while True:
            known = self.room.limit
            context = await self.briefing.of(functions, evidence, material, self.source_tokens)
            if context is None:
                counts = ActionCounts(unfit=n)
                return Edit(None, EditOutcome(kind=kind, drafts=n, end="unfit", counts=counts), usage, evidence)
            drafts = [Draft(context, derive(seed, "draft", index)) for index in range(n)]
            pool = self._pool(context, material, seed)
            await self._run(drafts, pool)
            usage = sum((draft.talk.usage for draft in drafts), usage) + pool.usage
            if self.room.limit == known or not all(draft.counts().unfit for draft in drafts):
                break  # else the context has turned out to be smaller than it was thought to be
        verified = best(drafts, self.config.min_matches)
        cut_sources = sum(draft.cut_sources for draft in drafts)
        source_tokens = max(draft.source_tokens for draft in drafts)
        outcome = outcome_of(kind, drafts, verified)
        others = alternatives(drafts, verified)[: self.config.n_alternatives]
        return Edit(verified, outcome, usage, context.evidence, others, cut_sources, source_tokens)

    def _pool(self, context: DraftContext, material: Material, seed: int) -> Pool:
        """The other problems of the kind; none for a helper, which need not return an answer."""
        shown = {each.problem.id for each in context.evidence}
        failed = not context.evidence[0].trajectory.correct
        kind = context.evidence[0].problem.kind
        others = [
            each.problem for each in material.rollouts if each.problem.kind == kind and each.problem.id not in shown
        ]

        def make(problems: Sequence[Problem], seed: int) -> CallVerifier:
            talk = Talk(self.model, self.room, self.config, seed, context.thinking)
            return CallVerifier(talk, problems, self.briefing.task, self.briefing.sandbox)

        return Pool(others if failed else [], self.config.n_screen, seed, make)

    async def _run(self, drafts: Sequence[Draft], pool: Pool) -> None:
        """Run drafts at once, until one is right, also on the pool, or all have ended."""
        tasks, right = [asyncio.create_task(self._tried(draft, pool)) for draft in drafts], 0
        try:
            for finished in asyncio.as_completed(tasks):
                verified = await finished
                right += verified is not None and verified.right
                if right > self.config.n_alternatives:
                    return  # no other draft can do much better
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not right:
            await pool.screen(promising(drafts, self.config.min_matches))

    @staticmethod
    async def _tried(draft: Draft, pool: Pool) -> Verified | None:
        verified = await draft.run()
        if verified is not None and verified.complete:
            await pool.screen([draft])
        return draft.verified
