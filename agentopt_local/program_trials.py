"""Trials by programs: those that solved problems are rewritten to call a function, and must print the same answers.

So a helper is judged by the programs that it serves and not by what it returns. Learning from programs that were right
follows CRAFT (Yuan et al., ICLR 2024, arXiv 2309.17428) and ReGAL (Stengel-Eskin et al., ICML 2024, arXiv 2401.16467).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agentopt_local import prompts
from agentopt_local.agents.dialect import code_in
from agentopt_local.chat import Constraint, Message
from agentopt_local.concurrency import together
from agentopt_local.errors import ContextOverflowError
from agentopt_local.evidence import CHARS_PER_TOKEN, Evidence, cut
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.groups import Group, alike
from agentopt_local.problem import Problem
from agentopt_local.sandbox.base import Execution, Sandbox
from agentopt_local.talk import Talk
from agentopt_local.tasks.base import Task
from agentopt_local.trajectory import PYTHON
from agentopt_local.trials import NotTriedError, ProgramTrial, Trials

LEAST_LINES = 2
"""Of a program that a helper could make shorter."""
LEAST_PROGRAMS = 2
"""That can have something in common."""
PROGRAM_GRAMMAR = r"""
start: "```python\n" LINE+ [/```\n?/]
LINE: /[^`\n]*\n/
"""


class Program(NamedTuple):
    """Code that solved a problem."""

    problem: Problem
    code: str


def program_of(attempt: Evidence) -> Program | None:
    """The last code of a right rollout that ran; None if there is none that is worth sharing."""
    if not attempt.trajectory.correct:
        return None
    ran = [each for each in attempt.trajectory.executed if each.name == PYTHON and each.ok]
    code = ran[-1].arguments.get("code") if ran else None
    if not isinstance(code, str) or len([line for line in code.splitlines() if line.strip()]) < LEAST_LINES:
        return None
    return Program(attempt.problem, code)


def program_groups(attempts: Sequence[Evidence]) -> list[Group]:
    """Right rollouts of a kind whose programs are alike, one for each problem, the largest group first."""
    kinds: dict[str, dict[str, Evidence]] = {}
    for each in attempts:
        if program_of(each) is not None:
            kinds.setdefault(each.problem.kind, {}).setdefault(each.problem.id, each)
    found = [group for kind, some in kinds.items() for group in alike(kind, list(some.values()), LEAST_PROGRAMS)]
    found = [each for each in found if len(each.attempts) >= LEAST_PROGRAMS]
    return sorted(found, key=lambda group: -len(group.attempts))


class ProgramVerifier:
    """Has programs rewritten so that they call a function, and runs them."""

    def __init__(self, talk: Talk, programs: Sequence[Program], task: Task, sandbox: Sandbox) -> None:
        """``task`` grades what the programs print."""
        self.talk = talk
        self.programs = programs
        self.task = task
        self.sandbox = sandbox

    async def trials(self, function: Function, functions: FunctionSet) -> Trials:
        """One rewritten program for each. Raises NotTriedError if the context has no room for any."""
        try:
            written = await together(self._rewritten(function, each) for each in self.programs)
        except ContextOverflowError as error:
            raise NotTriedError(f"no program could be rewritten to call it: {error}") from None
        found = []
        for number, (program, code) in enumerate(zip(self.programs, written, strict=True), start=1):
            execution = await self.sandbox.run(code, functions=functions.source, timeout_s=self.talk.config.timeout_s)
            calls = calls_function(code, function.name)
            right = calls and execution.ok and await self._right(program.problem, execution)
            found.append(ProgramTrial(number, code, execution, program.problem.answer, right, calls))
        return Trials(tuple(found), opening="The programs, rewritten to call your function:")

    async def _right(self, problem: Problem, execution: Execution) -> bool:
        lines = execution.stdout.strip().splitlines()
        return bool(lines) and (await self.task.grade(problem, lines[-1].strip(), self.sandbox)).correct

    async def _rewritten(self, function: Function, program: Program) -> str:
        """The program that the model writes in place of ``program``; empty if it writes none."""
        constraint = None
        if self.talk.config.constrain and self.talk.config.constrain_source:
            from outlines.types import CFG

            constraint = Constraint.of(CFG(PROGRAM_GRAMMAR))
        limit = self.talk.config.max_source_tokens
        reply = await self.talk.ask(self._questions(function, program), constraint, max_tokens=limit, part="programs/")
        block = code_in(reply.message.content)
        if block is None:
            return ""
        return (block.whole or "") if reply.finish_reason == "length" and block.whole is not None else block.code

    def _questions(self, function: Function, program: Program) -> Iterator[tuple[Message, ...]]:
        """What asks for a program, with fewer and fewer characters of its problem."""
        room = self.talk.config.evidence_tokens * CHARS_PER_TOKEN // max(1, len(self.programs))
        for chars in (room, room // 2, room // 4):
            text = prompts.fill(
                "rewrite_program",
                question=cut(program.problem.question, chars),
                code=program.code.strip(),
                signature=f"def {function.signature}:",
                description=f'"""{function.description}"""',
                name=function.name,
            )
            yield (Message(role="user", content=text),)


def calls_function(code: str, name: str) -> bool:
    """Whether ``code`` calls the function ``name`` and does not define one of its own."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    own = any(isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name for node in nodes)
    own |= any(isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store) for node in nodes)
    called = any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name for node in nodes
    )
    return called and not own
