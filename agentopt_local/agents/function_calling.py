"""The paper's "GPT-4+ agent": a conversation with learned functions and a Python interpreter."""

from __future__ import annotations

import json
import re
import time
from typing import Any, Literal

from pydantic import Field

from agentopt_local import prompts
from agentopt_local.agents.answers import FORMS, AnswerFormName, read_answer
from agentopt_local.chat import ChatModel, ChatRequest, Constraint, Message, Sampling, ToolCall, Usage
from agentopt_local.errors import ContextOverflowError
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.sandbox.base import Execution, Sandbox
from agentopt_local.task import Problem
from agentopt_local.tool_calls import check_arguments
from agentopt_local.trajectory import Executed, Step, StopReason, Trajectory

CODE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
# A thought ends with its line: prose that runs into a backtick would have to go on as a block of code. No counted
# repetitions here: beside the forms of a call they grow llguidance's lexer beyond its limit; tokens are the limit.
THOUGHT_PATTERN = r"([^<`\n]+\n)?"
# White space may follow a fence: tokenizers have one token for a backtick and a line break, and models want it there.
CODE_PATTERN = r"```python\n([^`]|`[^`]|``[^`])*\n```\n?"
NO_FIT_PATTERN = r"No function fits\.\n"
"""Before its first act an agent with functions says that none fits, or calls one: small models overlook them."""
REPEATED = "You have done exactly this before. Now give the final answer as {opening}your answer{closing}."
NUDGE = "Call a function, run a ```python block, or give the final answer as {opening}your answer{closing}."


class AgentConfig(Record):
    """What kind of agent it is, and the budgets of one attempt."""

    kind: Literal["function_calling", "react"] = "function_calling"
    """``function_calling``: calls in the model's own tool format · ``react``: Thought, Action, Action Input as text."""
    answer_form: AnswerFormName = "tags"
    """How a function-calling agent is asked for its answer: ``tags``, ``<answer>``; ``boxed``, ``\\boxed{}`` as in
    the paper. Both are read."""
    one_string_argument: bool = False
    """Functions of a ReAct agent take one string, as in the paper, and the optimizer writes such functions alone;
    False: typed arguments as JSON."""
    max_turns: int = Field(default=6, ge=1)
    """Assistant turns."""
    max_turn_tokens: int = Field(default=400, ge=16)
    """Generated tokens of one turn."""
    max_tokens: int = Field(default=1500, ge=16)
    """Generated tokens of the whole attempt."""
    temperature: float = Field(default=0.0, ge=0)
    """0 = greedy."""
    interpreter: bool = True
    """Whether the agent may run Python beside its functions."""
    act_first: bool = True
    """Whether a constrained attempt with an interpreter must call a function or run code before it may answer: small
    models guess. Without an interpreter it may answer at once, as nothing else may fit."""
    think: bool = True
    """Whether a constrained turn may begin with a line of thought before it acts."""
    constrain: bool = True
    """Sample turns under a grammar, so that every call names an existing function with valid arguments."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Wall-clock limit of one call or block."""
    max_result_chars: int = Field(default=2000, ge=100)
    """Longer results are cut in the middle before the agent sees them."""


class FunctionCallingAgent:
    """Solves problems in turns; each calls a function, runs code, or answers."""

    def __init__(self, model: ChatModel, sandbox: Sandbox, config: AgentConfig) -> None:
        """``model`` talks, ``sandbox`` runs everything that it writes."""
        self.model = model
        self.sandbox = sandbox
        self.config = config

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Trajectory:
        """One attempt at ``problem``."""
        started = time.monotonic()
        attempt = self.attempt(problem, functions, seed)
        stop_reason = await attempt.run()
        return Trajectory(
            problem_id=problem.id,
            functions=functions.fingerprint,
            seed=seed,
            steps=tuple(attempt.steps),
            answer=attempt.answer,
            stop_reason=stop_reason,
            usage=attempt.usage,
            wall_s=time.monotonic() - started,
            context_tokens=attempt.context_tokens,
        )

    def attempt(self, problem: Problem, functions: FunctionSet, seed: int) -> Attempt:
        """A fresh attempt; other kinds of agents bring their own."""
        return Attempt(self, problem, functions, seed)


