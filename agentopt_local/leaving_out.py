"""What a function contributes: the whole set against sets without it, on the same problems with the same seed.

Two designs. *Leave-one-out* asks what would be lost today; where two functions do the same work, it credits neither.
*Half-masks* ask what a function adds to a random half of the others, so both are seen (Banzhaf's value, which is the
robust one among data-Shapley-like values: Wang and Jia, "Data Banzhaf", AISTATS 2023).
"""

from __future__ import annotations

import random
import symtable
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

from agentopt_local.chat import Usage
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.origins import Origin
from agentopt_local.problem import Problem
from agentopt_local.record import Record
from agentopt_local.run.contribution import FunctionCredit, MaskEffect, MeanEffect, TokenCost, Verdict
from agentopt_local.seeds import derive
from agentopt_local.statistics import PairedDifference, holm, mean_interval, paired_difference, sign_test
from agentopt_local.trajectory import Trajectory

ALPHA = 0.05
"""Below it a p-value, after Holm's correction, says that a function helps or hurts."""
MASKS_BEYOND = 5
"""Half-masks are made for larger sets: in small ones leave-one-out sees most of what there is."""
LEAST = 6
"""Problems of its kinds on which a function can be seen at all: six gains without a loss have p = 0.03, five 0.06."""
Rolled = Mapping[str, Trajectory]
"""Rollouts of one set by problem id."""
Masked = Sequence[tuple["Mask", Trajectory]]
"""The masks of one problem, each with its rollout."""


class Mask(Record):
    """A random half of a set."""

    drawn: frozenset[str]
    """Names that were drawn."""
    functions: FunctionSet
    """The functions drawn, without those that call one that was not."""


def calls(functions: FunctionSet) -> dict[str, frozenset[str]]:
    """For each function the others that it calls, also by way of others."""
    found = {each.name: reads(each) & set(functions.names) - {each.name} for each in functions.each()}
    for needed in found.values():
        rest = list(needed)
        while rest:
            new = found[rest.pop()] - needed
            needed.update(new)
            rest += new
    return {name: frozenset(needed - {name}) for name, needed in found.items()}


def reads(function: Function) -> set[str]:
    """The global names that a function's body reads, without those that its own file imports."""
    scopes = [symtable.symtable(function.source, "<function>", "exec")]
    for scope in scopes:  # grows while it is iterated over
        scopes += scope.get_children()
    imported = {symbol.get_name() for symbol in scopes[0].get_symbols() if symbol.is_imported()}
    symbols = [symbol for scope in scopes[1:] for symbol in scope.get_symbols()]
    return {each.get_name() for each in symbols if each.is_global() and each.is_referenced()} - imported


def left_out(functions: FunctionSet, name: str) -> tuple[str, ...]:
    """``name`` and the functions that call it: without it they could only fail."""
    needed = calls(functions)
    return tuple(each for each in functions.names if each == name or name in needed[each])


def without(functions: FunctionSet, name: str) -> FunctionSet:
    """The set without ``name`` and the functions that call it."""
    return functions.keeping(frozenset(functions.names) - set(left_out(functions, name)))


def half_masks(functions: FunctionSet, seed: int, problem: str) -> tuple[Mask, ...]:
    """Random halves of a set of more than MASKS_BEYOND functions, for one problem; none for a smaller set.

    They form a two-level orthogonal array of strength 2, with columns and signs drawn anew for each problem: a function
    is drawn in half of the masks, and together with any other in a quarter, so the effects of single functions do not
    mix. What two or more do together falls on others too, but with a sign that differs from problem to problem: it
    cancels in their mean and widens its interval. With the same masks for all problems it would do neither. There are
    2^r masks, more than functions and at most twice as many. (Plackett and Burman, "The design of optimum
    multifactorial experiments", Biometrika 33 (1946), 305-325.)
    """
    names = functions.names
    if len(names) <= MASKS_BEYOND:
        return ()
    needed = calls(functions)
    rows = 1 << len(names).bit_length()
    chosen = random.Random(f"{derive(seed, 'masks')} {problem}")
    columns = dict(zip(names, chosen.sample(range(1, rows), len(names)), strict=True))
    signs = {name: chosen.getrandbits(1) for name in names}
    masks = []
    for row in range(rows):
        drawn = frozenset(name for name in names if ((row & columns[name]).bit_count() + signs[name]) % 2)
        kept = frozenset(name for name in drawn if needed[name] <= drawn)
        masks.append(Mask(drawn=drawn, functions=functions.keeping(kept)))
    return tuple(masks)


