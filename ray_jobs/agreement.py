"""Whose settings a run folder has: those of a run from elsewhere are followed only after the user has agreed to them.

A run's settings name the address to which questions and a key are sent, and they can weaken the sandbox or import code.
Somebody else may have written them. So what they reach is compared with what this user has agreed to before: by
starting a run with the same settings on this machine, or with ``agentopt trust RUN``. That is kept in the user's own
folder, because nothing inside a run folder can vouch for it. Settings of the command line are the user's own.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from agentopt_local.errors import ConfigError
from agentopt_local.plain_files import MIB, open_plain, read_plain
from agentopt_local.plain_text import quoted
from agentopt_local.record import fingerprint
from ray_jobs.config import RunConfig

AGENT = ("model", "engine", "sandbox", "ray")
"""The tables of settings that answering a question needs."""
TABLES = (*AGENT, "optimizer_model", "optimizer_engine", "task")
"""All tables with settings that reach further than the sandbox."""


class Reach(NamedTuple):
    """Something that settings reach beyond the run and the sandbox."""

    key: str
    """The setting."""
    text: str
    """What it does, in words."""
    mark: str
    """A hash of everything that decides about it."""


def reaches(config: RunConfig) -> Iterator[Reach]:
    """What the settings of a run reach."""
    for table, model in (("model", config.model), ("optimizer_model", config.optimizer_model)):
        if model is not None and model.base_url is not None:
            yield _reach(
                f"{table}.base_url",
                f"{quoted(model.base_url)}: what is asked goes there, with the key in {model.api_key_env}",
                [model.base_url, model.api_key_env],
            )
    if config.sandbox.allow_weak:
        yield _reach("sandbox.allow_weak", "true: code may run with less protection than usual", True)
    for table, engine in (("engine", config.engine), ("optimizer_engine", config.optimizer_engine)):
        if engine is not None and engine.trust_remote_code:
            names = [each.name for each in (config.model, config.optimizer_model) if each is not None]
            yield _reach(
                f"{table}.trust_remote_code", "true: code in the model's folder runs outside the sandbox", names
            )
        if engine is not None and engine.vllm:
            yield _reach(f"{table}.vllm", f"{quoted(engine.vllm)}: vLLM may load code for it", engine.vllm)
    if config.ray.address is not None:
        yield _reach("ray.address", f"{quoted(config.ray.address)}: code goes to and comes from it", config.ray.address)
    grader = config.task.settings.get("grader")
    if isinstance(grader, str) and ":" in grader:
        yield _reach("task.settings.grader", f"{quoted(grader)}: that module is imported outside the sandbox", grader)


def _reach(key: str, text: str, value: object) -> Reach:
    return Reach(key, text, fingerprint([key.rpartition(".")[2], value]))


def agreed_path() -> Path:
    """The file that holds what this user has agreed to, a mark per line."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "agentopt-local" / "agreed"


def agreed() -> frozenset[str]:
    """The marks that this user has agreed to; none if the file cannot be read or somebody else can write it."""
    with suppress(OSError, ValueError, RuntimeError):
        path = agreed_path()
        facts = path.parent.lstat()
        if facts.st_uid == os.geteuid() and not facts.st_mode & 0o022:
            return frozenset(read_plain(path, 16 * MIB).decode("ascii").split())
    return frozenset()


def agree(config: RunConfig) -> list[Reach]:
    """Remember that this user follows these settings; what they reach. Where nothing can be kept, nothing is."""
    found, known = list(reaches(config)), agreed()
    new = [each.mark for each in found if each.mark not in known]
    if new:
        with suppress(OSError, ValueError, RuntimeError):
            path = agreed_path()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a") as file:
                file.write("".join(f"{mark}\n" for mark in new))
    return found


def check_agreed(
    config: RunConfig, run: Path, *, used: Collection[str] = TABLES, own: Collection[str] = frozenset()
) -> None:
    """Raise ConfigError if ``run`` has settings that reach what its user has not agreed to.

    ``used``: the tables of settings that are about to be used. ``own``: keys that the user has set now.
    """
    known = agreed()
    asked = [
        each
        for each in reaches(config)
        if each.key.partition(".")[0] in used and each.key not in own and each.mark not in known
    ]
    if asked:
        lines = "".join(f"\n  {each.key} = {each.text}" for each in asked)
        raise ConfigError(
            f"{run} was not started by you on this machine, and its settings reach further than the sandbox:{lines}\n"
            f"If you trust whoever made it: agentopt trust {run}"
        )
