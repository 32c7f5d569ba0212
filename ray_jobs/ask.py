"""``agentopt ask`` and ``agentopt chat``: the trained agent on the user's own questions."""

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

from agentopt_local.errors import ConfigError

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
    "context": "the question and its turns do not fit the model's context",
    "refused": "no answer: the prompt was refused: {error}",
    "no_action": "no answer: two turns held neither a call, nor code, nor an answer",
}


def add_commands(commands: Any) -> None:
    """Add the commands of this file to the command line."""
    ask = commands.add_parser(
        "ask",
        help="ask the trained agent a question of your own",
        description="Let the trained agent of RUN answer QUESTION with its functions. Turns, calls and code are shown "
        "on standard error as they happen; the answer comes alone on standard output.",
    )
    ask.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    ask.add_argument("question", metavar="QUESTION", help="the question; - reads it from standard input")
    ask.set_defaults(run=run_ask)
    chat = commands.add_parser(
        "chat",
        help="talk to the trained agent",
        description="A conversation with the trained agent of RUN. /clear forgets it; Ctrl-C stops an answer; Ctrl-C "
        "or Ctrl-D at the prompt ends.",
    )
    chat.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    chat.set_defaults(run=run_chat)
    for command in (ask, chat):
        command.epilog = "The run's settings can be overridden: --model.base_url http://127.0.0.1:8000/v1"
        command.add_argument(
            "--functions",
            choices=("learned", "none"),
            default="learned",
            help="none: the untrained agent, to compare with",
        )
        command.set_defaults(takes_settings=True)


def run_ask(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt ask RUN QUESTION``."""
    from ray_jobs.cli import interruptible

    config, functions = prepared(arguments, rest)
    question = sys.stdin.read() if arguments.question == "-" else arguments.question
    if not question.strip():
        raise ConfigError("the question is empty")
    return asyncio.run(interruptible(ask(config, functions, question.strip())))


def run_chat(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt chat RUN``."""
    from ray_jobs.cli import interruptible

    config, functions = prepared(arguments, rest)
    with contextlib.suppress(asyncio.CancelledError):  # SIGTERM ends a conversation as Ctrl-D does
        asyncio.run(interruptible(chat(config, functions, prompt() if sys.stdin.isatty() else read_line)))
    return 0


def prepared(arguments: argparse.Namespace, rest: Sequence[str]) -> tuple[RunConfig, FunctionSet]:
    """The run's settings with the user's, and the functions to give to the agent."""
    from agentopt_local.exporting.learned import read_learned
    from agentopt_local.functions import FunctionSet
    from ray_jobs.cli import check_model
    from ray_jobs.train import read_config

    config = read_config(arguments.run_dir, rest)
    functions = read_learned(arguments.run_dir).functions if arguments.functions == "learned" else FunctionSet()
    check_model(config)
    if arguments.functions == "learned" and not functions.functions:
        print(f"{arguments.run_dir} has learned no function (yet); the agent has none", file=sys.stderr)
    return config, functions


@asynccontextmanager
async def open_conversation(config: RunConfig, model: ChatModel | None) -> AsyncIterator[tuple[Conversation, Agent]]:
    """The run's agent, talking through a conversation. ``model`` replaces the configured one."""
    from agentopt_local.agents.make import make_agent
    from agentopt_local.conversation import Conversation
    from ray_jobs.display import Display
    from ray_jobs.session import open_agent

    async with open_agent(config, Display().progress, model=model) as agent:
        conversation = Conversation(agent.model, show)
        yield conversation, make_agent(conversation, agent.sandbox, config.agent)


async def ask(config: RunConfig, functions: FunctionSet, question: str, *, model: ChatModel | None = None) -> int:
    """Answer one question: 0 if there is an answer, 1 if not."""
    async with open_conversation(config, model) as (conversation, agent):
        trajectory = await conversation.ask(agent, question, functions, seed=config.seed)
    tell(trajectory, config)
    return 0 if trajectory.answer is not None else 1


async def chat(
    config: RunConfig,
    functions: FunctionSet,
    read: Callable[[], Awaitable[str | None]],
    *,
    model: ChatModel | None = None,
) -> int:
    """Answer questions until ``read`` returns None: the end of the input."""
    async with open_conversation(config, model) as (conversation, agent):
        print("/clear forgets the conversation; Ctrl-D ends it", file=sys.stderr)
        while (question := await read()) is not None:
            if question == "/clear":
                conversation.clear()
            elif question:
                trajectory = await stoppable(answer(conversation, agent, question, functions, config))
                if trajectory is None:
                    print("stopped", file=sys.stderr)
                else:
                    tell(trajectory, config)
    return 0


async def answer(
    conversation: Conversation, agent: Agent, question: str, functions: FunctionSet, config: RunConfig
) -> Attempt:
    """The agent's attempt; once more without the history if with it the context is full."""
    trajectory = await conversation.ask(agent, question, functions, seed=config.seed)
    if trajectory.stop_reason == "context" and conversation.history:
        print("the conversation no longer fits the model's context: starting afresh", file=sys.stderr)
        conversation.clear()
        trajectory = await conversation.ask(agent, question, functions, seed=config.seed)
    return trajectory


async def stoppable(job: Any) -> Attempt | None:
    """``job``; None if Ctrl-C stopped it."""
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
    """Reads the user's next line from a terminal; None on Ctrl-D or Ctrl-C."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import create_app_session_from_tty
    from prompt_toolkit.history import InMemoryHistory

    history = InMemoryHistory()

    async def read() -> str | None:
        try:
            with create_app_session_from_tty():  # a redirected standard output holds the answers alone
                session: PromptSession[str] = PromptSession("> ", history=history)
                return (await session.prompt_async()).strip()
        except (EOFError, KeyboardInterrupt):
            return None

    return read


async def read_line() -> str | None:
    """The next line of a pipe or a file; None at its end."""
    # A daemon thread, because neither a task nor the interpreter's exit may wait for input that never comes.
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        text = sys.stdin.readline()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(arrived, text)

    def arrived(text: str) -> None:
        if not line.done():
            line.set_result(text)

    threading.Thread(target=read, daemon=True).start()
    text = await line
    return text.strip() if text else None


def show(message: Message) -> None:
    """One turn, or what came back, on standard error."""
    from rich.console import Console
    from rich.text import Text

    from agentopt_local.agents.answers import without_answer

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if message.role == "assistant":
        said = without_answer(message.content)
        if said:
            console.print(Text(printable(said)))
        for call in message.tool_calls:
            arguments = ", ".join(f"{key}={value!r}" for key, value in call.arguments.items())
            console.print(Text(printable(f"call {call.name}({arguments})"), style="cyan"))
    else:
        console.print(Text(printable(f"  {message.content}").replace("\n", "\n  "), style="green"))


def tell(trajectory: Attempt, config: RunConfig) -> None:
    """The answer on standard output, or on standard error why there is none; then what it cost."""
    if trajectory.answer is None:
        reason = UNANSWERED[trajectory.stop_reason].format(**config.agent.model_dump(), error=trajectory.error)
        print(reason, file=sys.stderr)
    usage = trajectory.usage
    print(
        f"({len(trajectory.steps)} turns, {len(trajectory.calls)} calls, {usage.prompt_tokens} + "
        f"{usage.completion_tokens} tokens, {trajectory.wall_s:.1f} s)",
        file=sys.stderr,
        flush=True,
    )
    if trajectory.answer is not None:
        print(printable(trajectory.answer), flush=True)


def printable(text: str) -> str:
    """``text`` without control characters: a model's words must not steer the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
