"""Further attempts at problems that failed: where one of them is right, its program can teach something.

Only outcomes that vary are worth the tokens, so problems of kinds that the agent always or never solves are left out.
What these attempts find is shown to the optimizer. It plays no part in judging its edits.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentopt_local.concurrency import together
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.rollout import Rollouts
from agentopt_local.seeds import derive
from agentopt_local.stage import Stage


async def further_successes(
    rollouts: Rollouts, functions: FunctionSet, evidence: Sequence[Evidence], times: int, *, seed: int, stage: Stage
) -> list[Evidence]:
    """The first right one of ``times`` more attempts at each failed problem in ``evidence`` that has one.

    ``rollouts`` samples at a temperature above 0. Raises what rollouts raise.
    """
    right = {each.problem.kind for each in evidence if each.trajectory.correct}
    failed = [each.problem for each in evidence if not each.trajectory.correct and each.problem.kind in right]
    if not failed or times < 1:
        return []
    attempts = await together(
        rollouts.run(functions, failed, seed=derive(seed, "attempt", number), stage=stage) for number in range(times)
    )
    found = []
    for problem, some in zip(failed, zip(*attempts, strict=True), strict=True):
        solved = next((each for each in some if each.correct), None)
        if solved is not None:
            found.append(Evidence(problem=problem, trajectory=solved))
    return found
