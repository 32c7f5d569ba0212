"""A draft, one sampled version of an edit: header, source, trials, repairs.

The phases are turns of one conversation, so each can reuse the prefix of the previous one from the engine's cache.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from agentopt_local.actions import (
    Action,
    AddFunction,
    Header,
    RemoveFunction,
    ReviseFunction,
    Terminate,
    parse_header,
    source_type,
)
from agentopt_local.chat import ChatModel, Constraint, Message, Thinking
from agentopt_local.docstrings import with_docstring
from agentopt_local.errors import ContextOverflowError, FunctionError, PromptError
from agentopt_local.evidence import Evidence
from agentopt_local.failed_ideas import FailedIdeas
from agentopt_local.functions import Function, FunctionSet, one_text_parameter
from agentopt_local.room import Room
from agentopt_local.source import clean, with_imports
from agentopt_local.source_questions import Failed, cut_off, longer, questions, reflections
from agentopt_local.talk import Talk
from agentopt_local.trials import NotTriedError, Trials, Verifier
from agentopt_local.update import ActionCounts, OptimizerConfig, Verified

log = logging.getLogger("agentopt.drafts")
ANEW = 2
"""Sources of a draft that are sampled anew without counting as repairs: they were cut off, or repeat a failed one."""
WARMER, WARMEST = 0.1, 1.2
"""Added to a repair's temperature each time that a source repeats a failed one, and how far; servers refuse more."""


@dataclass(frozen=True)
class DraftContext:
    """What all drafts of an edit share."""

    model: ChatModel
    config: OptimizerConfig
    functions: FunctionSet
    evidence: tuple[Evidence, ...]
    header: Constraint | None
    prompt: str
    verifier: Callable[[Talk], Verifier]
    """What tries a draft's functions."""
    room: Room
    """What is known of the model's context."""
    source_tokens: int
    """Generated tokens of a draft's first source."""
    one_text: bool = False
    """Whether functions must take exactly one str."""
    thinking: Thinking | None = None
    """How the model thinks before each reply."""
    questions: tuple[str, ...] = ()
    """That a draft's function will carry."""
    opening: str = "write_source"
    """The prompt that asks for a source."""

    def talk(self, seed: int) -> Talk:
        """What asks the model, with seeds of its own."""
        return Talk(self.model, self.room, self.config, seed, self.thinking)


