"""The ``agentopt`` command: its parser, its exit codes and its errors; the commands are in ``ray_jobs/commands``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from agentopt_local.errors import AgentOptError, ConfigError, RunDirError
from agentopt_local.version import __version__
from ray_jobs.commands import (
    ask,
    credit,
    doctor,
    export,
    grade,
    jobs,
    model_files,
    report,
    serve_mcp,
    show,
    trust,
    watch,
)
from ray_jobs.commands.running import FAILED, INTERRUPTED, USER_MISTAKE
from ray_jobs.terminal.printing import PlainParser, error_line, plain_warnings

COMMANDS = (jobs, credit, show, report, watch, grade, ask, export, serve_mcp, trust, doctor, model_files)
"""The modules with commands, in the order of ``agentopt --help``. Importing them loads nothing heavy."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 user error, 130 interrupted (and resumable)."""
    plain_warnings()
    words, settings = split_settings(sys.argv[1:] if argv is None else argv)
    arguments, rest = parser().parse_known_args(words)
    rest += settings
    try:
        if rest and not hasattr(arguments, "takes_settings"):
            raise ConfigError(f"{' '.join(rest)!r} is not understood; see agentopt {arguments.command} --help")
        return int(arguments.run(arguments, rest))
    except (ConfigError, RunDirError) as error:
        error_line(str(error))
        return USER_MISTAKE
    except AgentOptError as error:
        error_line(str(error))
        return FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has stopped, as in `agentopt show | head`
        return 0


def split_settings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split ``argv`` into a command's own arguments and ``--section.key value`` pairs, which argparse does not know."""
    words, settings = [], []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name.startswith("--") and "." in name:
            settings += [word] if equals else [word, *rest[:1]]
            rest = rest if equals else rest[1:]
        else:
            words.append(word)
    return words, settings


def parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    top = PlainParser(prog="agentopt", description="Train LLM agents offline by learning their functions.")
    top.add_argument("--version", action="version", version=f"agentopt {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_commands(subparsers)
    return top


if __name__ == "__main__":
    sys.exit(main())
