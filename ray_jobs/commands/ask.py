"""``agentopt ask`` and ``agentopt chat``: the trained agent answers the user's own questions."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.agents.make import make_agent
from agentopt_local.errors import ConfigError
from agentopt_local.plain_text import printable
from ray_jobs.interrupts import interruptible
from ray_jobs.open_models import agent_alone, check_model
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import say

if TYPE_CHECKING:
    from agentopt_local.agents.base import Agent
    from agentopt_local.chat import ChatModel, Message
    from agentopt_local.conversation import Conversation
    from agentopt_local.functions import FunctionSet
    from agentopt_local.trajectory import Attempt
    from ray_jobs.config import RunConfig

UNANSWERED = {
    "max_turns": "no answer within agent.max_turns = {max_turns} turns",
    "max_tokens": "no answer within agent.max_tokens = {max_tokens} tokens",
    "context": "the question and its turns do not fit into the model's context",
    "refused": "no answer: the prompt was refused: {error}",
    "no_action": "no answer: the model's turns held none, and no call or code that could give one",
}

THOUGHT_CHARS = 200
"""Characters of a thought that are shown."""


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module to the command line."""
    ask = subparsers.add_parser(
        "ask",
        help="ask the trained agent a question",
        description="The trained agent of RUN answers QUESTION with its functions. Turns, calls and code are shown on "
        "standard error as they happen; only the answer goes to standard output.",
    )
    ask.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    ask.add_argument("question", metavar="QUESTION", help="the question, or - to read it from standard input")
    ask.set_defaults(run=run_ask)
    chat = subparsers.add_parser(
        "chat",
        help="have a conversation with the trained agent",
        description="Have a conversation with the trained agent of RUN. /clear forgets what was said; Ctrl-C stops an "
        "answer; Ctrl-C or Ctrl-D at the prompt ends the conversation.",
    )
    chat.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    chat.set_defaults(run=run_chat)
    for command in (ask, chat):
        command.epilog = "The run's settings can be overridden: --model.base_url http://127.0.0.1:8000/v1"
        command.add_argument(
            "--functions",
            choices=("learned", "none"),
            default="learned",
            help="none gives the untrained agent, for comparison (default: learned)",
        )
        command.set_defaults(takes_settings=True)


