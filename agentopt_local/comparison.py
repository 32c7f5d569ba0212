"""The untrained and the trained agent on the same held-out problems, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from agentopt_local.functions import FunctionSet
from agentopt_local.origins import Origin
from agentopt_local.problem import Problem
from agentopt_local.run.contribution import Offers
from agentopt_local.run.report import Arm, Comparison, Difference, FunctionResult, KindCounts, Side
from agentopt_local.statistics import paired_difference, wilson
from agentopt_local.trajectory import Trajectory, accuracy, function_use, mean_reward, sum_usage


def compare(
    problems: Sequence[Problem],
    before: Sequence[Trajectory],
    after: Sequence[Trajectory],
    arms: Sequence[Arm] = (),
) -> Comparison:
    """Compare the rollouts before and after training; both are in the order of ``problems``."""
    return Comparison(
        n=len(problems),
        before=side(before),
        after=side(after),
        difference=difference(before, after),
        same_set=same_set(before, after),
        kinds=kinds(problems, before, after),
        arms=tuple(arms),
    )


def difference(before: Sequence[Trajectory], after: Sequence[Trajectory]) -> Difference:
    """``after`` minus ``before``, which are in one order."""
    found = paired_difference([each.correct for each in before], [each.correct for each in after])
    low, high = found.ci95
    return Difference(
        points=round(found.points, 2),
        ci95=(round(low, 2), round(high, 2)),
        p_value=found.p_value,
        gained=found.gained,
        lost=found.lost,
    )


def same_set(before: Sequence[Trajectory], after: Sequence[Trajectory]) -> bool:
    """Whether both are rollouts of one set of functions with one seed, and so one and the same measurement."""
    return bool(before) and {(each.functions, each.seed) for each in (*before, *after)} == {
        (before[0].functions, before[0].seed)
    }


def side(trajectories: Sequence[Trajectory]) -> Side:
    """How one function set did."""
    low, high = wilson(sum(each.correct for each in trajectories), len(trajectories))
    exact = [each.grade.exact for each in trajectories if each.grade.exact is not None]
    return Side(
        accuracy=round(accuracy(trajectories), 4),
        reward=round(mean_reward(trajectories), 4),
        ci95=(round(low, 4), round(high, 4)),
        correct=sum(each.correct for each in trajectories),
        exact=sum(exact) if exact else None,
        tokens=sum_usage(trajectories),
        turns=sum(len(each.steps) for each in trajectories),
        stop_reasons=dict(sorted(Counter(each.stop_reason for each in trajectories).items())),
    )


def kinds(
    problems: Sequence[Problem], before: Sequence[Trajectory], after: Sequence[Trajectory]
) -> dict[str, KindCounts]:
    """Problems solved before and after, by kind."""
    rows: dict[str, KindCounts] = {}
    for problem, old, new in zip(problems, before, after, strict=True):
        row = rows.get(problem.kind or "all", KindCounts(n=0, before=0, after=0))
        rows[problem.kind or "all"] = KindCounts(
            n=row.n + 1, before=row.before + old.correct, after=row.after + new.correct
        )
    return rows


def function_results(functions: FunctionSet, trajectories: Sequence[Trajectory]) -> tuple[FunctionResult, ...]:
    """How each function performed in ``trajectories``."""
    return tuple(
        FunctionResult(
            name=function.name,
            signature=function.signature,
            description=function.description,
            **function_use(function.name, trajectories),
        )
        for function in functions.each()
    )


def offers(
    functions: FunctionSet,
    problems: Sequence[Problem],
    trajectories: Sequence[Trajectory],
    origins: Mapping[str, Origin],
) -> Offers | None:
    """What retrieval offered the problems of ``functions``, in the order of ``trajectories``; None if all functions.

    Where there are more functions for a kind than an offer holds, filling the offer with them is no miss.
    """
    if all(each.offered is None for each in trajectories):
        return None
    kinds = {name: origin.kinds for name, origin in origins.items() if origin.known and origin.kinds}
    judged = misses = 0
    for problem, each in zip(problems, trajectories, strict=True):
        own = {name for name in functions.names if problem.kind in kinds.get(name, ())}
        offered = set(each.offers(functions))
        judged += bool(own)
        others = not offered or any(kinds.get(name) for name in offered - own)
        misses += bool(own - offered) and others
    mean = fmean(len(each.offers(functions)) for each in trajectories)
    return Offers(functions=len(functions), mean=round(mean, 2), judged=judged, misses=misses)
