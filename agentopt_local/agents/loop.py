"""The agent: one loop of turns for every dialect, with budgets, tools, and the end of an attempt.

The loop is where a bad prompt becomes data: a PromptError ends the attempt with a stop reason. Every other error of
the model or the sandbox is the machine's and passes through.
"""

from __future__ import annotations

import time

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.dialect import Act, Answering, CodeBlock, Dialect, first_acts, whole_part, with_note
from agentopt_local.calling import call_function
from agentopt_local.chat import ChatModel, ChatReply, ChatRequest, Message, Sampling, Thinking, ToolCall, Usage
from agentopt_local.errors import ContextOverflowError, PromptError
from agentopt_local.functions import FunctionSet, render_value
from agentopt_local.problem import Problem
from agentopt_local.retrieval import Retrieval
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.tool_calls import MAX_CALLS
from agentopt_local.trajectory import PYTHON, Attempt, Step, StopReason, ToolRun

MAX_IDLE_TURNS = 2
"""Turns in a row without call, code or answer that end an attempt."""

CUT = "Your turn was cut off before it was complete, so nothing of it was done. Write a shorter one."
TOO_MANY = f"A turn makes at most {MAX_CALLS} calls, so the others were not made."
REST_CUT = "The rest of your turn was cut off, so it was not done."
NOTHING_PRINTED = "(nothing was printed)"


class ChatAgent:
    """Solves problems in turns of a chat; each turn calls functions, runs code, or answers.

    The offer (``offer``, ``max_functions``) is what the model is told of, may call, and is held to by its grammar. The
    sandbox has these functions and those that they call.
    """

    def __init__(
        self,
        model: ChatModel,
        sandbox: Sandbox,
        config: AgentConfig,
        dialect: Dialect,
        thinking: Thinking | None = None,
    ) -> None:
        """``model`` writes the turns as ``dialect`` asks, ``sandbox`` runs their calls and code.

        ``thinking``: how the model thinks before each turn.
        """
        self.thinking = thinking
        self.model = model
        self.sandbox = sandbox
        self.config = config
        self.dialect = dialect
        self.retrieval = Retrieval(config.max_functions, alike=config.offer == "alike")

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Attempt:
        """One attempt at ``problem``."""
        started = time.monotonic()
        view = self.retrieval.view(functions, problem.question)
        episode = self.episode(problem, view.beside, view.offered, seed)
        stop_reason = await episode.run()
        return Attempt(
            problem_id=problem.id,
            functions=functions.fingerprint,
            view=view.key,
            offered=view.left_of(functions),
            seed=seed,
            steps=tuple(episode.steps),
            answer=episode.answer,
            stop_reason=stop_reason,
            usage=episode.usage,
            wall_s=time.monotonic() - started,
            context_tokens=episode.context_tokens,
            error=episode.error,
        )

    def episode(self, problem: Problem, functions: FunctionSet, offered: FunctionSet, seed: int) -> Episode:
        """The state of one attempt."""
        return Episode(self, problem, functions, offered, seed)


