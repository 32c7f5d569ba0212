"""A scripted author of functions and a bench for the optimizer, with a real sandbox."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from agentopt_local import prompts
from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.graders.text import exact
from agentopt_local.grading import Grade
from agentopt_local.incoming import Incoming
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.problem import Problem, Split
from agentopt_local.sandbox import Sandbox, open_sandbox
from agentopt_local.seeds import derive
from agentopt_local.train_state import FailedUpdate
from agentopt_local.trajectory import Step, ToolRun, Trajectory
from agentopt_local.update import OptimizerConfig, Update

T = TypeVar("T")
SHOUT = 'def shout(word: str) -> str:\n    """Return word in capitals."""\n    return word.upper()\n'
WRONG = SHOUT.replace("upper", "title")
NEARLY = SHOUT.replace("return word.upper()", "return word.upper() if len(word) < 4 else word")
CRASH = SHOUT.replace("return word.upper()", "return word[99]")
FORBIDDEN = SHOUT.replace("    return", "    import os\n    return")
VARIADIC = SHOUT.replace("word: str", "*word: str")
MISNAMED = SHOUT.replace("def shout", "def yell")
GREET = 'def greet(word: str) -> str:\n    """Return a greeting of word."""\n    return "Hello " + word\n'


class Shouting:
    """A tiny task: words to be shouted. The answer is the word in capitals."""

    name = "shouting"
    preload: tuple[str, ...] = ()

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        return WORDS[:n]

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        return exact(answer or "", problem.answer)


def word_problem(word: str, kind: str = "shout") -> Problem:
    return Problem(id=f"{kind}-{word}", question=f"Shout: {word}", answer=word.upper(), kind=kind)


WORDS = tuple(word_problem(word) for word in ("sun", "moon", "stars"))


def attempt(
    problem: Problem, *, answer: str | None = "dunno", called: str | None = None, result: str = "nope", ok: bool = True
) -> Evidence:
    """An attempt at ``problem`` that ended with ``answer``, perhaps after a call of a function."""
    call = [ToolRun(name=called, arguments={"word": "w"}, ok=ok, result=result)] if called else []
    correct = answer == problem.answer
    trajectory = Trajectory(
        problem_id=problem.id,
        functions="f",
        seed=0,
        steps=(Step(message=Message(role="assistant", content="..."), executed=tuple(call)),),
        answer=answer,
        stop_reason="answer" if answer else "max_turns",
        usage=Usage(),
        wall_s=0.1,
        grade=Grade(reward=1.0 if correct else 0.0, reason="because"),
    )
    return Evidence(problem=problem, trajectory=trajectory)


FAILED = [attempt(problem) for problem in WORDS]


def header(action: str = "add_function", name: str | None = "shout") -> str:
    return json.dumps({"action": action} | ({"name": name} if name else {}))


ADD_SHOUT = header()
TERMINATE = header("terminate", None)


def wording(name: str) -> str:
    """The longest piece of a prompt that is the same in every request."""
    return max(re.split(r"\$\w+", prompts.template(name).template), key=len)


PHASES = {
    wording("write_source"): "source",
    wording("write_helper"): "source",
    wording("example_arguments"): "arguments",
    wording("reflect"): "reflection",
    wording("write_docstring"): "docstring",
    wording("repair"): "repair",
    wording("write_again"): "repair",
    wording("another_idea"): "repair",
}
"""The last one that a question holds says what it is."""


def phase(request: ChatRequest) -> str:
    """Which of the optimizer's questions a request ends with."""
    text = request.messages[-1].content
    found = [kind for piece, kind in PHASES.items() if piece in text]
    return found[-1] if found else "header"


def word_arguments(request: ChatRequest) -> str:
    words = re.findall(r"(problem_\d+): Shout: (\w+)", request.messages[-1].content)
    return json.dumps({key: {"word": word} for key, word in words})


Say = Callable[[ChatRequest], str]


def say(text: str) -> ChatReply:
    """A finished reply; unlike plain text in a script it keeps its last line break, as the grammar wants it."""
    usage = Usage(requests=1, completion_tokens=len(text.split()))
    return ChatReply(message=Message(role="assistant", content=text), usage=usage)


class Author:
    """A scripted optimizer model: each draft (one session) gets headers and sources of its own, in order."""

    def __init__(
        self,
        headers: Sequence[str] | Say = (ADD_SHOUT,),
        sources: Sequence[str] | Say = (SHOUT,),
        arguments: Say = word_arguments,
    ) -> None:
        self.lines: dict[str, Sequence[str] | Say] = {"header": headers, "source": sources}
        self.arguments = arguments
        self.said: dict[tuple[str, str | None], int] = defaultdict(int)

    def __call__(self, request: ChatRequest) -> Any:
        kind = phase(request).replace("repair", "source")
        if kind == "docstring":
            return say('"""For problems that ask to shout, takes a word, returns it."""')
        if kind == "reflection":
            return say("It must be in capitals.")
        if kind == "arguments":
            return self.arguments(request)
        text = self.line(kind, request)
        return say(text)

    def line(self, kind: str, request: ChatRequest) -> str:
        """What the script says next, in this draft, to a question of this kind."""
        lines = self.lines[kind]
        if callable(lines):
            return lines(request)
        index = self.said[kind, request.conversation]
        self.said[kind, request.conversation] += 1
        return lines[min(index, len(lines) - 1)]


class Bench:
    """One event loop and one sandbox for all tests of this file: a sandbox belongs to its loop."""

    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox) -> None:
        self.runner = runner
        self.sandbox = sandbox

    def run(self, job: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await job

        return self.runner.run(awaited())

    def propose(
        self,
        author: Any,
        *,
        functions: FunctionSet | None = None,
        attempts: Sequence[Evidence] = FAILED,
        failures: Sequence[FailedUpdate] = (),
        seed: int = 1,
        strict: bool = False,
        context_tokens: int | None = None,
        **settings: Any,
    ) -> tuple[Update, list[ChatRequest]]:
        """One proposal, and the requests that it took. One sample, one action and no pool unless said otherwise."""
        plain = {"n_samples": 1, "max_actions": 1, "hold_back": False, "n_solved": 0, "n_screen": 0, "extra_edits": 0}
        plain |= {"max_reflection_tokens": 0, "n_alternatives": 0}
        config = OptimizerConfig(**{**plain, **settings})
        model = ScriptedChatModel(author, strict=strict, context_tokens=context_tokens)
        optimizer = Optimizer(model, Shouting(), self.sandbox, config)
        proposal = self.run(optimizer.propose(functions or FunctionSet(), Incoming(attempts), failures, seed=seed))
        return proposal, model.requests


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    sandbox = open_sandbox(workers=1)
    with asyncio.Runner() as runner:
        runner.run(sandbox.start())
        yield Bench(runner, sandbox)
        runner.run(sandbox.aclose())


def index_of(request: ChatRequest) -> int:
    """The number of a request's draft among those of the first edit of :meth:`Bench.propose`."""
    drafts = [derive(derive(derive(1, "kind", 0), "edit", 0), "draft", index) for index in range(8)]
    return drafts.index(int((request.conversation or "").rpartition("/")[2]))


def of_phase(requests: Sequence[ChatRequest], *phases: str) -> list[ChatRequest]:
    return [request for request in requests if phase(request) in phases]


def last(request: ChatRequest) -> str:
    return request.messages[-1].content
