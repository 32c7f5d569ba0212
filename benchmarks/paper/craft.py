"""CRAFT, a baseline whose tools are abstracted from solved training problems and offered by votes of three matchings.

*Build*: training problems are solved by a creator; each program that was graded right is made into a general function
with a call, which is kept if the call gives the right answer again. *Test*: the model guesses names and a docstring of
functions that would solve the problem; a tool that is matched by at least two of docstring, name and the question that
it stems from is offered to a creator. Without one the creator works alone.

Source: Yuan et al., "CRAFT: Customizing LLMs by Creating and Retrieving from Specialized Toolsets", ICLR 2024, arXiv
2309.17428. What differs here stands in ``protocols/table4.toml``.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from agentopt_local import prompts
from agentopt_local.agents.creator import CreatorAgent, CreatorDialect, CreatorEpisode, only_code, printed_answer
from agentopt_local.agents.dialect import whole_part
from agentopt_local.agents.loop import Episode
from agentopt_local.chat import ChatRequest, Constraint, Message, Sampling, Usage
from agentopt_local.concurrency import together
from agentopt_local.errors import FunctionError, PromptError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.json_text import only_object
from agentopt_local.likeness import likeness
from agentopt_local.problem import Problem
from agentopt_local.record import Record
from agentopt_local.run.files import read_json, write_json
from agentopt_local.signatures import TYPES_ALLOWED
from agentopt_local.source import tree_of, with_imports
from agentopt_local.trajectory import Step, StopReason, Trajectory, sum_usage
from ray_jobs.session import Session

DOCSTRINGS, NAMES, QUESTIONS = 10, 5, 10
"""How many tools each matching may vote for."""
LEAST_VOTES = 2
OFFERED = 3
"""Most tools that a problem is offered."""
FILE = "craft.json"
"""The toolset in a cell's folder."""

End = Literal["kept", "cut", "refused", "invalid", "not reproduced", "duplicate"]
"""What became of a program that was right: ``cut``, ``refused``: the model's reply or its prompt; ``invalid``: the
reply held no valid function; ``not reproduced``: its call did not give the right answer."""


class Guess(Record):
    """What a function that solves a problem may be called, and its docstring."""

    names: tuple[str, ...]
    docstring: str


GUESS_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "names": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": NAMES},
            "docstring": {"type": "string"},
        },
        "required": ["names", "docstring"],
        "additionalProperties": False,
    }
)


class Tool(Record):
    """A general function and the question of the problem that it was abstracted from."""

    function: Function
    question: str

    @property
    def key(self) -> tuple[str, int]:
        """Tools of one name with as many arguments are duplicates."""
        return self.function.name, len(self.function.parameters["properties"])


class Toolset(Record):
    """What a build has made."""

    tools: tuple[Tool, ...] = ()
    ends: dict[str, int] = Field(default={})
    """How many of the right programs came to each :data:`End`."""
    usage: Usage = Usage()
    """Of the whole build: solving the training problems and abstracting."""

    def matched(self, question: str, guess: Guess) -> list[Tool]:
        """At most OFFERED tools with LEAST_VOTES or more: the most votes first, then the most alike."""
        texts: list[tuple[str, list[str], int]] = [
            (guess.docstring, [each.function.description for each in self.tools], DOCSTRINGS),
            (" ".join(guess.names), [each.function.name for each in self.tools], NAMES),
            (question, [each.question for each in self.tools], QUESTIONS),
        ]
        votes: dict[int, list[float]] = {}
        for query, candidates, most in texts:
            scores = alike(query, candidates)
            best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:most]
            for index in best:
                if scores[index] > 0:
                    votes.setdefault(index, []).append(scores[index])
        chosen = [index for index, cast in votes.items() if len(cast) >= LEAST_VOTES]
        chosen.sort(key=lambda index: (-len(votes[index]), -sum(votes[index]), index))
        return [self.tools[index] for index in chosen[:OFFERED]]


def alike(query: str, texts: Sequence[str]) -> list[float]:
    """How alike each of ``texts`` is to ``query``, 0 to 1."""
    try:
        return likeness(query, texts)
    except ValueError:  # all words together are stop words
        return [0.0] * len(texts)


class CraftAgent(CreatorAgent):
    """A creator that is offered those tools of a toolset that match the problem."""

    def __init__(self, toolset: Toolset, *given: Any) -> None:
        """``given``: what a creator is made of."""
        super().__init__(*given)
        self.toolset = toolset

    def episode(self, problem: Problem, functions: FunctionSet, offered: FunctionSet, seed: int) -> Episode:
        """The state of one attempt."""
        episode = CraftEpisode(self, problem, functions, offered, seed)
        episode.toolset, episode.question = self.toolset, problem.question
        return episode