class Episode:
    """The state of one attempt while it lasts."""

    def __init__(
        self, agent: ChatAgent, problem: Problem, functions: FunctionSet, offered: FunctionSet, seed: int
    ) -> None:
        self.agent = agent
        self.config = agent.config
        self.dialect = agent.dialect
        self.functions = functions
        self.offered = offered
        self.seed = seed
        self.specs = offered.tool_specs()
        self.conversation = f"{functions.fingerprint}/{problem.id}/{seed}"
        self.messages: list[Message] = [
            Message(role="system", content=self.dialect.system(offered)),
            Message(role="user", content=problem.question),
        ]
        self.steps: list[Step] = []
        self.answer: str | None = None
        self.usage = Usage()
        self.context_tokens = 0
        self.error = ""
        """Why the prompt was refused."""
        self._repeated = False
        """Whether the latest turn did exactly what an earlier one had done."""

    async def run(self) -> StopReason:
        """Turn by turn until an answer or the end of a budget."""
        idle = 0
        while len(self.steps) < self.config.max_turns:
            left = self.config.max_tokens - (self.usage.completion_tokens - self.usage.thought_tokens)
            if left < 1:
                return "max_tokens"
            try:
                reply = await self._complete(min(left, self.config.max_turn_tokens))
            except PromptError as error:
                return self._stopped_by(error)
            cut = reply.finish_reason == "length"
            step = await self._take(reply.message, cut=cut)
            if self.answer is not None:
                return "answer"
            idle = 0 if step.executed else idle + 1
            if idle == MAX_IDLE_TURNS:
                return "max_tokens" if cut else "no_action"
            self.messages += [step.message, *step.observations]
            self._repeated = bool(step.executed) and any(step.executed == each.executed for each in self.steps[:-1])
            if self._repeated:
                # Not as a message of its own: many chat templates and servers refuse two of the user's in a row.
                self.messages[-1] = with_note(self.messages[-1], f"\n\n{self.dialect.repeated}")
        return "max_turns"

    async def _complete(self, max_tokens: int) -> ChatReply:
        request = ChatRequest(
            messages=tuple(self.messages),
            tools=self.specs if self.dialect.offers_tools else (),
            constraint=self.dialect.constraint(self.offered, self._answering()) if self.config.constrain else None,
            sampling=self._sampling(max_tokens),
            thinking=self.agent.thinking,
            conversation=self.conversation,
        )
        reply = await self.agent.model.complete(request)
        self.usage += reply.usage
        self.context_tokens = reply.usage.prompt_tokens + reply.usage.completion_tokens
        return reply

    def _sampling(self, max_tokens: int) -> Sampling:
        temperature = self.config.temperature
        return Sampling(max_tokens=max_tokens, temperature=temperature, seed=self.seed if temperature > 0 else None)

    def _stopped_by(self, error: PromptError) -> StopReason:
        if error.usage is not None:
            self.usage += error.usage
        if isinstance(error, ContextOverflowError):
            return "context"
        self.error = str(error)
        return "refused"

    def _answering(self) -> Answering:
        """Whether the next turn may answer, or must.

        An attempt that repeats itself, or has no turn left in which it could use another result, must answer.
        """
        last = bool(self.steps) and len(self.steps) == self.config.max_turns - 1
        if self._repeated or last:
            return "required"
        acted = any(step.executed for step in self.steps)
        free = acted or not self.config.act_first or not self.config.interpreter
        return "allowed" if free else "forbidden"

    async def _take(self, message: Message, *, cut: bool) -> Step:
        """Do what the model's turn asks for and add the step. Of a turn that was cut off, only what is whole counts."""
        written = self.dialect.read(message, self.offered)
        whole = first_acts(written)
        turn = whole_part(whole) if cut else whole
        runs = tuple([await self._run(act) for act in turn.acts])
        observations = [self.dialect.observation(act, run.result) for act, run in zip(turn.acts, runs, strict=True)]
        self.answer = turn.answer
        if not turn.acts and turn.answer is None:
            nudge = f"{CUT} {self.dialect.nudge}" if cut else self.dialect.nudge
            observations.append(Message(role="user", content=nudge))
        elif turn.acts != whole.acts:
            observations[-1] = with_note(observations[-1], f"\n{REST_CUT}")
        if whole.acts != written.acts:
            observations[-1] = with_note(observations[-1], f"\n{TOO_MANY}")
        step = Step(message=turn.message, executed=runs, observations=tuple(observations))
        self.steps.append(step)
        return step

    async def _run(self, act: Act) -> ToolRun:
        if isinstance(act, ToolCall):
            return await self._call(act)
        if isinstance(act, CodeBlock):
            return await self._interpret(act.code)
        return ToolRun(name=act.name, arguments=act.arguments, ok=False, result=self._cut(f"Error: {act.error}"))

    async def _call(self, call: ToolCall) -> ToolRun:
        execution = await call_function(
            self.agent.sandbox,
            self.functions,
            call.name,
            call.arguments,
            timeout_s=self.config.timeout_s,
            seed=self.seed,
            offered=self.offered,
        )
        result = render_value(execution.value) if execution.ok else f"Error: {execution.error}"
        return ToolRun(name=call.name, arguments=call.arguments, ok=execution.ok, result=self._cut(result))

    async def _interpret(self, code: str) -> ToolRun:
        execution = await self.agent.sandbox.run(
            code, functions=self.functions.source, timeout_s=self.config.timeout_s, seed=self.seed
        )
        result = execution.stdout.rstrip("\n")
        if not execution.ok:
            result = f"{result}\nError: {execution.error}".strip()
        result = result or NOTHING_PRINTED
        return ToolRun(name=PYTHON, arguments={"code": code}, ok=execution.ok, result=self._cut(result))

    def _cut(self, text: str) -> str:
        limit = self.config.max_result_chars
        if len(text) <= limit:
            return text
        half = limit // 2
        return f"{text[:half]}\n[... {len(text) - 2 * half} characters cut ...]\n{text[-half:]}"
