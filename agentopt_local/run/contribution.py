"""What each function of a run contributes, and which ones look memorised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """The effect of a function among random halves of the others: masks with it minus masks without it, among the masks
    that keep the functions which it calls."""

    n: int
    """Problems."""
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
        signs: list[str] = []
        quoted = ", ".join(map(repr, self.literals))
        for found, what in ((self.answers, "equal the answers"), (self.questions, "stand in the questions")):
            if found is not None:
                (hits, shown), (other_hits, others) = found.shown, found.others
                literals = "they" if signs else f"literals in its source ({quoted})"
                counted = f"{hits} of the {shown} problems that its edits were shown, and of {other_hits} of {others}"
                signs.append(f"{literals} {what} of {counted} others")
        if self.solved is not None:
            (solved, n), (other_solved, other_n) = self.solved.shown, self.solved.others
            signs.append(
                f"where it was used, {solved} of {n} shown problems were solved, but {other_solved} of {other_n} "
                f"others of their kinds (p = {self.solved.p_value:.2g})"
            )
        return f"{self.name} may have memorised answers: {'; '.join(signs)}"


class Offers(Record):
    """What the problems were offered of a set that is larger than an offer."""

    functions: int
    """Functions of the set."""
    mean: float
    """Functions that a problem was offered, on average."""
    judged: int
    """Rollouts whose problem is of a kind that a function of the set was written for, as far as that is known."""
    misses: int
    """Of these, the ones whose offer lacks such a function and has one for other kinds, or none at all."""

    @property
    def text(self) -> str:
        """The figures in a sentence."""
        offered = f"Each problem was offered {self.mean:.3g} of {self.functions} functions on average"
        if not self.judged:
            return f"{offered}; which kinds of problems they were written for is not known"
        return (
            f"{offered}; in {self.misses} of {self.judged} rollouts one that was written for the problem's kind was "
            "missing"
        )


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
    """Random halves of the set that each problem was rolled out with too."""
    each: tuple[FunctionCredit, ...] = ()
    """In the set's order."""
    memorising: tuple[Memorising, ...] = ()
    """Functions that look memorised."""
    pruned: Pruned | None = None
    """None if pruning was not asked for or removed nothing."""
    notes: tuple[str, ...] = ()
    """What limits these figures, in sentences."""

    def __str__(self) -> str:
        return "\n".join(told(self))


def told(found: Credit) -> Iterator[str]:
    """A table of effects in lines, and what follows from them."""
    on = " and ".join(f"{n} {'training' if split == 'train' else split}" for split, n in found.problems.items())
    yield f"What each function contributes: the whole set minus the set without it, on {on} problems"
    rows: list[tuple[str, ...]] = [
        ("function", "points", "95 % interval", "only with", "only without", "p (Holm)", "tokens", "verdict")
    ]
    rows += [row(each) for each in found.each]
    yield from aligned(rows)
    for each in found.each:
        yield from details(each)
    yield from (f"Warning: {each.text}" for each in found.memorising)
    costly = [each.name for each in found.each if each.verdict in ("hurts", "only costs tokens")]
    removed = found.pruned.removed if found.pruned is not None else ()
    if found.pruned is not None:
        yield f"Removed: {', '.join(removed)}. The smaller set against the whole one: {change(found.pruned.effect)}"
    if left := [name for name in costly if name not in removed]:
        yield f"Hurts or only costs tokens: {', '.join(left)}{'' if removed else ' (--prune removes it)'}"
    yield from found.notes


def row(each: FunctionCredit) -> tuple[str, ...]:
    """A function's line of the table. Tokens are prompt tokens per problem that describe it."""
    change = each.effect
    return (
        each.name,
        f"{change.points:+.1f}",
        f"{change.ci95[0]:+.1f} to {change.ci95[1]:+.1f}",
        f"{change.gained} of {change.n}",
        str(change.lost),
        f"{each.p_adjusted:.2g}",
        f"{each.tokens.schema_read:.0f}",
        each.verdict,
    )


def details(each: FunctionCredit) -> Iterator[str]:
    """What the table has no room for."""
    if len(each.left_out) > 1:
        others = ", ".join(name for name in each.left_out if name != each.name)
        yield f"  {each.name} was left out together with {others}, which cannot work without it"
    if each.masks is not None:
        low, high = each.masks.ci95
        yield (
            f"  {each.name} among random halves of the others: {each.masks.points:+.1f} points, 95 % interval "
            f"{low:+.1f} to {high:+.1f}, p = {each.masks.p_value:.2g}"
        )
    if each.reward is not None:
        low, high = each.reward.ci95
        yield f"  {each.name}, mean reward: {each.reward.points:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
    for kind, found in each.kinds.items():
        if found.gained or found.lost:
            yield f"  {each.name} on {kind or 'other'}: {change(found)}"


def change(found: PairedDifference) -> str:
    """``+10.0 points (+1.2 to +20.1), 6 gained and 0 lost of 60``."""
    low, high = found.ci95
    counts = f"{found.gained} gained and {found.lost} lost of {found.n}"
    return f"{found.points:+.1f} points ({low:+.1f} to {high:+.1f}), {counts}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows with columns of equal width; the first and the last column are text."""
    widths = [max(len(each[index]) for each in rows) for index in range(len(rows[0]))]
    for each in rows:
        middle = (cell.rjust(width) for cell, width in zip(each[1:-1], widths[1:-1], strict=True))
        yield "  ".join((f"  {each[0].ljust(widths[0])}", *middle, each[-1]))
