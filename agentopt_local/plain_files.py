"""Files that somebody else may have put there: opened only if they are plain files, and read up to a limit.

A name in a stranger's folder may be a link to a file of ours, a pipe on which nobody ever writes, a device without an
end, or a file of a terabyte. None of them is opened here, and nothing waits. Every refusal is an :class:`OSError` whose
``strerror`` says in words what is there instead.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agentopt_local.errors import ConfigError

MIB = 1 << 20
MAX_SETTINGS = MIB
"""Bytes of a file with settings."""
MAX_SOURCE = MIB
"""Bytes of a file with functions or a chat template."""
MAX_JSON = 256 * MIB
"""Bytes of a file with one JSON value."""
MAX_LINE = 64 * MIB
"""Bytes of a line."""
MAX_ROWS = 8192 * MIB
"""Bytes of a file with a row per line."""
_KINDS = (
    (stat.S_ISLNK, "it is a link, which is not followed here"),
    (stat.S_ISFIFO, "it is a pipe, not a file"),
    (stat.S_ISSOCK, "it is a socket, not a file"),
    (stat.S_ISCHR, "it is a device, not a file"),
    (stat.S_ISBLK, "it is a device, not a file"),
)


def odd_kind(mode: int) -> str:
    """What is wrong with a name of this mode; empty for a plain file or a folder."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "")


def open_plain(path: Path, flags: int = os.O_RDONLY, *, follow: bool = False, folder: int | None = None) -> int:
    """A descriptor of the plain file ``path``; with ``os.O_CREAT`` in ``flags``, of a new one if there is none.

    ``follow``: whether ``path`` may be a link, as where the user named it. ``folder``: a descriptor of the folder that
    ``path`` is relative to. A file that is written to must have no other name. Raises :class:`OSError`.
    """
    try:
        try:
            _check(os.stat(path, dir_fd=folder, follow_symlinks=follow), path, flags)  # a device is not even opened
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        always = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
        opened = os.open(path, flags | always, 0o666, dir_fd=folder)
    except ValueError:  # a null character, or half of a surrogate pair
        raise OSError(errno.EINVAL, "no file can have such a name", repr(path)) from None
    try:
        _check(os.fstat(opened), path, flags)
    except OSError:
        os.close(opened)
        raise
    return opened


def _check(facts: os.stat_result, path: Path, flags: int) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if odd := odd_kind(facts.st_mode):
        raise OSError(errno.EINVAL, odd, str(path))
    if facts.st_nlink > 1 and flags & (os.O_WRONLY | os.O_RDWR):
        raise OSError(
            errno.EMLINK, "it has a second name elsewhere (a hard link), whose content would change too", str(path)
        )


def read_plain(path: Path, most: int, *, follow: bool = False) -> bytes:
    """The bytes of a plain file, ``most`` of them at most. Raises :class:`OSError` for a longer one, too."""
    with os.fdopen(open_plain(path, follow=follow), "rb") as file:
        if os.fstat(file.fileno()).st_size <= most:
            data = file.read(most + 1)
            if len(data) <= most:
                return data
    raise OSError(errno.EFBIG, f"it has more than {size_text(most)}", str(path))


def plain_lines(path: Path, *, follow: bool = False, most: int = MAX_ROWS) -> Iterator[bytes]:
    """The lines of a plain file, with their ends. Raises :class:`OSError` if the file or a line is too long."""
    with os.fdopen(open_plain(path, follow=follow), "rb") as file:
        yield from bounded_lines(file, most)


def bounded_lines(file: BinaryIO, most: int = MAX_ROWS) -> Iterator[bytes]:
    """The lines of an open file, with their ends. Raises :class:`OSError` for more than ``most`` or a long line."""
    read = 0
    while line := file.readline(MAX_LINE + 1):
        read += len(line)
        if len(line) > MAX_LINE:
            raise OSError(errno.EFBIG, f"a line has more than {size_text(MAX_LINE)}")
        if read > most:
            raise OSError(errno.EFBIG, f"it has more than {size_text(most)}")
        yield line


def write_plain(path: Path, data: bytes) -> None:
    """Replace ``path`` so that a reader, or a kill, sees either the old content or the new. Raises :class:`OSError`.

    A link there is replaced and not followed. Devices and pipes are refused: root would lose ``/dev/null``.
    The temporary file has a name that nobody can have taken before.
    """
    check_replaceable(path)
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.new")
    opened = open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # where it did not take the place of ``path``


def check_replaceable(path: Path) -> None:
    """Raise :class:`OSError` if what ``path`` leads to is neither a file nor a folder, and so not to be replaced."""
    try:
        mode = path.stat().st_mode
        odd = "it is an open file's name" if path.is_symlink() and path.readlink().is_relative_to("/proc") else ""
    except (OSError, ValueError):  # nothing is there, or nothing that can be known: whoever writes finds out
        return
    if odd := odd_kind(mode) or odd:
        raise OSError(errno.EINVAL, odd, str(path))


def own_path(text: str, what: str) -> Path:
    """A path that the user wrote, with ``~`` replaced. Raises ConfigError, which begins with ``what``."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{what}: {text!r} begins with the home folder of a user who is not known here") from None


def size_text(n: int) -> str:
    """``64 MiB``."""
    return f"{n // MIB:,} MiB" if n % MIB == 0 else f"{n:,} bytes"
