"""CRAFT: tools abstracted from right programs, offered by votes; with CREATOR as arms of a table."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.creator import CreatorAgent, CreatorDialect
from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.errors import ContextOverflowError, FunctionError, RefusedPromptError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.models.scripted import Script, ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.sandbox import Sandbox, open_sandbox
from agentopt_local.trajectory import Attempt, Step, ToolRun, Trajectory
from agentopt_local.update import OptimizerConfig
from benchmarks.paper.craft import (
    OFFERED,
    CraftAgent,
    Guess,
    Tool,
    Toolset,
    read_guess,
    tool_and_call,
    toolset_of,
)
from benchmarks.paper.protocol import Protocol
from ray_jobs.model_config import ModelConfig
from tests.benchmarks.test_paper import SOURCES, brain, cells_of, go, plan

PACKAGES = OptimizerConfig().allowed_packages


def tool(name: str, docstring: str, question: str, parameters: str = "x: int") -> Tool:
    source = f'def {name}({parameters}) -> int:\n    """{docstring}"""\n    return 0\n'
    return Tool(function=Function.new(source), question=question)


def block(code: str) -> str:
    return f"```python\n{code}\n```"


def guess(*names: str, docstring: str = "") -> str:
    return json.dumps({"names": names, "docstring": docstring})


# Votes


def test_a_tool_needs_two_of_three_votes() -> None:
    apples = tool("count_fruit", "Add weights.", "Anna buys apples and pears.")
    trains = tool("speed_of_train", "Return kilometres divided by hours.", "A train leaves the station.")
    only_named = tool("sell_apples", "Sort letters.", "Three dogs bark.")
    toolset = Toolset(tools=(trains, only_named, apples))
    said = Guess(names=("fruit_apples", "sell_fruit"), docstring="Counts what is bought")
    assert toolset.matched("Ben buys apples.", said) == [apples], "by name and question"
    assert toolset.matched("Ben buys apples.", Guess(names=("zzz",), docstring="zzz")) == [], "by question alone"
    said = Guess(names=("zzz",), docstring="Kilometres by hours")
    assert toolset.matched("The train leaves now.", said) == [trains], "by docstring and question"
    assert toolset.matched("zzz", said) == []


def test_at_most_three_tools_are_offered_those_with_most_votes_first() -> None:
    two = [tool(f"other{number * 'a'}", "Return the mean price.", "What is the mean price?") for number in range(5)]
    three = tool("mean_price", "Return the mean price.", "What is the mean price?")
    said = Guess(names=("mean_price",), docstring="mean price")
    found = Toolset(tools=(*two, three)).matched("mean price", said)
    assert len(found) == OFFERED
    assert found == [three, *two[:2]]


def test_each_matching_votes_for_its_best_tools_only() -> None:
    many = [tool(f"mean_price_{'abcdefghijkl'[number] * 2}", "Sort.", "Dogs bark.") for number in range(12)]
    last = tool("mean_price", "Sort.", "What is the mean price?")
    found = Toolset(tools=(*many, last)).matched("mean price", Guess(names=("mean_price",), docstring="zzz"))
    assert found == [last], "names alone are one vote, however many have them"


def test_words_that_say_nothing_match_nothing() -> None:
    toolset = Toolset(tools=(tool("the", "Of it.", "And?"),))
    assert toolset.matched("The of and", Guess(names=("the",), docstring="of")) == []


@pytest.mark.parametrize("text", ["", "no", '{"names": "f", "docstring": ""}', '{"names": ["f"]}', "[1]"])
def test_a_reply_that_is_no_guess(text: str) -> None:
    assert read_guess(text) is None


def test_a_guess_may_have_prose_around_it() -> None:
    assert read_guess(f"Here: {guess('f', 'g', docstring='Adds.')}") == Guess(names=("f", "g"), docstring="Adds.")


# Tools


def test_a_tool_and_its_call_are_told_apart() -> None:
    code = (
        'from math import sqrt\n\ndef root(x: float) -> float:\n    """Return the root."""\n    return sqrt(x)\n\n'
        "y = root(4)\nprint(y)\n"
    )
    function, call = tool_and_call(code, PACKAGES)
    assert function.name == "root"
    assert function.imports == {"math"}
    assert call == "from math import sqrt\ny = root(4)\nprint(y)"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print(4)", "one function is wanted, not 0"),
        ("def a(): ...\ndef b(): ...\na()", "one function is wanted, not 2"),
        ('def a(x: int) -> int:\n    """A."""\n    return x\n\nprint(4)', "nothing calls a"),
        ('def a(x) -> int:\n    """A."""\n    return x\n\nprint(a(4))', "needs a type"),
        ('import os\ndef a(x: int) -> int:\n    """A."""\n    return x\n\nprint(a(4))', "it imports os"),
        ("def a(:", "syntax error"),
    ],
)
def test_what_is_no_tool(code: str, why: str) -> None:
    with pytest.raises(FunctionError, match=why):
        tool_and_call(code, PACKAGES)


# Building and offering


class Bench:
    """One event loop and one sandbox, a task of exact answers, and what a build needs of a session."""

    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox, folder: Path) -> None:
        self.runner = runner
        self.sandbox = sandbox
        self.folder = folder

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        return Grade(reward=float(answer == problem.answer), reason="compared")

    def build(self, script: Script, solved: list[tuple[Problem, Trajectory]]) -> tuple[Toolset, list[ChatRequest]]:
        model = ScriptedChatModel(script)
        session: Any = SimpleNamespace(
            run_dir=SimpleNamespace(path=self.folder),
            optimizer=SimpleNamespace(model=model),
            config=SimpleNamespace(
                agent=AgentConfig(), optimizer=OptimizerConfig(), optimizer_model=None, model=ModelConfig(name="m")
            ),
            sandbox=self.sandbox,
            task=self,
        )
        return self.runner.run(toolset_of(session, solved)), model.requests

    def solve(self, toolset: Toolset, script: Script, **settings: Any) -> tuple[Attempt, list[ChatRequest]]:
        model = ScriptedChatModel(script, strict=True)
        config = AgentConfig(kind="creator", **settings)
        given = (model, self.sandbox, config, CreatorDialect(config))
        agent = CraftAgent(toolset, *given) if toolset.tools else CreatorAgent(*given)
        problem = Problem(id="p", question="Double the number 21.", answer="gold-4711")
        return self.runner.run(agent.solve(problem, FunctionSet(), seed=0)), model.requests


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[asyncio.Runner, Sandbox]]:
    sandbox = open_sandbox(workers=1)
    with asyncio.Runner() as runner:
        runner.run(sandbox.start())
        yield runner, sandbox
        runner.run(sandbox.aclose())


@pytest.fixture
def bench(opened: tuple[asyncio.Runner, Sandbox], tmp_path: Path) -> Bench:
    return Bench(*opened, tmp_path)


def rollout(number: int, *, right: bool = True) -> tuple[Problem, Trajectory]:
    """Twice a number, solved by a program."""
    problem = Problem(id=f"p{number}", question=f"Double the number {number}.", answer=str(2 * number))
    run = ToolRun(name="python", arguments={"code": f"print(2 * {number})"}, ok=True, result=problem.answer)
    step = Step(message=Message(role="assistant", content="..."), executed=(run,))
    attempt = Attempt(
        problem_id=problem.id, functions="f", seed=0, steps=(step,), answer=problem.answer, stop_reason="answer",
        usage=Usage(requests=2, completion_tokens=10), wall_s=0.0,
    )  # fmt: skip
    return problem, attempt.graded(Grade(reward=float(right), reason="compared"))


def doubling(call: str, name: str = "double", parameters: str = "number: int") -> str:
    source = f'def {name}({parameters}) -> int:\n    """Return the double of a number."""\n    return 2 * number\n'
    return block(f"{source}\n{call}")


def test_right_programs_become_tools_that_reproduce_the_answer(bench: Bench) -> None:
    replies = {
        "print(2 * 1)": doubling("print(double(1))"),
        "print(2 * 2)": doubling("print(double(number=2))"),
        "print(2 * 3)": doubling("print(double(3, 0))", parameters="number: int, more: int = 0"),
        "print(2 * 4)": doubling("print(double(5))"),
        "print(2 * 5)": "I cannot.",
        "print(2 * 6)": ChatReply(
            message=Message(role="assistant", content=doubling("print(double(6))").removesuffix("```")),
            finish_reason="length",
        ),
        "print(2 * 7)": RefusedPromptError("no"),
        "print(2 * 8)": doubling("print(1 / 0, double(8))"),
    }

    def author(request: ChatRequest) -> Any:
        [found] = [reply for program, reply in replies.items() if program in request.messages[0].content]
        return found

    solved = [*(rollout(number) for number in range(1, 9)), rollout(9, right=False)]
    toolset, requests = bench.build(author, solved)
    assert [each.key for each in toolset.tools] == [("double", 1), ("double", 2)]
    assert toolset.tools[0].question == "Double the number 1."
    ends = {"kept": 2, "duplicate": 1, "not reproduced": 2, "invalid": 1, "cut": 1, "refused": 1}
    assert toolset.ends == ends
    assert len(requests) == 8, "what was wrong is not abstracted"
    assert toolset.usage.completion_tokens > 90, "solving counts, right or wrong"
    again, requests = bench.build([], solved)
    assert (again, requests) == (toolset, []), "made once"


def test_an_offered_tool_is_shown_and_can_be_called(bench: Bench) -> None:
    function = Function.new('def double(x: int) -> int:\n    """Return the double of a number."""\n    return 2 * x\n')
    toolset = Toolset(tools=(Tool(function=function, question="Double the number 3."), tool("sort", "Sort.", "Dogs.")))
    script = [
        guess("double_number", docstring="Doubles a number"),
        block("def f(x):\n    return double(x)"),
        block("f(21)"),
    ]
    attempt, requests = bench.solve(toolset, script)
    assert (attempt.answer, attempt.stop_reason, len(attempt.steps)) == ("42", "answer", 3)
    assert attempt.usage.requests == 3
    assert "Return the double of a number." in requests[1].messages[0].content
    assert "def sort" not in requests[1].messages[0].content
    assert attempt.functions == FunctionSet().fingerprint
    assert not [request for request in requests if "gold-4711" in request.model_dump_json()]
    assert len({request.conversation for request in requests}) == 1


def test_without_a_match_it_is_a_creator(bench: Bench) -> None:
    script = [block("def f(x):\n    return 2 * x"), block("f(21)")]
    toolset = Toolset(tools=(tool("sort_dogs", "Sort letters.", "Dogs bark."),))
    plain, requests = bench.solve(Toolset(), script)
    assert len(requests) == 2, "nothing is guessed where there are no tools"
    cut = ChatReply(message=Message(role="assistant", content='{"names": ["doub'), finish_reason="length")
    for said in (guess("double", docstring="Doubles."), cut):
        attempt, beside = bench.solve(toolset, [said, *script])
        assert beside[1:] == requests
        assert attempt.steps[1:] == plain.steps
        assert attempt.answer == "42"


def test_two_tools_of_one_name_are_not_offered_at_once(bench: Bench) -> None:
    first = tool("double", "Return the double of a number.", "Double the number 3.")
    second = tool("double", "Return the double of a number.", "Double the number 4.", "x: int, y: int")
    script = [guess("double", docstring="double of a number"), block("x = 1"), block("print(42)")]
    _, requests = bench.solve(Toolset(tools=(first, second)), script)
    shown = requests[1].messages[0].content
    assert shown.count("def double(") == 1


def test_a_guess_whose_prompt_is_at_fault_ends_the_attempt(bench: Bench) -> None:
    toolset = Toolset(tools=(tool("sort_dogs", "Sort letters.", "Dogs bark."),))
    attempt, _ = bench.solve(toolset, [ContextOverflowError("too long")])
    assert (attempt.stop_reason, attempt.steps) == ("context", ())
    attempt, _ = bench.solve(toolset, [RefusedPromptError("flagged")])
    assert (attempt.stop_reason, attempt.error) == ("refused", "flagged")


# Arms


def creative(request: ChatRequest) -> str:
    """As the paper's tests, and a creator that knows how to shout; its tools are general."""
    text = request.messages[0].content
    if (request.conversation or "").startswith("craft/"):
        name, word = next(line for line in text.splitlines() if ": " in line).split(": ")
        return block(f"{SOURCES[name]}\nprint({name}({word!r}))")
    if "There is a library" in text:
        return guess("shout", "capitals", docstring="Return word in capitals")
    if "write a tool" in text:
        name, word = request.messages[1].content.split(": ")
        known = "def shout" in text
        if len(request.messages) == 2:
            return block(
                "def tool(word):\n    return shout(word)" if known else "def tool(word):\n    return word.upper()"
            )
        return block(f"print(tool({word!r}))")
    return brain(request)


