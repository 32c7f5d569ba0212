"""What each function of a run contributes, and which ones look memorised."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentopt_local.problem import Split
from agentopt_local.record import Record
from agentopt_local.statistics import PairedDifference

Verdict = Literal["helps", "no effect seen", "hurts", "only costs tokens", "too few problems"]
"""``helps``, ``hurts``: the effect differs from 0 (p < 0.05 after Holm's correction) · ``only costs tokens``: without
it no fewer problems are solved · ``no effect seen``: more are solved with it, which may be chance · ``too few
problems``: of the kinds that it was written for, fewer than could show an effect."""


class MeanEffect(Record):
    """A mean change per problem, in percentage points."""

    points: float
    ci95: tuple[float, float]
    """95 % interval of ``points``."""


class MaskEffect(MeanEffect):
    """The effect of a function among random halves of the others: masks with it minus masks without it."""

    n: int
    """Problems."""
    masks: int
    """Masks that were compared: those that keep all functions which it calls."""
    p_value: float
    """Exact two-sided sign test of the problems' changes, after Holm's correction."""


class TokenCost(Record):
    """Mean tokens per problem."""

    schema_read: float
    """Prompt tokens that describe the function, over all requests of an attempt."""
    read: tuple[float, float]
    """Prompt tokens with and without the function."""
    generated: tuple[float, float]
    """Generated tokens with and without the function."""


class FunctionCredit(Record):
    """What one function contributes."""

    name: str
    left_out: tuple[str, ...]
    """It and the functions that call it, which cannot work without it."""
    verdict: Verdict
    effect: PairedDifference
    """The whole set minus the set without ``left_out``, on problems that its edits were not shown."""
    p_adjusted: float
    """The effect's p-value after Holm's correction over the functions."""
    kinds: dict[str, PairedDifference] = Field(default={})
    """The effect by kind of problem; p-values are not corrected."""
    reward: MeanEffect | None = None
    """The same in mean reward (1 is 100 points), where answers can be partly right."""
    masks: MaskEffect | None = None
    """The effect in half-masks; None for at most MASKS_BEYOND functions."""
    tokens: TokenCost
    used: int
    """Problems whose attempts called it, directly or from code."""


class Shares(Record):
    """Two shares: among the problems that a function's edits were shown, and among others of the same kinds."""

    shown: tuple[int, int]
    """``(hits, problems)``."""
    others: tuple[int, int]
    p_value: float
    """Fisher's exact one-sided test of "no more often among the shown ones"."""


class Memorising(Record):
    """Signs that a function holds answers instead of computing them."""

    name: str
    literals: tuple[str, ...] = ()
    """Literals of its source that equal answers of shown problems, or stand in their questions."""
    answers: Shares | None = None
    """Problems whose answer is a literal of the source; None if that is no sign."""
    questions: Shares | None = None
    """Problems whose question holds a literal of the source; None if that is no sign."""
    solved: Shares | None = None
    """Problems solved of those where it was used; None if that is no sign."""

    @property
    def text(self) -> str:
        """The signs in a sentence."""
        signs = []
        quoted = ", ".join(map(repr, self.literals))
        for found, what in ((self.answers, "equal answers"), (self.questions, "stand in the questions")):
            if found is not None:
                (hits, shown), (other_hits, others) = found.shown, found.others
                signs.append(
                    f"literals in its source {what} of {hits} of the {shown} problems that its edits were shown, and "
                    f"of {other_hits} of {others} others ({quoted})"
                )
        if self.solved is not None:
            (solved, n), (other_solved, other_n) = self.solved.shown, self.solved.others
            signs.append(
                f"where it was used, {solved} of {n} shown problems were solved, but {other_solved} of {other_n} "
                f"others of their kinds (p = {self.solved.p_value:.2g})"
            )
        return f"{self.name} may have memorised answers: {'; '.join(signs)}"


class Pruned(Record):
    """What pruning removed."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    functions: str
    """Fingerprint of the pruned set."""
    effect: PairedDifference
    """The pruned set minus the whole one, on problems that no removed function's edits were shown."""
    run: str | None = None
    """The folder of the run that has the pruned set; None: the run itself, because it had not been tested."""


class Credit(Record):
    """What each function of a set contributes."""

    functions: str
    """Fingerprint of the whole set."""
    problems: dict[Split, int]
    """Problems that were rolled out, by split."""
    masks: int = 0
    """Random half-masks that were rolled out too."""
    each: tuple[FunctionCredit, ...] = ()
    """In the set's order."""
    memorising: tuple[Memorising, ...] = ()
    """Functions that look memorised."""
    pruned: Pruned | None = None
    """None if pruning was not asked for or removed nothing."""
    notes: tuple[str, ...] = ()
    """What limits these figures, in sentences."""
