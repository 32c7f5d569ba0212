"""The names of a run folder's files, and how a file is replaced, locked and found."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from agentopt_local.errors import RunDirError
from agentopt_local.functions import FunctionSet
from agentopt_local.json_text import read_kept
from agentopt_local.plain_files import (
    MAX_JSON,
    MAX_LINE,
    MAX_ROWS,
    odd_kind,
    open_plain,
    read_plain,
    size_text,
    write_plain,
)
from agentopt_local.problem import Split
from agentopt_local.sandbox.zygote.removal import remove, remove_at

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
QUESTIONS = "questions.json"
"""Beside the functions' files, if they have source questions: by the functions' names."""
LOG = "run.log"
EVENTS = "tensorboard"
LOCK = ".lock"
RESULTS = ("report*.json", "report.html")
"""What says how the functions of a run did; patterns."""
MAX_ENTRIES = 100_000
"""Most entries of a run folder: more are not what a training leaves."""
_OURS = re.compile(rf".*\.jsonl?|report.*|{re.escape(LOG)}|{re.escape(LOCK)}|{FUNCTIONS}|{EVENTS}")
_LEFTOVER = re.compile(r"\..+\.jsonl?\.[0-9a-f]{16}\.new")
_BLOCK = 1 << 16
_ANY = re.compile(".*", re.DOTALL)
START = 0
"""The number under ``functions/`` of the set that a training starts from, where that is not the empty one."""


def report_name(split: Split) -> str:
    """The file that holds the evaluation on ``split``."""
    return "report.json" if split == "test" else f"report.{split}.json"


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run folder."""
    with suppress(OSError, ValueError):
        return not stat.S_ISDIR((path / CONFIG).lstat().st_mode)
    return False


def check_run(path: Path) -> None:
    """Raise RunDirError, naming the newest run beside ``path``, if ``path`` is not a run folder.

    A folder in which a name of ours is a link, a pipe or a device is refused too: somebody else may have made it.
    """
    if not is_run(path):
        raise RunDirError(f"{path} is not a run folder: it has no {CONFIG}{_nearby(path)}")
    try:
        odd = next(_odd_entries(path), "")
    except OSError as error:
        raise RunDirError(f"{path} cannot be read: {error.strerror}") from None
    if odd:
        raise RunDirError(f"{odd}; the files of a run must be its own, so put the file itself there, or remove it")


def _nearby(path: Path) -> str:
    found: list[tuple[float, Path]] = []
    with suppress(OSError, ValueError):
        found = [(each.lstat().st_mtime, each.parent) for each in path.parent.glob(f"*/{CONFIG}")]
    return f"; the newest run there is {max(found)[1]}" if found else ""


def _odd_entries(run: Path) -> Iterator[str]:
    """What is wrong with each name of ours in ``run``, down to the files of functions and events."""
    folders = [(run, _OURS)]
    left = itertools.repeat(None, MAX_ENTRIES)
    while folders:
        folder, names = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if next(left, 0) == 0:
                    yield f"{run} has more than {MAX_ENTRIES:,} entries"
                if not names.fullmatch(entry.name):
                    continue
                mode = entry.stat(follow_symlinks=False).st_mode
                if odd := odd_kind(mode):
                    yield f"{folder / entry.name}: {odd}"
                if stat.S_ISDIR(mode) and len(folder.parts) < len(run.parts) + 2:
                    folders.append((folder / entry.name, _ANY))


def functions_folder(run: Path, step: int) -> Path:
    """The folder with the functions after ``step``."""
    return run / FUNCTIONS / f"{step:04d}"


def lock(path: Path) -> IO[str]:
    """An open file whose lock this process holds; the kernel releases it when the process ends, however it ends.

    Raises RunDirError if another process holds it.
    """
    try:
        file = os.fdopen(open_plain(path, os.O_RDWR | os.O_CREAT), "r+")
    except OSError as error:
        raise RunDirError(f"{path.parent} cannot be written: {path.name}: {error.strerror}") from None
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
        inode = (run / LOCK).lstat().st_ino
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
    def one(source: str, copy: str) -> None:
        with os.fdopen(open_plain(Path(source)), "rb") as old, Path(copy).open("xb") as new:
            if os.fstat(old.fileno()).st_size > MAX_ROWS:
                raise OSError(errno.EFBIG, f"{source} has more than {size_text(MAX_ROWS)}")
            shutil.copyfileobj(old, new)
        shutil.copystat(source, copy)

    check_run(run)
    try:
        shutil.copytree(run, target, symlinks=True, ignore=shutil.ignore_patterns(*leave), copy_function=one)
    except shutil.Error as error:
        raise RunDirError(f"{run} cannot be copied to {target}: {error.args[0][0][2]}") from None
    except OSError as error:
        raise RunDirError(f"{run} cannot be copied to {target}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it does not exist. Raises RunDirError if it is damaged."""
    try:
        return read_kept(read_plain(path, MAX_JSON))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunDirError(f"{path} cannot be read: {error.strerror}; restore it or start a new run") from None
    except ValueError as error:
        raise RunDirError(f"{path} is damaged ({error}); restore it or start a new run") from None


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` so that a reader, or a kill, sees either the old content or the new."""
    try:
        write_plain(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise RunDirError(f"{path} cannot be written: {error.strerror}") from None
    with suppress(OSError):
        path.with_name(f".{path.name}.new").unlink()  # what a killed process of an older version left


def remove_leftovers(run: Path) -> None:
    """Remove what killed processes left of files that only the owner of the run's lock writes."""
    with suppress(OSError):
        for path in run.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                path.unlink()


def append_to(path: Path) -> IO[str]:
    """A file of a run, open for more lines; it is made if there is none. Raises RunDirError."""
    try:
        opened = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise RunDirError(f"{path} cannot be written: {error.strerror}") from None
    return os.fdopen(opened, "a", encoding="utf-8", errors="backslashreplace")


def whole_lines(path: Path) -> int | None:
    """How many bytes of a JSONL file are whole lines, if a kill tore the last one. Raises RunDirError."""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            end = size = file.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - _BLOCK)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                if found >= 0:
                    whole = start + found + 1
                    return None if whole == size else whole
                if size - start > MAX_LINE:
                    raise OSError(errno.EFBIG, f"a line has more than {size_text(MAX_LINE)}")
                end = start
            return 0 if size else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunDirError(f"{path} cannot be read: {error.strerror}") from None


def cut(path: Path, length: int) -> None:
    """Keep the first ``length`` bytes of a file. Raises RunDirError."""
    try:
        with os.fdopen(open_plain(path, os.O_RDWR), "r+b") as file:
            file.truncate(length)
    except OSError as error:
        raise RunDirError(f"{path} cannot be written: {error.strerror}") from None


def write_functions(folder: Path, functions: FunctionSet) -> None:
    """Write one ``NAME.py`` per function and their source questions into ``folder``, which is made anew."""
    questions = {each.name: each.questions for each in functions.each() if each.questions}
    texts = {f"{each.name}.py": each.source for each in functions.each()}
    texts |= {QUESTIONS: json.dumps(questions, indent=1)} if questions else {}
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        folder.parent.mkdir(exist_ok=True)
        above = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                remove_at(above, folder.name)
            os.mkdir(folder.name, dir_fd=above)
            for name, text in texts.items():
                with os.fdopen(open_plain(Path(folder.name) / name, flags, folder=above), "wb") as file:
                    file.write(text.encode("utf-8", "backslashreplace"))
        finally:
            os.close(above)
    except OSError as error:
        raise RunDirError(f"{folder} cannot be written: {error.strerror}") from None
