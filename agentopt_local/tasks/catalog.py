"""Tasks by their spec, ``PREFIX:ARGUMENT``: every file of this folder that declares ``KIND`` is a kind of task."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

from agentopt_local import tasks
from agentopt_local.errors import ConfigError
from agentopt_local.graders.catalog import BUILT_IN
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.base import IN_PYTHON, Task, TaskKind
from agentopt_local.tasks.graded_rows import RowGrader, by_texts
from agentopt_local.tasks.python import only_in_python

_HUB_DATA_SET = re.compile(r"hf:[\w.-]+/[\w.-]+")


def load_task(spec: str, *, seed: int = 0, settings: dict[str, Any] | None = None) -> Task:
    """Open the task that ``spec`` names.

    ``seed`` decides which problems are generated (reasoning_gym) or their order (all others). ``settings`` are the
    task's own; for reasoning_gym, the options of each data set: ``{NAME: {option: value}}``.

    Raises :class:`~agentopt_local.errors.ConfigError` if the spec, a name, a setting or a file is wrong.
    """
    if spec.startswith(IN_PYTHON):
        raise only_in_python(spec)
    prefix, _, argument = spec.partition(":")
    kind = _find_kind(prefix)
    if kind is None or not argument.strip():
        known = task_kinds()
        forms = " or ".join(f"{name}:{each.argument}" for name, each in known.items())
        hint = "" if kind else did_you_mean(prefix, known)
        raise ConfigError(f"task {spec!r} is not known{hint}. Write it as {forms}")
    return kind.open(argument.strip(), seed=seed, settings=settings or {})


def task_kinds() -> dict[str, TaskKind]:
    """All kinds of tasks by prefix: first those that need no file, then files of your own, then benchmarks."""
    kinds = {name: kind for name in _module_names() if (kind := _find_kind(name)) is not None}
    return dict(sorted(kinds.items(), key=lambda item: (item[1].reads_path, bool(item[1].row_graders), item[0])))


def row_grader(name: str, *, lenient: bool = False, official: bool = False) -> RowGrader:
    """The grader of ``agentopt grade NAME``: that of a benchmark, or one of the graders for any task.

    ``lenient``: the official rule, repaired. ``official``: the official rule to the letter, for the whole prediction.

    Raises :class:`~agentopt_local.errors.ConfigError` if the name is unknown or has no such rule.
    """
    kinds = task_kinds().values()
    known = {name: grader for kind in kinds for name, grader in kind.row_graders.items()}
    known |= {name: by_texts(grader) for name, grader in BUILT_IN.items()}
    if name not in known:
        raise ConfigError(f"task {name!r} is not known{did_you_mean(name, known)}. Use one of: {', '.join(known)}")
    if not lenient and not official:
        return known[name]
    rules = (kind.lenient_row_graders if lenient else kind.official_row_graders for kind in kinds)
    variants = {name: grader for each in rules for name, grader in each.items()}
    if name not in variants:
        variant = "lenient variant" if lenient else "official rule of its own"
        raise ConfigError(f"task {name!r} has no {variant}; only {' and '.join(variants)} have one")
    return variants[name]


def public_spec(spec: str) -> str:
    """``spec`` without the folders of a path in it, which must not leave this machine; options are kept.

    ``math:/home/me/data/math?level=1-3`` becomes ``math:math?level=1-3``. Data sets of the Hugging Face hub keep their
    whole name. A spec of an unknown kind is treated as if it held a path.
    """
    prefix, colon, argument = spec.partition(":")
    kind = _find_kind(prefix)
    if kind is None:
        return f"{_last_part(prefix)}{colon}{_without_folders(argument.strip())}"
    return f"{prefix}:{_without_folders(argument.strip())}" if kind.reads_path else spec


def _without_folders(argument: str) -> str:
    path, mark, options = argument.partition("?")
    if re.search(r"[/\\]", options):  # the question mark is part of the path
        path, mark, options = argument, "", ""
    return f"{path if _HUB_DATA_SET.fullmatch(path) else _last_part(path)}{mark}{options}"


def _last_part(path: str) -> str:
    if re.fullmatch(r"~\w*[/\\]*", path):
        return "~"  # ~NAME is a home folder
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _module_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(tasks.__path__)]


def _find_kind(prefix: str) -> TaskKind | None:
    """What the file with this name declares; None if there is no such file or it declares no kind of task."""
    if prefix not in _module_names():
        return None
    kind: TaskKind | None = getattr(importlib.import_module(f"{tasks.__name__}.{prefix}"), "KIND", None)
    return kind
