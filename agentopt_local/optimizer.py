"""Algorithm 1 of the paper, progressive function update: up to ``max_actions`` edits, one after another.

For each edit ``n_samples`` drafts are sampled at once: header, source, trials in the sandbox, and repairs after an
error or wrong results. Those that are right on the shown problems are tried on others of the kind (``screening.py``).
The best one is applied, and the next edit starts from the result. By default edits for different kinds of failed
problems are sampled together, because a local engine has free slots, and kinds of which no draft was right are tried
again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from agentopt_local.briefing import Briefing, Material
from agentopt_local.chat import ChatModel, Thinking
from agentopt_local.concurrency import together
from agentopt_local.edits import Edit, Editor
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.groups import Group, focus_groups
from agentopt_local.incoming import Incoming
from agentopt_local.program_trials import program_groups
from agentopt_local.reasons import outcome_text
from agentopt_local.room import Room
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.seeds import derive
from agentopt_local.tasks.base import Task
from agentopt_local.train_state import FailedUpdate
from agentopt_local.update import OptimizerConfig, Update

log = logging.getLogger("agentopt.optimizer")


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
        keep_questions: bool = False,
    ) -> None:
        """``model`` writes the functions, ``sandbox`` runs their trials and ``task`` grades the results.

        ``one_text``: functions take exactly one str. ``thinking``: how the model thinks before each reply. ``room``: of
        the model's context, where ``model`` does not know it itself. ``keep_questions``: functions carry the questions
        that they were written for, by which a large set is searched.
        """
        self.model = model
        self.config = config
        room = Room(model) if room is None else room
        briefing = Briefing(
            model, task, sandbox, config, room, one_text=one_text, thinking=thinking, keep_questions=keep_questions
        )
        self.editor = Editor(briefing)

    def continue_from(self, updates: Iterable[Update]) -> None:
        """Go on as after ``updates``, which a run that is resumed has proposed before."""
        self.editor.source_tokens = max([self.editor.source_tokens, *(each.source_tokens or 0 for each in updates)])

    async def propose(
        self,
        functions: FunctionSet,
        rollouts: Incoming,
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> Update:
        """An update. Its set equals ``functions`` if the optimizer terminates at once or no edit was verified.

        ``rollouts`` were made with ``functions`` on the training problems. Raises ModelError and SandboxError.
        """
        config, progressive, kinds = self.config, self.config.progressive, rollouts.kinds
        update, drafted = Update(functions=functions if progressive else FunctionSet()), 0
        extra = config.extra_edits if progressive else 0
        most = config.max_actions + extra
        done: list[tuple[Group, list[Edit]]] = []
        queue: list[Group] = []
        if progressive and config.concurrent and 0 < len(kinds) <= config.max_actions - config.max_helpers:
            early = await together(
                self._about(kind, functions, rollouts, failures, seed=derive(seed, "kind", index))
                for index, kind in enumerate(kinds)
            )
            done = sorted((each for some in early for each in some), key=lambda each: -len(each[0].attempts))
        evidence = await rollouts.all()
        begun = {each.problem.id for group, _ in done for each in group.attempts}
        queue += [group for group in self._queue(evidence) if group.attempts[0].problem.id not in begun]
        while True:
            for group, edits in done:
                update = self._applied(update, edits)
                drafted, extra = drafted + len(edits), extra - len(edits) + 1
                if progressive and not edits[-1].settled:  # another try, after the other kinds
                    queue.append(group)
            self.editor.learn([edit for _, edits in done for edit in edits])
            left = min(most - drafted, config.max_actions - len(update.actions))
            if not queue or left < 1 or any(edits[-1].outcome.end == "terminated" for _, edits in done):
                break
            n = min(left, len(queue) if config.concurrent or not progressive else 1)
            wave, queue = queue[:n], queue[n:]
            # Kinds of which no draft is right are tried again at once, rather than after the slowest of the others.
            tries = 1 + min(extra, most - drafted - n) // n if config.concurrent and not queue else 1
            material = Material(update.functions if progressive else functions, evidence, failures)
            found = await together(
                self.editor.tries(group, update.functions, material, tries, seed=derive(seed, "edit", drafted + index))
                for index, group in enumerate(wave)
            )
            done = list(zip(wave, found, strict=True))
        if self.editor.source_tokens > config.max_source_tokens:
            update = update.model_copy(update={"source_tokens": self.editor.source_tokens})
        return update if update.actions else update.model_copy(update={"functions": functions})

    async def _about(
        self, kind: str, functions: FunctionSet, rollouts: Incoming, failures: Sequence[FailedUpdate], *, seed: int
    ) -> list[tuple[Group, list[Edit]]]:
        """Edits about the failures of one kind, as soon as its rollouts have ended: its share of the step's."""
        config, kinds = self.config, len(rollouts.kinds)
        evidence = await rollouts.of_kind(kind)
        groups = self._judgeable(self._groups(evidence))
        chosen = groups[: (config.max_actions - config.max_helpers) // kinds]
        tries = 1 + config.extra_edits // (kinds * len(chosen)) if chosen == groups and chosen else 1
        material = Material(functions, evidence, failures)
        found = await together(
            self.editor.tries(group, functions, material, tries, seed=derive(seed, "edit", index))
            for index, group in enumerate(chosen)
        )
        return list(zip(chosen, found, strict=True))

    def _queue(self, rollouts: Sequence[Evidence]) -> list[Group]:
        """What the edits of a step are about, in order: groups of failures and, as configured, of right programs."""
        most = self.config.max_actions
        failed = self._groups(rollouts)
        failed = self._judgeable(failed) or failed
        helpers = program_groups(rollouts)[: min(self.config.max_helpers, most)] if self.config.max_helpers else []
        if not self.config.progressive:  # the functions of the new set are written at once, independently
            return (failed * most)[:most]
        return [*failed[: most - len(helpers)], *helpers, *failed[most - len(helpers) :]]

    def _groups(self, evidence: Sequence[Evidence]) -> list[Group]:
        return focus_groups(evidence, self.config.n_evidence if self.config.group_by_likeness else None)

    def _judgeable(self, groups: list[Group]) -> list[Group]:
        """The groups of which a failure is left that the author is not shown, to judge the edit by."""
        return [each for each in groups if len(each.attempts) > 1 or not self.config.hold_back]

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
            log.info("edit %d, %s: %s", len(update.outcomes) + 1, outcome.about, outcome_text(outcome))
            update = update.plus(outcome, edit.usage)
        return update
