"""Majority votes over several attempts at one problem, where the task's grader decides which answers are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agentopt_local.errors import ConfigError
from agentopt_local.graders.numbers import parse_number
from agentopt_local.problem import Problem
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.tasks.base import Problems
from agentopt_local.trajectory import Trajectory

MAX_CLASSES = 8
"""Classes that an answer is compared with, the most frequent texts first: it bounds the gradings per problem."""
OTHER_ANSWERS = ("no such answer", "471147114711")
"""Expected answers that no right answer equals, in forms of which every grader can read one."""


class Ballot:
    """Elects one of several rollouts of a problem.

    Source: Wang et al., "Self-Consistency Improves Chain of Thought Reasoning", ICLR 2023, arXiv 2203.11171.
    """

    def __init__(self, task: Problems, sandbox: Sandbox) -> None:
        self.task = task
        self.sandbox = sandbox

    async def elect(self, problem: Problem, votes: Sequence[Trajectory]) -> Trajectory:
        """The earliest rollout of the largest class of equal answers; of several, the class that appeared first.

        Two answers are equal if the grader takes one of them as right where the other is expected. Where it does not go
        by the expected answer, it would tell which votes are right, so there the normalized texts are compared.
        Rollouts without an answer do not vote; if none has one, the first rollout is the result.

        Raises SandboxError if the sandbox fails.
        """
        answered = [(each, each.answer.strip()) for each in votes if each.answer is not None and each.answer.strip()]
        if not answered:
            return votes[0]
        counts = Counter(text for _, text in answered)  # in the order of their first appearance
        by_grader = len(counts) > 1 and await self._goes_by_the_expected_answer(problem)
        classes: list[list[str]] = []
        for text in sorted(counts, key=lambda each: -counts[each]):
            for known in classes[:MAX_CLASSES]:
                if await self._equal(problem, text, known[0], by_grader):
                    known.append(text)
                    break
            else:
                classes.append([text])
        place = {text: number for number, text in enumerate(counts)}
        winner = min(classes, key=lambda each: (-sum(counts[text] for text in each), min(place[text] for text in each)))
        return next(each for each, text in answered if text in winner)

    async def _equal(self, problem: Problem, answer: str, other: str, by_grader: bool) -> bool:
        if not by_grader:
            return same_text(answer) == same_text(other)
        return bool(await self._right(problem, answer, other)) or bool(await self._right(problem, other, answer))

    async def _goes_by_the_expected_answer(self, problem: Problem) -> bool:
        """Whether the problem's right answer is wrong where another one is expected."""
        found = [await self._right(problem, problem.answer, expected) for expected in OTHER_ANSWERS]
        return False in found and True not in found

    async def _right(self, problem: Problem, answer: str, expected: str) -> bool | None:
        """Whether the grader takes ``answer`` where ``expected`` is right; None if it cannot expect that."""
        expecting = getattr(self.task, "expecting", None)  # tasks whose grader reads more than the problem's answer
        try:
            other = expecting(problem, expected) if expecting else problem.model_copy(update={"answer": expected})
            grade = await self.task.grade(other, answer, self.sandbox)
        except ConfigError:
            return None
        return grade.correct


def same_text(answer: str) -> str:
    """``answer`` in a form that ignores case, white space and how numbers are written."""
    number, unit = parse_number(answer)
    return f"{number} {unit}".strip() if number is not None else " ".join(answer.casefold().split())
