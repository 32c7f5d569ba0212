"""Where a sandbox keeps its files: one folder per user, in it a folder and a lock for each launcher."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agentopt_local.errors import SandboxError
from agentopt_local.sandbox.zygote.launch_settings import own_users
from agentopt_local.sandbox.zygote.removal import open_folder, remove, remove_at

_LOCK_SUFFIX = ".lock"
_MIN_AGE_S = 60.0
"""A lock that is younger may belong to a sandbox that is about to take it."""


@contextlib.contextmanager
def _base() -> Iterator[tuple[Path, int]]:
    """This user's folder and its descriptor; made if it is missing.

    Raises :class:`SandboxError` if somebody else could have put something into it.
    """
    path = Path(tempfile.gettempdir()) / f"agentopt-{os.geteuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
        folder = open_folder(os.fspath(path), owners=(os.geteuid(),))
    except OSError as error:
        raise SandboxError(
            f"{path} must be a folder of this user's own, and not a link, to hold the sandbox's files "
            f"({error.strerror}): remove it, or set TMPDIR to a folder that others cannot write"
        ) from error
    try:
        _close_to_others(folder)
        yield path, folder
    finally:
        os.close(folder)


def _close_to_others(folder: int) -> None:
    """Nobody else may list or change the folder. Calls that run as users of their own must pass through it."""
    mode = 0o711 if os.geteuid() == 0 else 0o700
    if stat.S_IMODE(os.fstat(folder).st_mode) != mode:
        os.fchmod(folder, mode)


def make_root() -> tuple[Path, int]:
    """A new scratch root, and a lock that marks it as in use, also by the launcher, which inherits it.

    Raises :class:`SandboxError` if this user's folder cannot be used.
    """
    name = f"sandbox-{secrets.token_hex(8)}"
    with _base() as (path, base), contextlib.ExitStack() as on_error:
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            lock = os.open(name + _LOCK_SUFFIX, flags, 0o600, dir_fd=base)
            on_error.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
            os.mkdir(name, 0o700, dir_fd=base)
            root = open_folder(name, base, owners=(os.geteuid(),))
        except OSError as error:
            raise SandboxError(f"the sandbox cannot make its folder in {path}: {error.strerror}") from error
        _close_to_others(root)
        os.close(root)
        on_error.pop_all()
    return path / name, lock


def remove_root(root: Path) -> None:
    """Remove a scratch root and its lock file; if something remains, a later :func:`sweep` tries again."""
    with contextlib.suppress(OSError):
        remove(root, own_users())
        root.with_name(root.name + _LOCK_SUFFIX).unlink(missing_ok=True)


def sweep() -> None:
    """Remove scratch roots whose processes are all gone, as after a power failure or a SIGKILL of all of them.

    Raises :class:`SandboxError` if this user's folder cannot be used.
    """
    with _base() as (_, base):
        for name in os.listdir(base):  # noqa: PTH208 - a descriptor
            if name.endswith(_LOCK_SUFFIX):
                with contextlib.suppress(OSError):  # in use, another user's, or gone
                    _sweep_one(name, base)


def _sweep_one(name: str, base: int) -> None:
    """Remove the root that belongs to a lock, and the lock, if nobody holds it. Raises :class:`OSError`."""
    lock = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=base)
    try:
        facts = os.fstat(lock)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - facts.st_mtime > _MIN_AGE_S:
            with contextlib.suppress(FileNotFoundError):
                remove_at(base, name.removesuffix(_LOCK_SUFFIX), own_users())
            os.unlink(name, dir_fd=base)
    finally:
        os.close(lock)
