"""Writing an export: completely or not at all, and never over something that this program did not write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentopt_local.errors import ConfigError
from agentopt_local.plain_files import check_replaceable
from agentopt_local.run.files import write_atomically
from agentopt_local.sandbox.zygote.removal import remove

MARKER = ".agentopt-export"
"""A file in every exported folder; only folders with it are ever replaced."""


def check_output(path: Path, *, force: bool) -> None:
    """Raise ConfigError if ``path`` must not be written, or cannot be."""
    try:
        path.stat()
        check_replaceable(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be written: {reason}; choose another with --output PATH") from None
    if path.is_dir() and any(path.iterdir()):
        if not (path / MARKER).is_file():
            raise ConfigError(f"{path} is a folder that agentopt did not write, so it is not replaced; choose another")
    elif path.is_dir():
        return
    if not force:
        raise ConfigError(f"{path} exists already; replace it with --force, or choose another with --output PATH")


def write_file(path: Path, text: str, *, force: bool) -> None:
    """Write one file. Raises ConfigError if it exists and ``force`` is not set, or is a folder."""
    check_output(path, force=force)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file with --output PATH")
    make_parent(path)
    write_atomically(path, text)


@contextmanager
def new_folder(path: Path, *, force: bool) -> Iterator[Path]:
    """A fresh folder that takes the place of ``path`` when the context ends without an error."""
    check_output(path, force=force)
    if path.is_file():
        raise ConfigError(f"{path} is a file; name a folder with --output PATH")
    make_parent(path)
    temporary = Path(tempfile.mkdtemp(prefix=".agentopt-", dir=path.parent))
    try:
        folder = temporary / "new"
        folder.mkdir()
        (folder / MARKER).write_text("Written by agentopt export or import.\n", encoding="utf-8")
        yield folder
        if path.exists():
            path.rename(temporary / "old")
        folder.rename(path)
    finally:
        with suppress(OSError):
            remove(temporary)


def make_parent(path: Path) -> None:
    """Create the parent folder of ``path``. Raises ConfigError if it cannot be created or written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "too many folders in each other"
        raise ConfigError(
            f"{str(path.parent)[:200]} cannot be created: {reason}; choose another --output PATH"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path.parent} cannot be written; choose another --output PATH")