def run_ask(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt ask RUN QUESTION``."""
    config, functions = prepared(arguments, rest)
    question = sys.stdin.read() if arguments.question == "-" else arguments.question
    if not question.strip():
        raise ConfigError("the question is empty")
    return asyncio.run(interruptible(ask(config, functions, question.strip())))


def run_chat(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt chat RUN``."""
    config, functions = prepared(arguments, rest)
    with contextlib.suppress(asyncio.CancelledError):  # SIGTERM ends a conversation, like Ctrl-D
        asyncio.run(interruptible(chat(config, functions, prompt() if sys.stdin.isatty() else read_line)))
    return 0


def prepared(arguments: argparse.Namespace, rest: Sequence[str]) -> tuple[RunConfig, FunctionSet]:
    """The run's settings with the user's overrides, and the functions to give to the agent."""
    from agentopt_local.exporting.learned import read_learned
    from agentopt_local.functions import FunctionSet
    from ray_jobs.agreement import AGENT, check_agreed
    from ray_jobs.config import parse_overrides
    from ray_jobs.runs import read_config

    config = agent_alone(read_config(arguments.run_dir, rest))
    check_agreed(config, arguments.run_dir, used=AGENT, own={key for key, _ in parse_overrides(rest)})
    functions = read_learned(arguments.run_dir).functions if arguments.functions == "learned" else FunctionSet()
    check_model(config, arguments.run_dir)
    if arguments.functions == "learned" and not functions.functions:
        say(f"{arguments.run_dir} has learned no function (yet); the agent has none", error=True)
    return config, functions


@asynccontextmanager
async def open_conversation(config: RunConfig, model: ChatModel | None) -> AsyncIterator[tuple[Conversation, Agent]]:
    """Open the run's agent and the conversation that it takes part in. ``model`` replaces the configured model."""
    from agentopt_local.conversation import Conversation
    from ray_jobs.session import open_agent

    async with open_agent(config, Display().on_progress, model=model) as agent:
        conversation = Conversation(agent.model, show)
        yield conversation, make_agent(conversation, agent.sandbox, config.agent, agent.thinking, asked=True)


async def ask(config: RunConfig, functions: FunctionSet, question: str, *, model: ChatModel | None = None) -> int:
    """Answer one question; returns 0 if there is an answer, otherwise 1. ``model`` replaces the configured model."""
    async with open_conversation(config, model) as (conversation, agent):
        attempt = await conversation.ask(agent, question, functions, seed=config.seed)
    print_answer(attempt, config)
    return 0 if attempt.answer is not None else 1


async def chat(
    config: RunConfig,
    functions: FunctionSet,
    read: Callable[[], Awaitable[str | None]],
    *,
    model: ChatModel | None = None,
) -> int:
    """Answer questions until ``read`` returns None at the end of the input; returns 0.

    ``model`` replaces the configured model.
    """
    async with open_conversation(config, model) as (conversation, agent):
        say("/clear forgets the conversation; Ctrl-D ends it", error=True)
        while (question := await read()) is not None:
            if question == "/clear":
                conversation.clear()
            elif question:
                attempt = await stoppable(answer(conversation, agent, question, functions, config))
                if attempt is None:
                    say("stopped", error=True)
                else:
                    print_answer(attempt, config)
    return 0


async def answer(
    conversation: Conversation, agent: Agent, question: str, functions: FunctionSet, config: RunConfig
) -> Attempt:
    """The agent's attempt at a question; if the context is full, once more without the history."""
    attempt = await conversation.ask(agent, question, functions, seed=config.seed)
    if attempt.stop_reason == "context" and conversation.history:
        say("the conversation no longer fits into the model's context: starting afresh", error=True)
        conversation.clear()
        attempt = await conversation.ask(agent, question, functions, seed=config.seed)
    return attempt


async def stoppable(job: Any) -> Attempt | None:
    """Await ``job``; returns None if Ctrl-C stopped it."""
    loop = asyncio.get_running_loop()
    task: asyncio.Task[Attempt] = loop.create_task(job)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await asyncio.wait([task])
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        task.cancel()
    return None if task.cancelled() else task.result()


def prompt() -> Callable[[], Awaitable[str | None]]:
    """A reader of the user's next line from a terminal, which returns None on Ctrl-D or Ctrl-C."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import create_app_session_from_tty
    from prompt_toolkit.history import InMemoryHistory

    history = InMemoryHistory()

    async def read() -> str | None:
        try:
            with create_app_session_from_tty():  # if standard output is redirected, it gets only the answers
                session: PromptSession[str] = PromptSession("> ", history=history)
                return (await session.prompt_async()).strip()
        except (EOFError, KeyboardInterrupt):
            return None

    return read


async def read_line() -> str | None:
    """Read the next line from a pipe or a file; None at its end."""
    # A daemon thread, so that neither a task nor the interpreter's exit waits for input that may never come.
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        text = sys.stdin.readline()
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(arrived, text)

    def arrived(text: str) -> None:
        if not line.done():
            line.set_result(text)

    threading.Thread(target=read, daemon=True).start()
    text = await line
    return text.strip() if text else None


def show(message: Message) -> None:
    """Print a turn, or what was returned to it, on standard error."""
    from rich.console import Console
    from rich.text import Text

    from agentopt_local.agents.answers import without_answer

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if message.role == "assistant":
        if message.thought:
            console.print(Text(printable(f"(thought) {shortened(message.thought)}"), style="dim"))
        said = without_answer(message.content)
        if said:
            console.print(Text(printable(said)))
        for call in message.tool_calls:
            arguments = ", ".join(f"{key}={value!r}" for key, value in call.arguments.items())
            console.print(Text(printable(f"call {call.name}({arguments})"), style="cyan"))
    else:
        console.print(Text(printable(f"  {message.content}").replace("\n", "\n  "), style="green"))


def print_answer(attempt: Attempt, config: RunConfig) -> None:
    """Print the answer on standard output, and on standard error its cost and, without an answer, the reason."""
    if attempt.answer is None:
        reason = UNANSWERED[attempt.stop_reason].format(**config.agent.model_dump(), error=attempt.error)
        say(reason, error=True)
    usage = attempt.usage
    thoughts = f" ({usage.thought_tokens} in thoughts)" if usage.thought_tokens else ""
    say(
        f"({len(attempt.steps)} turns, {len(attempt.calls)} calls, {usage.prompt_tokens} + "
        f"{usage.completion_tokens} tokens{thoughts}, {attempt.wall_s:.1f} s)",
        error=True,
    )
    if attempt.answer is not None:
        say(attempt.answer)


def shortened(thought: str) -> str:
    """The beginning of a thought, on one line."""
    line = " ".join(thought.split())
    return line if len(line) <= THOUGHT_CHARS else f"{line[:THOUGHT_CHARS]} …"
