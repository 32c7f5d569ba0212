"""CREATOR, a baseline without training: for each problem the model writes a tool, then the code that calls it.

An attempt has three stages. *Creation*: the tool's source, sampled again while it does not compile. *Decision*: the
code that calls the tool. Both run together in the sandbox. *Rectification*: a program that raised an error is shown it
and written again. A program that runs is final, whatever it prints: nothing tells the agent that a result is wrong.

The answer is the last line, white space aside, of what the program printed, without a label such as "Final Answer:",
tags or a box around it. Other numbers in the output do not count. A program that prints nothing has no answer.

Source: Qian et al., "CREATOR: Tool Creation for Disentangling Abstract and Concrete Reasoning of Large Language
Models", Findings of EMNLP 2023, arXiv 2305.14318.
"""

from __future__ import annotations

import ast
import warnings

from agentopt_local import prompts
from agentopt_local.agents.answers import read_answer
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.dialect import Act, Answering, CodeBlock, Turn, code_in, spoken, whole_part
from agentopt_local.agents.function_calling import CODE_PATTERN, THOUGHT_PATTERN
from agentopt_local.agents.loop import CUT, NOTHING_PRINTED, ChatAgent, Episode
from agentopt_local.agents.react import SAID, final_answer
from agentopt_local.chat import Constraint, Message, Sampling
from agentopt_local.errors import FunctionError, PromptError
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.seeds import derive
from agentopt_local.source import compiling, tree_of
from agentopt_local.source_limits import check_limits
from agentopt_local.trajectory import PYTHON, Step, StopReason, ToolRun

SAMPLES = 3
"""Most samples of a tool that does not compile."""
RECTIFICATIONS = 3
"""Most further programs after one that failed."""
CREATION_TEMPERATURE = 0.3
"""Of a tool's samples; what follows has the agent's own temperature."""
NUDGE = "Write one block that starts with ```python and ends with ```."


class CreatorDialect:
    """Every turn is one block of Python."""

    repeated = nudge = NUDGE
    offers_tools = False
    """The system prompt shows the functions, which only code calls."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config

    def system(self, functions: FunctionSet) -> str:
        """The system prompt with the sources of ``functions``."""
        sources = "\n\n".join(each.source.strip() for each in functions.each())
        shown = prompts.fill("creator_functions", sources=sources) if sources else ""
        return prompts.fill("creator_system", functions=shown).strip()

    def constraint(self, functions: FunctionSet, answering: Answering) -> Constraint:
        """One line of thought at most, then a block."""
        return Constraint(kind="regex", value=(THOUGHT_PATTERN if self.config.think else "") + CODE_PATTERN)

    def read(self, message: Message, functions: FunctionSet) -> Turn:
        """The blocks of a turn are one program. Calls in the model's own format are none: no tools were offered."""
        message = spoken(message).model_copy(update={"tool_calls": ()})
        code = code_in(message.content)
        return Turn(message=message, acts=() if code is None else (code,))

    def observation(self, act: Act, result: str) -> Message:
        """The error of a program, with the request for another one."""
        return again(f"The program failed:\n{result}")


class CreatorAgent(ChatAgent):
    """Solves problems with a tool of their own, which may call the functions that it is given."""

    def episode(self, problem: Problem, functions: FunctionSet, offered: FunctionSet, seed: int) -> Episode:
        """The state of one attempt."""
        return CreatorEpisode(self, problem, functions, offered, seed)