def effect(whole: Rolled, smaller: Rolled, problems: Iterable[str]) -> PairedDifference:
    """Solved with the whole set minus solved with the smaller one; ``gained``: only with the whole one."""
    ids = list(problems)
    found = paired_difference([smaller[each].correct for each in ids], [whole[each].correct for each in ids])
    low, high = found.ci95
    rounded = {"points": round(found.points, 2), "ci95": (round(low, 2), round(high, 2))}
    return found.model_copy(update=rounded)


def reward_effect(whole: Rolled, smaller: Rolled, problems: Sequence[str]) -> MeanEffect | None:
    """The change of the mean reward; None if all answers are right or wrong."""
    rewards = [(whole[each].grade.reward, smaller[each].grade.reward) for each in problems]
    if all(each in (0.0, 1.0) for pair in rewards for each in pair):
        return None
    return mean_effect([new - old for new, old in rewards])


def mean_effect(changes: Sequence[float]) -> MeanEffect:
    """The mean of changes per problem, with its interval."""
    low, high = mean_interval(changes)
    mean = fmean(changes) if changes else 0.0
    return MeanEffect(points=round(100 * mean, 2), ci95=(round(100 * low, 2), round(100 * high, 2)))


def mask_effect(name: str, needed: frozenset[str], masked: Mapping[str, Masked], problems: Sequence[str]) -> MaskEffect:
    """Masks with ``name`` minus masks without it, among those that keep what it needs; p is not corrected yet.

    Each problem gives one value, its share of solved masks with the function minus that without it, and the interval is
    that of their mean. A problem is passed over if one side has no mask, as may happen to a function with many needs.
    """
    changes = []
    for problem in problems:
        fair = [(name in mask.drawn, rolled.correct) for mask, rolled in masked[problem] if needed <= mask.drawn]
        sides = [[solved for drawn, solved in fair if drawn is side] for side in (True, False)]
        if all(sides):
            changes.append(fmean(sides[0]) - fmean(sides[1]))
    return MaskEffect(
        **dict(mean_effect(changes)),
        n=len(changes),
        p_value=sign_test(sum(each > 0 for each in changes), sum(each < 0 for each in changes)),
    )


def not_worse(smaller: Rolled, larger: Rolled, problems: Iterable[str]) -> bool:
    """Whether a smaller set solves no fewer problems, and its rewards add up to less than half a problem below.

    A tie goes to the smaller set. Partial rewards flicker, so only a loss that counts is held against it.
    """
    pairs = [(smaller[each], larger[each]) for each in problems]
    solved = sum(new.correct - old.correct for new, old in pairs)
    return solved >= 0 and sum(new.grade.reward - old.grade.reward for new, old in pairs) > -0.5


def verdict_of(effect: PairedDifference, p_adjusted: float, *, of_its_kinds: int, idle: bool) -> Verdict:
    """What an effect says about a function. ``idle``: without it the set is not worse."""
    if p_adjusted < ALPHA:
        return "helps" if effect.points > 0 else "hurts"
    if of_its_kinds < LEAST:
        return "too few problems"
    return "only costs tokens" if idle else "no effect seen"