class Draft:
    """One conversation with the optimizer model about one edit."""

    def __init__(self, context: DraftContext, seed: int) -> None:
        self.context = context
        self.config = context.config
        self.seed = seed
        self.messages: list[Message] = [Message(role="user", content=context.prompt)]
        """The conversation up to its action."""
        self.talk = context.talk(seed)
        self.verified: Verified | None = None
        """The best edit so far."""
        self._counted = ActionCounts()
        self.trials: Trials | None = None
        """Of the source that answered most shown problems; None if none got as far."""
        self.trouble = ""
        """What was wrong with its last sample."""
        self.source_tokens = context.source_tokens
        """Most generated tokens of its next source."""
        self.cut_sources = 0
        self._ideas = FailedIdeas()
        self._verifier = context.verifier(self.talk)

    def counts(self) -> ActionCounts:
        """What became of this draft's samples."""
        return self._counted + ActionCounts(cut=self.talk.cut)

    def _count(self, **more: int) -> None:
        self._counted += ActionCounts(**more)

    async def run(self) -> Verified | None:
        """The edit, repaired as often as the settings allow; None if it never passed the checks."""
        try:
            header = await self._header()
            if header is None:
                return None
            if header.action in ("remove_function", "terminate"):
                action: Action = Terminate() if header.action == "terminate" else RemoveFunction(name=header.name)
                self._count(verified=1)
                self.verified = Verified(action=action)
                return self.verified
            await self._write(header)
        except PromptError as error:  # what was verified before that still counts
            self.trouble = str(error)
            if isinstance(error, ContextOverflowError) and self.verified is None:
                self._count(unfit=1)
        return self.verified

    async def _header(self) -> Header | None:
        limit = self.config.max_header_tokens
        for _ in range(self.config.max_retries + 1):
            reply = await self.talk.ask([self.messages], self.context.header, max_tokens=limit)
            self._count(sampled=1)
            text = Message(role="assistant", content=reply.message.content)
            try:
                header = parse_header(text.content, self.context.functions)
            except FunctionError as error:
                self.trouble = f"That is not a legal action: {error}"
                if reply.finish_reason == "length":
                    self.trouble, limit = cut_off(reply), longer(reply, limit, self.config.max_header_tokens)
                self.messages += [text, Message(role="user", content=self.trouble)]
                continue
            self._count(legal=1)
            self.messages.append(text)
            return header
        return None

    async def _write(self, header: Header) -> None:
        """Write the source, try it and repair it until every shown problem is answered or the retries are used up."""
        repairs = anew = repeats = 0
        failed: Failed | None = None
        note = thought = ""
        while repairs <= self.config.max_retries:
            if failed is not None or note:  # it counts as another action sampled under the same header
                self._count(sampled=1, legal=1)
            warmth = self.config.temperature if failed is None else self.config.repair_temperature
            warmer = min(warmth + WARMER * repeats, max(warmth, WARMEST))
            if failed is not None and not note:
                thought = await self._reflect(failed)
            asking = questions(header.name, failed, note, thought, self.context.opening)
            reply = await self.talk.ask(
                ((*self.messages, *asked) for asked in asking),
                self._source_constraint(header.name),
                max_tokens=self.source_tokens,
                temperature=warmer,
            )
            source, note = reply.message.content, ""
            if reply.finish_reason == "length" and source.count("```") < 2:  # a closed fence holds a whole source
                note = self.trouble = cut_off(reply)
                self.source_tokens = longer(reply, self.source_tokens, self.config.max_source_tokens)
                self.cut_sources += 1
            else:
                failed = await self._assess(source, header)
                if failed is None:
                    return
                repeats += bool(failed.again)
                self.trouble = failed.again or failed.feedback()
            log.info("draft %d, %s %s: %s", self.seed, header.action, header.name, self.trouble)
            free = anew < ANEW and bool(note or (failed and failed.again))
            anew, repairs = anew + free, repairs + (not free)

    async def _reflect(self, failed: Failed) -> str:
        """What the model says about the expected results before it writes another source; empty if it is not asked."""
        limit = self.config.max_reflection_tokens
        thinks = self.talk.usage.thought_tokens > 0  # before each reply, if it can
        if not limit or thinks or not isinstance(failed.why, Trials) or not failed.why.examples:
            return ""
        try:
            reply = await self.talk.ask(reflections(failed.why), None, max_tokens=limit, part="reflection/")
        except ContextOverflowError:  # another source may still fit
            return ""
        return reply.message.content.strip()

    async def _assess(self, source: str, header: Header) -> Failed | None:
        """Check and try a source; None if it answers all shown problems."""
        if (why := self._ideas.find(source)) is not None:
            self._count(repeated=1)
            return Failed(source, why, "Then you wrote the same source again.")
        try:
            trials = await self._try(*self._no_twin(self._check(source, header), header))
        except NotTriedError as error:
            return Failed(source, f"That source was refused: {error}")
        except FunctionError as error:
            return self._ideas.add(Failed(source, f"That source was refused: {error}"))
        if trials.complete:
            return None
        again = "An earlier source returned just the same." if self._ideas.gave(trials) else ""
        self._count(repeated=1 if again else 0)
        return self._ideas.add(Failed(source, trials, again))

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

    def _no_twin(self, function: Function, header: Header) -> tuple[Function, Header]:
        """The edit, or a new docstring for the function in the set that has the same code. Raises FunctionError if that
        has the same docstring, too."""
        if header.action != "add_function" or not self.config.n_alternatives:
            return function, header
        code = function.nameless()
        twin = next((each for each in self.context.functions.each() if each.nameless() == code), None)
        if twin is None:
            return function, header
        if twin.description == function.description:
            raise FunctionError(f"the function {twin.name!r} does just this already")
        log.info("draft %d: %s has the code of %s, which gets its docstring", self.seed, function.name, twin.name)
        return with_docstring(twin, function.description.partition("\n")[0]), Header(
            action="revise_function", name=twin.name
        )

    async def _try(self, function: Function, header: Header) -> Trials:
        """Try the function on what its author was shown, and remember the edit if it ran."""
        adds = header.action == "add_function"
        before = function if adds else self.context.functions.get(header.name)
        function = function.for_questions((*before.questions, *self.context.questions))
        kind = AddFunction if adds else ReviseFunction
        edited = kind(function=function).apply(self.context.functions)
        trials = await self._verifier.trials(function, edited)
        if self.trials is None or trials.matches > self.trials.matches:
            self.trials = trials
        if trials.ran:
            self._count(verified=1)
            if self.verified is None or trials.matches > self.verified.matches:
                action = kind(function=function, examples=trials.examples)
                self.verified = Verified(action=action, matches=trials.matches, trials=len(trials.each))
        return trials