class Attempt:
    """The state of one attempt."""

    repeated = REPEATED
    nudge = NUDGE

    def __init__(self, agent: FunctionCallingAgent, problem: Problem, functions: FunctionSet, seed: int) -> None:
        self.agent = agent
        self.config = agent.config
        self.form = FORMS[self.config.answer_form]
        self.functions = functions
        self.seed = seed
        self.tools = functions.tool_specs()
        self.session = f"{functions.fingerprint}/{problem.id}/{seed}"
        prompt = "agent_system_functions" if functions.functions else "agent_system"
        self.messages: list[Message] = [
            Message(role="system", content=self._system(prompt)),
            Message(role="user", content=problem.question),
        ]
        self.steps: list[Step] = []
        self.answer: str | None = None
        self.usage = Usage()
        self.context_tokens = 0
        self._repeated = False
        """Whether the latest turn did exactly what an earlier one had done."""

    def _system(self, prompt: str) -> str:
        return prompts.fill(prompt, opening=self.form.opening, closing=self.form.closing)

    def _filled(self, text: str) -> str:
        return text.format(opening=self.form.opening, closing=self.form.closing)

    async def run(self) -> StopReason:
        """Turn by turn until an answer or the end of a budget."""
        idle = 0
        while len(self.steps) < self.config.max_turns:
            left = self.config.max_tokens - self.usage.completion_tokens
            if left < 1:
                return "max_tokens"
            try:
                message = await self._turn(min(left, self.config.max_turn_tokens))
            except ContextOverflowError:
                return "context"
            executed, observations = await self._act(message)
            self.steps.append(Step(message=message, executed=executed, observations=observations))
            if self.answer is not None:
                return "answer"
            idle = 0 if executed else idle + 1
            if idle == 2:
                return "no_action"
            self.messages += [message, *observations]
            self._repeated = bool(executed) and any(executed == step.executed for step in self.steps[:-1])
            if self._repeated:
                self.messages.append(Message(role="user", content=self._filled(self.repeated)))
        return "max_turns"

    def _must_answer(self) -> bool:
        """Who goes round in circles, or has no turn left for what more code would show, must answer."""
        return self._repeated or (bool(self.steps) and len(self.steps) == self.config.max_turns - 1)

    def _constraint(self) -> Constraint | None:
        """A turn: one line of thought at most, then a call, a block of code, or the answer."""
        if not self.config.constrain:
            return None
        if self._must_answer():
            return Constraint(kind="regex", value=self.form.pattern)
        think = self.config.think
        acted = any(step.executed for step in self.steps)
        code = NO_FIT_PATTERN + CODE_PATTERN if self.tools and self.config.act_first and not acted else CODE_PATTERN
        forms = [code] if self.config.interpreter else []
        if acted or not self.config.act_first or not self.config.interpreter:
            forms.append(self.form.pattern)
        return Constraint(
            kind="turn",
            value=(THOUGHT_PATTERN if think else "") + f"({'|'.join(forms)})",
            max_thought_sentences=3 if think else 0,
        )

    async def _turn(self, max_tokens: int) -> Message:
        request = ChatRequest(
            messages=tuple(self.messages),
            tools=self.tools,
            constraint=self._constraint(),
            sampling=Sampling(
                max_tokens=max_tokens,
                temperature=self.config.temperature,
                seed=self.seed if self.config.temperature > 0 else None,
            ),
            session=self.session,
        )
        reply = await self.agent.model.complete(request)
        self.usage += reply.usage
        self.context_tokens = reply.usage.prompt_tokens + reply.usage.completion_tokens
        return reply.message

    async def _act(self, message: Message) -> tuple[tuple[Executed, ...], tuple[Message, ...]]:
        """Do what the turn asks for. Calls come first, then code, then the answer."""
        if message.tool_calls:
            executed = tuple([await self._call(call) for call in message.tool_calls])
            return executed, tuple(Message(role="tool", content=each.result) for each in executed)
        code = CODE.search(message.content) if self.config.interpreter else None
        if code:
            block = await self._run(code[1])
            return (block,), (Message(role="user", content=f"Output of the code:\n{block.result}"),)
        self.answer = read_answer(message.content)
        if self.answer is not None:
            return (), ()
        return (), (Message(role="user", content=self._filled(self.nudge)),)

    async def _call(self, call: ToolCall) -> Executed:
        tool = next((tool for tool in self.functions.tool_specs() if tool.name == call.name), None)
        if tool is None:
            names = ", ".join(self.functions.names) or "none"
            execution = Execution(ok=False, error=f"there is no function {call.name!r}; there are: {names}")
        elif (wrong := check_arguments(tool, call.arguments)) is not None:
            execution = Execution(ok=False, error=wrong)
        else:
            execution = await self.agent.sandbox.call(
                self.functions.source, call.name, call.arguments, timeout_s=self.config.timeout_s, seed=self.seed
            )
        result = render_value(execution.value) if execution.ok else f"Error: {execution.error}"
        return Executed(name=call.name, arguments=call.arguments, ok=execution.ok, result=self._cut(result))

    async def _run(self, code: str) -> Executed:
        execution = await self.agent.sandbox.run(
            code, functions=self.functions.source, timeout_s=self.config.timeout_s, seed=self.seed
        )
        result = execution.stdout.rstrip("\n")
        if not execution.ok:
            result = f"{result}\nError: {execution.error}".strip()
        result = result or "(nothing was printed)"
        return Executed(name="python", arguments={"code": code}, ok=execution.ok, result=self._cut(result))

    def _cut(self, text: str) -> str:
        limit = self.config.max_result_chars
        if len(text) <= limit:
            return text
        half = limit // 2
        return f"{text[:half]}\n[... {len(text) - 2 * half} characters cut ...]\n{text[-half:]}"


def render_value(value: Any) -> str:
    """A function's value as the agent reads it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