def token_cost(whole: Rolled, smaller: Rolled, problems: Sequence[str]) -> TokenCost:
    """Mean tokens per problem. The schema's share is read off attempts with equally many requests on both sides.

    These differ in little but the prompt's head; the median passes over those that said something else.
    """
    pairs = [(whole[each].usage, smaller[each].usage) for each in problems]
    if not pairs:
        return TokenCost(schema_read=0.0, read=(0.0, 0.0), generated=(0.0, 0.0))
    alike = [(new, old) for new, old in pairs if new.requests == old.requests > 0]
    heads = [(new.prompt_tokens - old.prompt_tokens) / new.requests for new, old in alike]
    requests = fmean(new.requests for new, _ in pairs)
    new_side, old_side = zip(*pairs, strict=True)
    return TokenCost(
        schema_read=round(max(0.0, median(heads)) * requests, 1) if heads else 0.0,
        read=(mean_of(new_side, "prompt_tokens"), mean_of(old_side, "prompt_tokens")),
        generated=(mean_of(new_side, "completion_tokens"), mean_of(old_side, "completion_tokens")),
    )


def mean_of(usages: Iterable[Usage], field: str) -> float:
    """The mean of one count of tokens."""
    return round(fmean(getattr(each, field) for each in usages), 1)


def credit_each(
    functions: FunctionSet,
    problems: Sequence[Problem],
    rolled: Mapping[str, Rolled],
    masked: Mapping[str, Masked],
    origins: Mapping[str, Origin],
) -> tuple[FunctionCredit, ...]:
    """What each function contributes on the problems that its edits were not shown.

    ``rolled``: rollouts on ``problems`` by a set's fingerprint; ``masked``: by problem, empty for a small
    set; ``origins``: by function.
    """
    needed = calls(functions)
    whole = rolled[functions.fingerprint]
    fair = {name: not_shown(problems, left_out(functions, name), origins) for name in functions.names}
    ids = {name: [each.id for each in some] for name, some in fair.items()}
    smaller = {name: rolled[without(functions, name).fingerprint] for name in functions.names}
    effects = {name: effect(whole, smaller[name], ids[name]) for name in functions.names}
    adjusted = dict(zip(effects, holm([each.p_value for each in effects.values()]), strict=True))
    in_masks = {name: mask_effect(name, needed[name], masked, ids[name]) for name in functions.names if masked}
    mask_p = dict(zip(in_masks, holm([each.p_value for each in in_masks.values()]), strict=True))
    return tuple(
        FunctionCredit(
            name=name,
            left_out=left_out(functions, name),
            verdict=verdict_of(
                effects[name],
                adjusted[name],
                of_its_kinds=sum(origins[name].wrote_for(each) for each in fair[name]),
                idle=not_worse(smaller[name], whole, ids[name]),
            ),
            effect=effects[name],
            p_adjusted=adjusted[name],
            kinds=by_kind(whole, smaller[name], fair[name]),
            reward=reward_effect(whole, smaller[name], ids[name]),
            masks=in_masks[name].model_copy(update={"p_value": mask_p[name]}) if masked else None,
            tokens=token_cost(whole, smaller[name], ids[name]),
            used=sum(whole[each].used(name) for each in ids[name]),
        )
        for name in functions.names
    )


def not_shown(problems: Iterable[Problem], names: Iterable[str], origins: Mapping[str, Origin]) -> list[Problem]:
    """The problems that no edit of these functions was shown."""
    seen = frozenset[str]().union(*(origins[each].shown for each in names))
    return [each for each in problems if each.id not in seen]


def by_kind(whole: Rolled, smaller: Rolled, problems: Sequence[Problem]) -> dict[str, PairedDifference]:
    """The effect on each kind of problem; empty if there is one kind only."""
    kinds: dict[str, list[str]] = {}
    for each in problems:
        kinds.setdefault(each.kind, []).append(each.id)
    return {kind: effect(whole, smaller, ids) for kind, ids in sorted(kinds.items())} if len(kinds) > 1 else {}


def removable(found: Iterable[FunctionCredit]) -> list[FunctionCredit]:
    """Functions that hurt or only cost tokens, the most harmful first; of equals, the one with the longest schema."""
    some = [each for each in found if each.verdict in ("hurts", "only costs tokens")]
    return sorted(some, key=lambda each: (each.effect.points, -each.tokens.schema_read))