class CreatorEpisode(Episode):
    """One attempt: creation, decision, rectification."""

    sample: int | None = None
    """Which sample of the tool is asked for; None after the creation."""

    async def run(self) -> StopReason:
        """Stage by stage until a program has run, or to the end of a budget."""
        try:
            tool = await self._created()
            return await self._decided(tool) if isinstance(tool, CodeBlock) else tool
        except PromptError as error:
            return self._stopped_by(error)

    async def _created(self) -> CodeBlock | StopReason:
        """A tool that compiles, or why there is none."""
        cut = False
        for number in range(SAMPLES):
            self.sample = number
            if (ended := self._used_up()) is not None:
                return ended
            turn, cut = await self._written()
            tool = only_code(turn)
            trouble = not_compiling(tool.code) if tool else ""
            if tool and not trouble:
                self.sample = None
                asked = Message(role="user", content=prompts.fill("creator_decision"))
                self._add(turn.message, observation=asked)
                return tool
            # The model is not told: the same request is sampled again.
            self.steps.append(Step(message=turn.message, executed=(failed(tool.code, trouble),) if tool else ()))
        return "max_tokens" if cut else "no_action"

    async def _decided(self, tool: CodeBlock) -> StopReason:
        """Run the tool with code that calls it, and what is written after an error."""
        cut = False
        for _ in range(1 + RECTIFICATIONS):
            if (ended := self._used_up()) is not None:
                return ended
            turn, cut = await self._written()
            code = only_code(turn)
            if code is None:
                self._add(turn.message, observation=again(CUT if cut else NUDGE))
                continue
            whole = defines_again(code.code, tool.code)
            program = code.code if whole else f"{tool.code.rstrip()}\n\n{code.code}"
            run = await self._interpret(program)
            if run.ok:
                self._add(turn.message, run)
                self.answer = printed_answer(run.result)
                return "no_action" if self.answer is None else "answer"
            self._add(turn.message, run, observation=self.dialect.observation(code, run.result))
        return "max_tokens" if cut else "no_action"

    async def _written(self) -> tuple[Turn, bool]:
        """The model's next turn, without what the limit of tokens has cut off, and whether it has cut off something."""
        reply = await self._complete(min(self._left(), self.config.max_turn_tokens))
        cut = reply.finish_reason == "length"
        turn = self.dialect.read(reply.message, self.offered)
        return whole_part(turn) if cut else turn, cut

    def _sampling(self, max_tokens: int) -> Sampling:
        if self.sample is None:
            return super()._sampling(max_tokens)
        seed = derive(self.seed, "creation", self.sample)
        return Sampling(max_tokens=max_tokens, temperature=CREATION_TEMPERATURE, seed=seed)

    def _left(self) -> int:
        return self.config.max_tokens - (self.usage.completion_tokens - self.usage.thought_tokens)

    def _used_up(self) -> StopReason | None:
        """The budget that is used up, if one is."""
        if len(self.steps) >= self.config.max_turns:
            return "max_turns"
        return "max_tokens" if self._left() < 1 else None

    def _add(self, message: Message, *runs: ToolRun, observation: Message | None = None) -> None:
        shown = () if observation is None else (observation,)
        self.steps.append(Step(message=message, executed=runs, observations=shown))
        self.messages += [message, *shown]


def again(trouble: str) -> Message:
    """The request for another program after ``trouble``."""
    return Message(role="user", content=prompts.fill("creator_rectification", trouble=trouble))


def only_code(turn: Turn) -> CodeBlock | None:
    """The code of a turn; None if it has none."""
    return next((act for act in turn.acts if isinstance(act, CodeBlock)), None)


def not_compiling(source: str) -> str:
    """Why ``source`` does not compile; empty if it does."""
    try:
        check_limits(source)
        with compiling(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "<tool>", "exec", dont_inherit=True)
    except FunctionError as error:
        return str(error)
    return ""


def failed(code: str, trouble: str) -> ToolRun:
    """A tool that was not run, because it does not compile."""
    return ToolRun(name=PYTHON, arguments={"code": code}, ok=False, result=f"Error: {trouble}")


def defines_again(code: str, tool: str) -> bool:
    """Whether ``code`` defines a function of ``tool`` anew, and so does without it."""
    return bool(defined(code) & defined(tool))


def defined(code: str) -> set[str]:
    """The functions that ``code`` defines at its top level; none if it is not Python."""
    try:
        return {each.name for each in tree_of(code).body if isinstance(each, ast.FunctionDef)}
    except FunctionError:
        return set()


def printed_answer(output: str) -> str | None:
    """The answer in what a program printed: its last line that is not blank; None if it printed nothing."""
    if output == NOTHING_PRINTED or not output.strip():
        return None
    line = output.strip().splitlines()[-1]
    said = final_answer(line) or read_answer(line) or final_answer(line, SAID) or line
    return said.strip() or None