class CraftEpisode(CreatorEpisode):
    """One attempt: a guess, the offer, then as a creator."""

    toolset: Toolset
    question: str

    async def run(self) -> StopReason:
        """Guess and match, unless there are no tools, then create."""
        if self.toolset.tools:
            try:
                guess = await self._guessed()
            except PromptError as error:
                return self._stopped_by(error)
            self._offer(self.toolset.matched(self.question, guess) if guess else [])
        return await super().run()

    async def _guessed(self) -> Guess | None:
        """None if the reply was cut off or is no guess."""
        prompt = prompts.fill("craft_guess", n=str(NAMES), question=self.question)
        request = ChatRequest(
            messages=(Message(role="user", content=prompt),),
            constraint=Constraint(kind="json_schema", value=GUESS_SCHEMA) if self.config.constrain else None,
            sampling=self._sampling(min(self._left(), self.config.max_turn_tokens)),
            thinking=self.agent.thinking,
            conversation=self.conversation,
        )
        reply = await self.agent.model.complete(request)
        self.usage += reply.usage
        self.steps.append(Step(message=reply.message))
        return None if reply.finish_reason == "length" else read_guess(reply.message.content)

    def _offer(self, tools: Sequence[Tool]) -> None:
        """Make ``tools`` the functions of the attempt; of two with one name, the first."""
        for tool in tools:
            try:
                self.functions = self.functions.adding(tool.function)
            except FunctionError:
                continue
        self.messages[0] = Message(role="system", content=self.dialect.system(self.functions))


def read_guess(text: str) -> Guess | None:
    """The guess in a reply; None if it is none."""
    try:
        return Guess.model_validate(only_object(text))
    except ValueError:
        return None


async def toolset_of(session: Session, solved: Sequence[tuple[Problem, Trajectory]]) -> Toolset:
    """The toolset of a training, made once: a resume reads it from the run folder.

    ``solved``: a creator's rollouts of the training problems. Raises ModelError and SandboxError, but no PromptError.
    """
    path = session.run_dir.path / FILE
    known = read_json(path)
    if known is not None:
        return Toolset.model_validate(known)
    made = await together(abstracted(session, *each) for each in solved if each[1].correct)
    tools: dict[tuple[str, int], Tool] = {}
    ends: Counter[str] = Counter()
    usage = sum_usage([rollout for _, rollout in solved])
    for tool, end, used in made:
        usage += used
        again = tool is not None and tool.key in tools
        ends["duplicate" if again else end] += 1
        if tool is not None:
            tools.setdefault(tool.key, tool)
    toolset = Toolset(tools=tuple(tools.values()), ends=dict(ends), usage=usage)
    write_json(path, toolset.model_dump(mode="json"))
    return toolset


async def abstracted(session: Session, problem: Problem, rollout: Trajectory) -> tuple[Tool | None, End, Usage]:
    """A general tool of the program that solved ``problem``, or why there is none, and the tokens that it took."""
    config = session.config
    program = str(rollout.executed[-1].arguments["code"])
    prompt = prompts.fill("craft_abstraction", question=problem.question, program=program, types=TYPES_ALLOWED)
    dialect = CreatorDialect(config.agent.model_copy(update={"think": False}))
    sampling = config.optimizer
    request = ChatRequest(
        messages=(Message(role="user", content=prompt),),
        constraint=dialect.constraint(FunctionSet(), "forbidden") if sampling.constrain_source else None,
        sampling=Sampling(max_tokens=sampling.max_source_tokens + sampling.max_arguments_tokens),
        thinking=(config.optimizer_model or config.model).thinking_as("optimizer"),
        conversation=f"craft/{problem.id}",
    )
    try:
        reply = await session.optimizer.model.complete(request)
    except PromptError as error:
        return None, "refused", error.usage or Usage()
    turn = dialect.read(reply.message, FunctionSet())
    code = only_code(whole_part(turn) if reply.finish_reason == "length" else turn)
    if code is None:
        return None, "cut" if reply.finish_reason == "length" else "invalid", reply.usage
    try:
        function, call = tool_and_call(code.code, sampling.allowed_packages)
    except FunctionError:
        return None, "invalid", reply.usage
    if not await reproduces(session, problem, function, call):
        return None, "not reproduced", reply.usage
    return Tool(function=function, question=problem.question), "kept", reply.usage


def tool_and_call(code: str, packages: Sequence[str]) -> tuple[Function, str]:
    """The function that ``code`` defines and the rest, which calls it. Raises FunctionError if it is not so."""
    body = tree_of(code).body
    imports = [each for each in body if isinstance(each, ast.Import | ast.ImportFrom)]
    functions = [each for each in body if isinstance(each, ast.FunctionDef)]
    if len(functions) != 1:
        raise FunctionError(f"one function is wanted, not {len(functions)}")
    rest = [each for each in body if each not in functions]
    source, call = (
        "\n".join(ast.get_source_segment(code, each) or "" for each in part) for part in ([*imports, *functions], rest)
    )
    function = Function.new(with_imports(source, packages))
    if foreign := sorted(function.imports - set(packages)):
        raise FunctionError(f"it imports {', '.join(foreign)}")
    if not re.search(rf"\b{function.name}\s*\(", call):
        raise FunctionError(f"nothing calls {function.name}")
    return function, call


async def reproduces(session: Session, problem: Problem, function: Function, call: str) -> bool:
    """Whether ``call`` prints the right answer."""
    source = FunctionSet(functions=(function,)).source
    run = await session.sandbox.run(call, functions=source, timeout_s=session.config.agent.timeout_s)
    answer = printed_answer(run.stdout) if run.ok else None
    return answer is not None and (await session.task.grade(problem, answer, session.sandbox)).correct