def test_arms_are_beside_the_trained_agent(tmp_path: Path) -> None:
    tiny = Protocol.model_validate({**plan(tmp_path).model_dump(), "arms": ["creator", "craft"]})
    cells = cells_of(tiny, tmp_path)
    written = go(tiny, cells, ScriptedChatModel(creative))
    rows = {row["task"]: row for row in csv.DictReader(io.StringIO(written["csv"]))}
    assert (rows["shout"]["creator"], rows["shout"]["creator_once"], rows["reverse"]["creator"]) == ("100", "100", "0")
    assert rows["shout"]["craft_tools"] == "1"
    assert rows["reverse"]["craft_tools"] == "0", "wrong programs are no source of tools"
    assert float(rows["reverse"]["gain_over_creator"]) == 100
    for row in rows.values():
        budget = float(row["tokens_training"]) + float(row["tokens_trained"])
        for name in ("creator", "craft"):
            spent = float(row[f"{name}_tokens_building"]) + float(row[f"{name}_tokens_votes"])
            assert spent <= budget or float(row[f"{name}_votes"]) == 0
    assert float(rows["shout"]["craft_tokens_building"]) > 0
    assert "CREATOR 100.0" in written["md"]
    assert "over CRAFT" in written["md"]
    kept = Toolset.model_validate_json((cells[0].path / "craft.json").read_text())
    assert [each.key for each in kept.tools] == [("shout", 1)]
    assert kept.ends == {"kept": 1, "duplicate": 3}

    silent = ScriptedChatModel([])
    (cells[0].path / "cell.json").unlink()
    assert go(tiny, cells, silent) == written
    assert silent.requests == [], "the toolset and all attempts are in the run folder"
