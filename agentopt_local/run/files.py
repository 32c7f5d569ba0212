"""The names of a run folder's files, and how a file is replaced, locked and found."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from agentopt_local.errors import RunDirError
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Split
from agentopt_local.sandbox.zygote.removal import remove

CONFIG = "config.json"
META = "meta.json"
PROBLEMS = "problems.jsonl"
TASK_ROWS = "task_rows.jsonl"
STATE = "state.json"
STEPS = "steps.jsonl"
PROPOSALS = "proposals.jsonl"
ROLLOUTS = "rollouts.jsonl"
COSTS = "costs.jsonl"
METRICS = "metrics.jsonl"
TEST_SET = "test_set.json"
LOOKS = "looks.jsonl"
CERTIFICATES = "certificates.jsonl"
CREDIT = "credit.json"
FUNCTIONS = "functions"
LOG = "run.log"
EVENTS = "tensorboard"
LOCK = ".lock"
RESULTS = ("report*.json", "report.html")
"""What says how the functions of a run did; patterns."""
START = 0
"""The number under ``functions/`` of the set that a training starts from, where that is not the empty one."""


def report_name(split: Split) -> str:
    """The file that holds the evaluation on ``split``."""
    return "report.json" if split == "test" else f"report.{split}.json"


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run folder."""
    try:
        return (path / CONFIG).is_file()
    except OSError:  # such as a name that is too long
        return False


def check_run(path: Path) -> None:
    """Raise RunDirError, naming the newest run beside ``path``, if ``path`` is not a run folder."""
    if is_run(path):
        return
    runs = sorted(path.parent.glob(f"*/{CONFIG}"), key=lambda each: each.stat().st_mtime, reverse=True)
    nearby = f"; the newest run there is {runs[0].parent}" if runs else ""
    raise RunDirError(f"{path} is not a run folder: it has no {CONFIG}{nearby}")


def functions_folder(run: Path, step: int) -> Path:
    """The folder with the functions after ``step``."""
    return run / FUNCTIONS / f"{step:04d}"


def lock(path: Path) -> IO[str]:
    """An open file whose lock this process holds; the kernel releases it when the process ends, however it ends.

    Raises RunDirError if another process holds it.
    """
    try:
        file = path.open("w")
    except OSError as error:
        raise RunDirError(f"{path.parent} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RunDirError(f"{path.parent} is in use by another agentopt process") from None
    return file


def in_use(run: Path) -> bool | None:
    """Whether a process holds the run's lock, from the kernel's list of locks; None if the kernel does not say.

    Trying the lock instead could make a resume fail.
    """
    try:
        inode = (run / LOCK).stat().st_ino
        return any(f":{inode} " in line for line in Path("/proc/locks").read_text(encoding="ascii").splitlines())
    except OSError:
        return None


def copy_run(run: Path, target: Path) -> None:
    """Copy a run folder without its lock. Raises RunDirError if ``target`` exists or cannot be written."""
    if target.exists():
        raise RunDirError(f"{target} exists already; choose another folder")
    _copy(run, target, LOCK)


@contextmanager
def copy_without_results(run: Path, target: Path) -> Iterator[Path]:
    """A copy of a run folder to work on that becomes ``target`` at the end of the block, whole or not at all.

    Raises RunDirError if it cannot be written.
    """
    temporary = target.with_name(f".{target.name}.new")
    remove(temporary)
    try:
        _copy(run, temporary, LOCK, *RESULTS)
        yield temporary
        temporary.rename(target)
    finally:
        remove(temporary)


def _copy(run: Path, target: Path, *leave: str) -> None:
    try:
        shutil.copytree(run, target, ignore=shutil.ignore_patterns(*leave))
    except OSError as error:
        raise RunDirError(f"{run} cannot be copied to {target}: {error}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it does not exist. Raises RunDirError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunDirError(f"{path} is damaged ({error}); restore it or start a new run") from None


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` so that a reader, or a kill, sees either the old content or the new."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunDirError(f"{path} cannot be written: {error.strerror}") from None


def write_functions(folder: Path, functions: FunctionSet) -> None:
    """Write one ``NAME.py`` per function into ``folder``, which is made anew."""
    try:
        remove(folder)
        folder.mkdir(parents=True)
        for function in functions.each():
            (folder / f"{function.name}.py").write_text(function.source, encoding="utf-8")
    except OSError as error:
        raise RunDirError(f"{folder} cannot be written: {error.strerror}") from None
