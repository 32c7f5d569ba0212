"""A run's functions, and its evaluation, written for use elsewhere: what ``agentopt export`` and ``Run.export`` do."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError
from agentopt_local.exporting import FORMATS
from agentopt_local.exporting.learned import Learned, read_learned
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.run.reader import read_meta, read_problems, read_rollouts
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.base import IN_PYTHON
from agentopt_local.tool_calls import encodable
from ray_jobs.agents import sandbox_of
from ray_jobs.agreement import check_agreed
from ray_jobs.config import RunConfig
from ray_jobs.open_task import task_of
from ray_jobs.runs import read_config


async def export_run(
    run: Path,
    form: str,
    output: Path | None = None,
    *,
    name: str | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the run as ``form``, one of the formats of ``agentopt export``; returns what was written.

    ``output`` is next to the run by default; ``name`` names the package or server; ``force`` replaces an earlier
    export. ``say`` is called with remarks about the result. Raises ConfigError or RunDirError if it cannot be written.
    """
    if form not in FORMATS:
        raise ConfigError(
            f"format {form!r} is not known{did_you_mean(form, FORMATS)}. Use one of: {', '.join(FORMATS)}"
        )
    learned = read_learned(run)
    if not learned.functions.functions and form != "inspect":
        raise ConfigError(f"{run} has learned no function (yet): there is nothing to export")
    default = beside(run, form)
    if form == "python":
        return await export_python(run, learned, output or default, name, force=force, say=say)
    if form == "inspect":
        # In a thread without an event loop: inside of one, Inspect AI replaces asyncio.run for the whole process.
        return await asyncio.to_thread(export_inspect, run, learned, output or default, force=force)
    output = output or default.with_name(f"{default.name}.json")
    export_json(run, learned, output, form, name, force=force)
    return output


def beside(run: Path, form: str | None = None) -> Path:
    """The run's folder in full, or what is to be written next to it."""
    folder = run.resolve()
    return folder if form is None else folder.with_name(f"{folder.name}-{form}")


def export_json(run: Path, learned: Learned, output: Path, form: str, name: str | None, *, force: bool) -> None:
    """Write tool definitions, or the entry with which a client starts the MCP server."""
    from agentopt_local.exporting.tool_json import anthropic_tools, openai_tools
    from agentopt_local.exporting.writing import write_file

    value: Any
    if form == "mcp":
        from agentopt_local.exporting.mcp_server import client_config
        from agentopt_local.exporting.portable import server_name

        server = server_name(name, run.resolve().name, learned.functions)
        command = [*this_command(), "serve-mcp", str(run.resolve())]
        if command != [encodable(each) for each in command]:
            raise ConfigError(f"{run.resolve()!r} is not a name in UTF-8, which an mcp.json holds; rename the folder")
        value = client_config(server, command)
    elif form == "anthropic":
        value = anthropic_tools(learned.functions)
    else:
        value = openai_tools(learned.functions, responses=form == "openai-responses")
    write_file(output, json.dumps(value, indent=2, ensure_ascii=False) + "\n", force=force)


async def export_python(
    run: Path, learned: Learned, output: Path, name: str | None, *, force: bool, say: Callable[[str], None]
) -> Path:
    """Write the package, with the recorded calls that reproduce as its tests."""
    from agentopt_local.exporting.package import check_name, default_name, replay_text, write_package
    from agentopt_local.exporting.replay import replay
    from agentopt_local.exporting.writing import check_output, new_folder

    check_output(output, force=force)
    name = name or default_name(beside(run).name)
    check_name(name, learned.functions)
    config = read_config(run)
    check_agreed(config, run, used=("sandbox",))
    async with sandbox_of(config.sandbox) as sandbox:
        rollouts = (row.trajectory for row in read_rollouts(run))
        replayed = await replay(learned.functions, rollouts, sandbox, timeout_s=config.agent.timeout_s)
    say(replay_text(learned, replayed))
    with new_folder(output, force=force) as folder:
        write_package(folder, learned, replayed, name=name, model_licence=licence_of(config.model.name))
    return output


def export_inspect(run: Path, learned: Learned, output: Path, *, force: bool) -> Path:
    """Write the evaluation's rollouts as ``before.eval`` and ``after.eval``; returns ``output``.

    They contain the problems that have a rollout on both sides. Raises ConfigError if there are none.
    """
    from agentopt_local.exporting import inspect_log
    from agentopt_local.exporting.writing import check_output, new_folder

    inspect_log.check_installed()
    check_output(output, force=force)
    config = read_config(run)
    check_agreed(config, run, used=("task",))
    sets = {"before": FunctionSet(), "after": learned.functions}
    done = (row.trajectory for row in read_rollouts(run))
    rollouts = {(each.functions, each.problem_id): each for each in done if each.seed == config.seed}
    n = learned.provenance.test.n if learned.provenance.test else config.task.n_test
    problems = [
        each
        for each in tested_problems(run, config, n)
        if all((functions.fingerprint, each.id) in rollouts for functions in sets.values())
    ]
    if not problems:
        raise ConfigError(f"{run} has no evaluation on test problems yet; run: agentopt evaluate {run}")
    found = read_meta(run).get("prompts")
    hashes = found if isinstance(found, dict) else {}
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


def tested_problems(run: Path, config: RunConfig, n: int) -> list[Problem]:
    """The first ``n`` test problems: those written down in the run, if its task was given in Python."""
    if not config.task.spec.startswith(IN_PYTHON):
        return list(task_of(config).problems("test", n))
    rows = [each for each in read_problems(run) if each.split == "test"][:n]
    return [Problem(id=each.id, kind=each.kind, question=each.question, answer=each.answer) for each in rows]


def this_command() -> list[str]:
    """The command with which another program starts this installation's ``agentopt``."""
    script = Path(sys.executable).with_name("agentopt")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "ray_jobs"]


def licence_of(model: str) -> str | None:
    """The licence of an embedded model; None for any other model."""
    from serving.model_store import list_models

    return next((entry.licence for entry in list_models() if entry.name == model), None)
