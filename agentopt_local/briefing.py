"""What the drafts of an edit share: the prompt, with as much evidence as the model's context has room for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from agentopt_local import prompts
from agentopt_local.actions import header_constraint
from agentopt_local.call_trials import CallVerifier, KnownArguments
from agentopt_local.chat import ChatModel, Thinking
from agentopt_local.drafts import DraftContext
from agentopt_local.evidence import Evidence
from agentopt_local.fitting import Fitted, Write, fit
from agentopt_local.functions import FunctionSet
from agentopt_local.program_trials import ProgramVerifier, program_of
from agentopt_local.room import Room
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.showing import failures_text, functions_text, transcripts_text
from agentopt_local.signatures import TYPES_ALLOWED
from agentopt_local.talk import Talk
from agentopt_local.tasks.base import Task
from agentopt_local.train_state import FailedUpdate
from agentopt_local.trials import Verifier
from agentopt_local.update import OptimizerConfig

log = logging.getLogger("agentopt.optimizer")


class Material(NamedTuple):
    """What the author of an edit may be shown."""

    functions: FunctionSet
    rollouts: Sequence[Evidence]
    """With these functions, on the problems of the step, or of a kind alone while others are under way."""
    failures: Sequence[FailedUpdate]


class Briefing:
    """Prepares the drafts of edits."""

    def __init__(
        self,
        model: ChatModel,
        task: Task,
        sandbox: Sandbox,
        config: OptimizerConfig,
        room: Room,
        *,
        one_text: bool = False,
        thinking: Thinking | None = None,
        keep_questions: bool = False,
    ) -> None:
        """``one_text``: functions take exactly one str. ``thinking``: how the model thinks before each reply.

        ``keep_questions``: functions carry the questions that they were written for.
        """
        self.model = model
        self.task = task
        self.sandbox = sandbox
        self.config = config
        self.room = room
        self.one_text = one_text
        self.thinking = thinking
        self.keep_questions = keep_questions

    async def of(
        self, functions: FunctionSet, evidence: tuple[Evidence, ...], material: Material, source_tokens: int
    ) -> DraftContext | None:
        """The context of drafts that edit ``functions`` after ``evidence``; None if the model's has no room for any.

        ``evidence``: failed rollouts, and after them right ones as examples; or right programs alone, of which the
        edit makes a helper. ``source_tokens``: the limit of a first source.
        """
        helper = all(each.trajectory.correct for each in evidence)
        template = "optimizer_programs" if helper else "optimizer"
        fitted = await fit(self._writer(template, material), evidence, self.room, self.config, self.thinking)
        if fitted is None:
            return None
        self._report(fitted, evidence)
        shown = [each for each in fitted.evidence if helper or not each.trajectory.correct]
        known = KnownArguments()
        return DraftContext(
            model=self.model,
            config=self.config,
            functions=functions,
            evidence=fitted.evidence,
            header=header_constraint(functions) if self.config.constrain else None,
            prompt=fitted.prompt,
            verifier=lambda talk: self.verifier(talk, shown, known, helper=helper),
            room=self.room,
            source_tokens=source_tokens,
            one_text=self.one_text and not helper,
            thinking=self.thinking,
            questions=tuple(each.problem.question for each in shown) if self.keep_questions else (),
            opening="write_helper" if helper else "write_source",
        )

    def verifier(
        self, talk: Talk, shown: Sequence[Evidence], known: KnownArguments, *, helper: bool = False
    ) -> Verifier:
        """What tries functions on ``shown``: by their programs, or by calls."""
        if helper:
            programs = [program for each in shown if (program := program_of(each)) is not None]
            return ProgramVerifier(talk, programs, self.task, self.sandbox)
        return CallVerifier(talk, [each.problem for each in shown], self.task, self.sandbox, known)

    def _writer(self, template: str, material: Material) -> Write:
        config = self.config

        def write(shown: Sequence[Evidence], share: float) -> str:
            return prompts.fill(
                template,
                types="str" if self.one_text else TYPES_ALLOWED,
                packages=", ".join(config.allowed_packages),
                one_text="- It takes exactly one parameter, a str.\n" if self.one_text else "",
                functions=functions_text(material.functions, material.rollouts, int(config.functions_tokens * share)),
                failures=failures_text(
                    material.failures, int(config.failures_tokens * share), material.rollouts, shown
                ),
                transcripts=transcripts_text(shown, int(config.evidence_tokens * share)),
            )

        return write

    def _report(self, fitted: Fitted, evidence: Sequence[Evidence]) -> None:
        if fitted.share < 1 or len(fitted.evidence) < len(evidence):
            shown, share = f"{len(fitted.evidence)} of {len(evidence)} rollouts", 100 * fitted.share
            log.info(
                "the context of %s tokens has room for %s and %.0f %% of the budgets", self.room.limit, shown, share
            )
