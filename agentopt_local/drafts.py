"""A draft, one sampled version of an edit: header, source, example arguments, trials, repairs.

The phases are turns of one conversation, so each can reuse the prefix of the previous one from the engine's cache.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from agentopt_local import prompts
from agentopt_local.actions import (
    Action,
    AddFunction,
    Header,
    RemoveFunction,
    ReviseFunction,
    Terminate,
    examples_type,
    parse_header,
    source_type,
)
from agentopt_local.calling import as_declared
from agentopt_local.chat import ChatModel, ChatRequest, Constraint, Message, Sampling, Thinking, Usage
from agentopt_local.errors import FunctionError, PromptError
from agentopt_local.evidence import Evidence, cut
from agentopt_local.functions import Function, FunctionSet, one_text_parameter, render_value
from agentopt_local.json_text import NotJsonError, only_object
from agentopt_local.sandbox.base import Execution, Sandbox
from agentopt_local.seeds import derive
from agentopt_local.source import clean, with_imports
from agentopt_local.tasks.base import Task
from agentopt_local.update import ActionCounts, OptimizerConfig, Verified

log = logging.getLogger("agentopt.drafts")
SHOWN = 200
"""Characters of an argument, a result or an expected answer in the report of a trial."""


@dataclass(frozen=True)
class DraftContext:
    """What all drafts of an edit share."""

    model: ChatModel
    task: Task
    sandbox: Sandbox
    config: OptimizerConfig
    functions: FunctionSet
    evidence: tuple[Evidence, ...]
    header: Constraint | None
    prompt: str
    one_text: bool = False
    """Whether functions must take exactly one str."""
    thinking: Thinking | None = None
    """How the model thinks before each reply."""


class Draft:
    """One conversation with the optimizer model about one edit."""

    def __init__(self, context: DraftContext, seed: int) -> None:
        self.context = context
        self.config = context.config
        self.seed = seed
        self.messages: list[Message] = [Message(role="user", content=context.prompt)]
        self.usage = Usage()
        self.verified: Verified | None = None
        """The best edit so far."""
        self._sampled = self._legal = self._passed = 0
        self._requests = 0

    def counts(self) -> ActionCounts:
        """What became of this draft's samples."""
        return ActionCounts(sampled=self._sampled, legal=self._legal, verified=self._passed)

    async def run(self) -> Verified | None:
        """The edit, repaired as often as the settings allow; None if it never passed the checks."""
        try:
            header = await self._header()
            if header is None:
                return None
            if header.action in ("remove_function", "terminate"):
                action: Action = Terminate() if header.action == "terminate" else RemoveFunction(name=header.name)
                self._passed += 1
                self.verified = Verified(action=action)
                return self.verified
            await self._write(header)
        except PromptError:
            pass  # for example, the conversation outgrew the context: what was verified before that still counts
        return self.verified

    async def _header(self) -> Header | None:
        for _ in range(self.config.max_retries + 1):
            text = await self._ask(self.context.header, max_tokens=self.config.max_header_tokens)
            self._sampled += 1
            try:
                header = parse_header(text, self.context.functions)
            except FunctionError as error:
                self._say(text, f"That is not a legal action: {error}")
                continue
            self._legal += 1
            self._say(text, prompts.fill("write_source", name=header.name))
            return header
        return None

    async def _write(self, header: Header) -> None:
        """Write the source, try it and repair it until every shown problem is answered or the retries are used up."""
        examples: dict[str, Any] | None = None
        old_parameters: dict[str, Any] | None = None
        start = len(self.messages)
        for attempt in range(self.config.max_retries + 1):
            if attempt:  # a repair counts as another action sampled under the same header
                self._sampled += 1
                self._legal += 1
            source = await self._ask(
                self._source_constraint(header.name),
                max_tokens=self.config.max_source_tokens,
                temperature=self.config.repair_temperature if attempt else None,
            )
            try:
                function = self._check(source, header)
                if examples is None or function.parameters != old_parameters:
                    examples = await self._examples(function)
                    old_parameters = function.parameters
                feedback = await self._try(function, header, examples)
            except FunctionError as error:
                feedback = f"That source was refused: {error}"
            log.info("draft %d, %s %s, source %d: %s", self.seed, header.action, header.name, attempt + 1, feedback)
            if feedback is None:
                return
            # Only the latest source stays in the conversation: earlier ones would fill up the context.
            del self.messages[start:]
            self._say(source, prompts.fill("repair", name=header.name, feedback=feedback))

    def _source_constraint(self, name: str) -> Constraint | None:
        if not (self.config.constrain and self.config.constrain_source):
            return None
        return Constraint.of(source_type(name, one_text=self.context.one_text))

    def _check(self, source: str, header: Header) -> Function:
        """The function in ``source``. Raises FunctionError for anything that the optimizer must fix."""
        written = Function.new(clean(source)).source
        function = Function.new(with_imports(written, self.config.allowed_packages, self.context.functions.names))
        if function.name != header.name:
            raise FunctionError(f"the function must be called {header.name!r}, not {function.name!r}")
        if self.context.one_text and one_text_parameter(function) is None:
            raise FunctionError(f"{function.name} must take exactly one parameter, a str; it is {function.signature}")
        foreign = sorted(function.imports - set(self.config.allowed_packages))
        if foreign:
            raise FunctionError(
                f"{function.name}: importing {', '.join(foreign)} is not allowed; allowed are: "
                f"{', '.join(self.config.allowed_packages)}"
            )
        return function

    async def _examples(self, function: Function) -> dict[str, Any]:
        """Arguments for each shown problem, ``{"problem_1": {...}}``.

        They are requested in a separate conversation. It contains no expected answers, so no draft can learn from it
        what to return; and all drafts of an edit share its beginning, which the engine reads once.
        """
        evidence = self.context.evidence
        problems = "\n".join(f"problem_{i + 1}: {cut(each.problem.question, 600)}" for i, each in enumerate(evidence))
        question = prompts.fill(
            "example_arguments", problems=problems, signature=function.signature, description=function.description
        )
        messages = [Message(role="user", content=question)]
        constraint = Constraint.of(examples_type(function, len(evidence)))
        limit = self.config.max_arguments_tokens * self.config.n_evidence
        text = await self._ask(constraint, max_tokens=limit, messages=messages)
        try:
            examples = only_object(text)
        except NotJsonError as error:
            raise FunctionError(f"the example arguments were not JSON: {error}") from None
        misfit = best_match(Draft202012Validator(json.loads(constraint.value)).iter_errors(examples))
        if misfit is not None:
            where = f"at {misfit.json_path}: {cut(misfit.message, 300)}"
            raise FunctionError(f"the example arguments do not fit {function.signature}: {where}")
        return dict(examples)

    async def _try(self, function: Function, header: Header, examples: dict[str, Any]) -> str | None:
        """Call the function on the shown problems; returns what the optimizer must fix, or None if all are right."""
        context = self.context
        spec = function.tool_spec()
        arguments = tuple(as_declared(spec, examples[f"problem_{i + 1}"]) for i in range(len(context.evidence)))
        kind = AddFunction if header.action == "add_function" else ReviseFunction
        action = kind(function=function, examples=arguments)
        edited = action.apply(context.functions)
        executions = await context.sandbox.call_many(
            edited.source, function.name, list(arguments), timeout_s=self.config.timeout_s
        )
        lines, matches = await self._judge(function, arguments, executions)
        if all(execution.ok for execution in executions):
            self._passed += 1
            verified = Verified(action=action, matches=matches, trials=len(executions))
            if self.verified is None or verified.matches > self.verified.matches:
                self.verified = verified
        return None if matches == len(executions) else "Trial calls of your function:\n" + "\n".join(lines)

    async def _judge(
        self, function: Function, arguments: Sequence[dict[str, Any]], executions: Sequence[Execution]
    ) -> tuple[list[str], int]:
        """A line per trial that compares the returned and the expected value, and the number of right ones."""
        lines, matches = [], 0
        for attempted, given, execution in zip(self.context.evidence, arguments, executions, strict=True):
            shown = ", ".join(f"{key}={cut(repr(value), SHOWN)}" for key, value in given.items())
            call = f"{function.name}({shown})"
            if not execution.ok:
                lines.append(f"- {call} failed: {cut(execution.error or '', 400)}")
                continue
            returned = render_value(execution.value)
            grade = await self.context.task.grade(attempted.problem, returned, self.context.sandbox)
            matches += grade.correct
            kind = "" if isinstance(execution.value, str) else f" ({type(execution.value).__name__}, not str)"
            expected = cut(attempted.problem.answer, SHOWN)
            verdict = "which is right" if grade.correct else f"but expected was: {expected}"
            lines.append(f"- {call} returned: {cut(returned, SHOWN)}{kind}\n  {verdict}")
        return lines, matches

    def _say(self, reply: str, answer: str) -> None:
        self.messages += [Message(role="assistant", content=reply), Message(role="user", content=answer)]

    async def _ask(
        self,
        constraint: Constraint | None,
        *,
        max_tokens: int,
        messages: Sequence[Message] | None = None,
        temperature: float | None = None,
    ) -> str:
        """One completion; each request of the draft has its own seed."""
        self._requests += 1
        request = ChatRequest(
            messages=tuple(messages if messages is not None else self.messages),
            constraint=constraint,
            sampling=Sampling(
                max_tokens=max_tokens,
                temperature=self.config.temperature if temperature is None else temperature,
                top_p=self.config.top_p,
                seed=derive(self.seed, "request", self._requests),
            ),
            thinking=self.context.thinking,
            conversation=f"optimizer/{'' if messages is None else 'arguments/'}{self.seed}",
        )
        reply = await self.context.model.complete(request)
        self.usage += reply.usage
        log.debug("draft %d, request %d: %s\n%s", self.seed, self._requests, reply.usage, reply.message.content)
        return reply.message.content
