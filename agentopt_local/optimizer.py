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
        most = config.max_actions + (config.extra_edits if progressive else 0)
        while queue and drafted < most and len(update.actions) < config.max_actions:
            together_at_most = len(queue) if config.concurrent or not progressive else 1
            n = min(together_at_most, most - drafted, config.max_actions - len(update.actions))
            wave, queue = queue[:n], queue[n:]
            present = update.functions if progressive else functions
            material = Material(present, rollouts, failures)
            seeds = [derive(seed, "edit", drafted + index) for index in range(n)]
            edits = await together(
                self._edit(update.functions, self._pick(group, rollouts, each), material, seed=each)
                for group, each in zip(wave, seeds, strict=True)
            )
            drafted, again = drafted + n, []
            for group, edit in zip(wave, edits, strict=True):
                before, update = update, self._applied(update, edit)
                if progressive and not (edit.verified and edit.verified.right):
                    again.append((len(update.actions) > len(before.actions), group))
            if any(edit.outcome.end == "terminated" for edit in edits):
                break
            # Another try for problems that are unanswered, after the other kinds: those without any function first.
            queue += [group for _, group in sorted(again, key=lambda each: each[0])]
            self._learn(edits)
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

    @staticmethod
    def _applied(update: Update, edit: Edit) -> Update:
        """The update after an edit, with what became of it."""
        outcome, before = edit.outcome, update
        if edit.verified is not None and outcome.end == "applied":
            update = update.applying(edit.verified, [each.problem.id for each in edit.shown], edit.alternatives)
            if update is before:
                outcome = outcome.model_copy(update={"end": "taken"})
        log.info("edit %d, %s: %s", len(update.outcomes) + 1, outcome.kind or "problems", outcome_text(outcome))
        return update.plus(outcome, edit.usage)

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
