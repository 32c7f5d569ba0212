"""Trials by calls: the draft's model writes arguments for problems, and the function must return their answers."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from agentopt_local import prompts
from agentopt_local.actions import examples_type
from agentopt_local.calling import as_declared
from agentopt_local.chat import Constraint, Message
from agentopt_local.evidence import CHARS_PER_TOKEN, cut
from agentopt_local.functions import Function, FunctionSet, render_value
from agentopt_local.json_text import NotJsonError, only_object
from agentopt_local.problem import Problem
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.source_questions import longer
from agentopt_local.talk import Talk
from agentopt_local.tasks.base import Task
from agentopt_local.trials import NotTriedError, Trial, Trials
from agentopt_local.update import OptimizerConfig

QUESTION = (600, 300, 150)
"""Characters of a problem: the first is shown if the context has room for it, and more if the budget for evidence
does."""
COPYING = 0.0
"""The temperature of arguments, which are copied from problems. At 0.8 a 1.5B model dropped brackets in 5 of 8."""


class KnownArguments:
    """Arguments for the same problems, by parameters: drafts of an edit often agree on these, and what is copied from a
    problem does not depend on the rest."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[dict[str, Any], ...]] = {}
        self.busy: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)


class CallVerifier:
    """Calls functions on problems and compares what they return with the expected answers."""

    def __init__(
        self,
        talk: Talk,
        problems: Sequence[Problem],
        task: Task,
        sandbox: Sandbox,
        known: KnownArguments | None = None,
    ) -> None:
        """``task`` grades what the functions return. ``known``: arguments that several verifiers share."""
        self.arguments = ExampleArguments(talk, talk.config, problems, known or KnownArguments())
        self.problems = problems
        self.task = task
        self.sandbox = sandbox

    async def trials(self, function: Function, functions: FunctionSet) -> Trials:
        """One call for each problem. Raises NotTriedError if the model writes no arguments that fit."""
        spec, timeout_s = function.tool_spec(), self.arguments.config.timeout_s
        given = [as_declared(spec, each) for each in await self.arguments.of(function)]
        executions = await self.sandbox.call_many(functions.source, function.name, given, timeout_s=timeout_s)
        found = []
        for problem, arguments, execution in zip(self.problems, given, executions, strict=True):
            right = False
            if execution.ok:
                right = (await self.task.grade(problem, render_value(execution.value), self.sandbox)).correct
            found.append(Trial(function.name, arguments, execution, problem.answer, right))
        return Trials(tuple(found))


class ExampleArguments:
    """Arguments for each problem, as one draft asks for them.

    They are requested in a separate conversation. It contains no expected answers, so no draft can learn from it what
    to return; and all drafts of an edit share its beginning, which the engine reads once, and the arguments for equal
    parameters.
    """

    def __init__(self, talk: Talk, config: OptimizerConfig, problems: Sequence[Problem], known: KnownArguments) -> None:
        self.talk = talk
        self.config = config
        self.problems = problems
        self.known = known

    async def of(self, function: Function) -> tuple[dict[str, Any], ...]:
        """Arguments of ``function`` for each problem; asked for if none are known for its parameters.

        Raises NotTriedError if the model writes none that fit.
        """
        parameters, found = json.dumps(function.parameters), self.known.found
        async with self.known.busy[parameters]:
            if parameters not in found:
                found[parameters] = await self._fitting(function)
        return found[parameters]

    async def _fitting(self, function: Function) -> tuple[dict[str, Any], ...]:
        constraint = Constraint.of(examples_type(function, len(self.problems)))
        examples = await self._ask(function, constraint)
        misfit = best_match(Draft202012Validator(json.loads(constraint.value)).iter_errors(examples))
        if misfit is not None:
            where = f"at {misfit.json_path}: {cut(misfit.message, 300)}"
            raise NotTriedError(f"the example arguments do not fit {function.signature}: {where}")
        return tuple(examples[f"problem_{i + 1}"] for i in range(len(self.problems)))

    async def _ask(self, function: Function, constraint: Constraint) -> dict[str, Any]:
        """One JSON object, with more tokens where it was cut off."""
        base = limit = self.config.max_arguments_tokens * len(self.problems)
        while True:
            reply = await self.talk.ask(
                self._questions(function), constraint, max_tokens=limit, temperature=COPYING, part="arguments/"
            )
            try:
                return dict(only_object(reply.message.content))
            except NotJsonError as error:
                if reply.finish_reason != "length":
                    raise NotTriedError(f"the example arguments were not JSON: {error}") from None
                before, limit = limit, longer(reply, limit, base)
                if limit == before:  # no more is allowed, or fits
                    told = f"the arguments for its trials were cut off after {before} tokens; let it take shorter ones"
                    raise NotTriedError(told) from None

    def _questions(self, function: Function) -> Iterator[tuple[Message, ...]]:
        """What asks for arguments, with fewer and fewer characters of each problem."""
        asked = [each.question for each in self.problems]
        for chars in (max(QUESTION[0], self.config.evidence_tokens * CHARS_PER_TOKEN // len(asked)), *QUESTION):
            problems = "\n".join(f"problem_{i + 1}: {cut(each, chars)}" for i, each in enumerate(asked))
            text = prompts.fill(
                "example_arguments", problems=problems, signature=function.signature, description=function.description
            )
            yield (Message(role="user", content=text),)
