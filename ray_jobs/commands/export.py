"""``agentopt export`` and ``agentopt import``: learned functions out of one run and into another."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError

if TYPE_CHECKING:
    from agentopt_local.exporting.learned import Learned
    from agentopt_local.exporting.replay import Replayed

FORMATS = ("python", "openai", "openai-responses", "anthropic", "mcp", "inspect")


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module to the command line."""
    export = subparsers.add_parser(
        "export",
        help="write a run's functions for use elsewhere",
        description="Write the functions of RUN as the evaluation tested them. python: an installable package with "
        "tests. openai, openai-responses, anthropic: tool definitions for these APIs. mcp: an mcp.json entry that "
        "starts agentopt serve-mcp. inspect: logs of the evaluation before and after training, for inspect view.",
    )
    export.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    export.add_argument("--format", choices=FORMATS, metavar="FORMAT", required=True, help=", ".join(FORMATS))
    export.add_argument("--output", type=Path, metavar="PATH", help="what to write (default: next to the run)")
    export.add_argument("--name", help="the name of the package or MCP server (default: from the run's name)")
    export.add_argument("--force", action="store_true", help="replace an earlier export")
    export.set_defaults(run=run_export)

    load = subparsers.add_parser(
        "import",
        help="check functions and write them as a start set",
        description="Check the functions at PATH (a run, an exported package, a folder of .py files, or a .py file), "
        'load them in the sandbox, and write them to the folder SET, for use as start_functions = "SET".',
    )
    load.add_argument("path", type=Path, metavar="PATH", help="a run, a package, a folder or a file")
    load.add_argument("--output", type=Path, metavar="SET", required=True, help="the folder to write")
    load.add_argument("--force", action="store_true", help="replace a set written earlier")
    load.set_defaults(run=run_import)


def run_export(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt export RUN --format FORMAT``."""
    from agentopt_local.exporting.learned import read_learned

    run: Path = arguments.run_dir
    learned = read_learned(run)
    form: str = arguments.format
    if not learned.functions.functions and form != "inspect":
        raise ConfigError(f"{run} has learned no function (yet): there is nothing to export")
    default = run.resolve().parent / f"{run.resolve().name}-{form}"
    if form == "python":
        output = export_python(run, learned, arguments.output or default, arguments.name, force=arguments.force)
    elif form == "inspect":
        output = export_inspect(run, learned, arguments.output or default, force=arguments.force)
    else:
        output = arguments.output or default.with_name(f"{default.name}.json")
        export_json(run, learned, output, form, arguments.name, force=arguments.force)
    print(output)
    return 0


def export_json(run: Path, learned: Learned, output: Path, form: str, name: str | None, *, force: bool) -> None:
    """Write tool definitions, or the entry with which a client starts the MCP server."""
    from agentopt_local.exporting.tool_json import anthropic_tools, openai_tools
    from agentopt_local.exporting.writing import write_file

    value: Any
    if form == "mcp":
        from agentopt_local.exporting.mcp_server import client_config

        value = client_config(name or run.resolve().name, [*this_command(), "serve-mcp", str(run.resolve())])
    elif form == "anthropic":
        value = anthropic_tools(learned.functions)
    else:
        value = openai_tools(learned.functions, responses=form == "openai-responses")
    write_file(output, json.dumps(value, indent=2, ensure_ascii=False) + "\n", force=force)


def export_python(run: Path, learned: Learned, output: Path, name: str | None, *, force: bool) -> Path:
    """Write the package, with the recorded calls that reproduce as its tests."""
    from agentopt_local.exporting.package import check_name, default_name, replay_text, write_package
    from agentopt_local.exporting.replay import replay
    from agentopt_local.exporting.writing import check_output, new_folder
    from agentopt_local.run.reader import read_rollouts
    from ray_jobs.agents import sandbox_of
    from ray_jobs.runs import read_config

    check_output(output, force=force)
    name = name or default_name(run.resolve().name)
    check_name(name, learned.functions)
    config = read_config(run)

    async def again() -> tuple[Replayed, ...]:
        async with sandbox_of(config.sandbox) as sandbox:
            rollouts = (row.trajectory for row in read_rollouts(run))
            return await replay(learned.functions, rollouts, sandbox, timeout_s=config.agent.timeout_s)

    replayed = asyncio.run(again())
    print(replay_text(learned, replayed), file=sys.stderr)
    with new_folder(output, force=force) as folder:
        write_package(folder, learned, replayed, name=name, model_licence=licence_of(config.model.name))
    return output


def export_inspect(run: Path, learned: Learned, output: Path, *, force: bool) -> Path:
    """Write the evaluation's rollouts as ``before.eval`` and ``after.eval``; returns ``output``.

    They contain the problems that have a rollout on both sides. Raises ConfigError if there are none.
    """
    from agentopt_local.exporting import inspect_log
    from agentopt_local.exporting.writing import check_output, new_folder
    from agentopt_local.functions import FunctionSet
    from agentopt_local.run.reader import read_meta, read_rollouts
    from ray_jobs.runs import read_config
    from ray_jobs.session import task_of

    inspect_log.check_installed()
    check_output(output, force=force)
    config = read_config(run)
    sets = {"before": FunctionSet(), "after": learned.functions}
    done = (row.trajectory for row in read_rollouts(run))
    rollouts = {(each.functions, each.problem_id): each for each in done if each.seed == config.seed}
    n = learned.provenance.test.n if learned.provenance.test else config.task.n_test
    problems = [
        each
        for each in task_of(config).problems("test", n)
        if all((functions.fingerprint, each.id) in rollouts for functions in sets.values())
    ]
    if not problems:
        raise ConfigError(f"{run} has no evaluation on test problems yet; run: agentopt evaluate {run}")
    hashes = read_meta(run).get("prompts", {})
    with new_folder(output, force=force) as folder:
        for side, functions in sets.items():
            attempts = [(each, rollouts[functions.fingerprint, each.id]) for each in problems]
            inspect_log.write_log(
                folder / f"{side}.eval",
                learned.provenance,
                functions,
                attempts,
                side=side,
                config=config.model_dump(mode="json"),
                prompt_hashes=hashes,
            )
    return output


def run_import(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt import PATH --output SET``."""
    from agentopt_local.exporting.writing import check_output, new_folder
    from agentopt_local.update import OptimizerConfig
    from ray_jobs.config import SandboxConfig
    from ray_jobs.start_functions import load_functions

    output: Path = arguments.output
    check_output(output, force=arguments.force)
    functions = load_functions(arguments.path, OptimizerConfig().allowed_packages, SandboxConfig())
    with new_folder(output, force=arguments.force) as folder:
        for each in functions.each():
            (folder / f"{each.name}.py").write_text(each.source, encoding="utf-8")
    print(f"{len(functions)} functions: {', '.join(functions.names)}", file=sys.stderr)
    print(f"To start a training from them: agentopt train CONFIG --start_functions {output}", file=sys.stderr)
    print(output)
    return 0


def this_command() -> list[str]:
    """The command with which another program starts this installation's ``agentopt``."""
    script = Path(sys.executable).with_name("agentopt")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "ray_jobs"]


def licence_of(model: str) -> str | None:
    """The licence of an embedded model; None for any other model."""
    from serving.model_store import list_models

    return next((entry.licence for entry in list_models() if entry.name == model), None)
