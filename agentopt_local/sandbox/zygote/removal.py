"""Removes folders whose content others may have chosen, and nothing outside them.

Everything is reached through descriptors of folders that were opened without following a link, so whatever is exchanged
for a link meanwhile is left alone: only the link itself is removed. Folders on another file system, and those of other
users where ``owners`` are given, are neither entered nor changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection

_MAX_STALLS = 100
"""How often in a row a folder may change under our hands in a way that stops all progress."""
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST)
"""Errors of an entry that is no longer what it was when it was listed: it is looked at again."""


def remove(path: str | os.PathLike[str], owners: Collection[int] | None = None) -> None:
    """Remove the folder ``path`` with everything in it; none there is fine, and a link there is not followed.

    ``owners``: the users whose folders may be removed; None: any. Raises :class:`OSError` if something remains.
    """
    parent, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - it must not resolve links
    with contextlib.suppress(FileNotFoundError):
        above = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_at(above, name, owners)
        finally:
            os.close(above)


def remove_at(parent: int, name: str, owners: Collection[int] | None = None) -> None:
    """Remove the folder ``name`` in the folder that is open as ``parent``. Raises :class:`OSError`."""
    folder = open_folder(name, parent, owners=owners)
    try:
        empty(folder, owners)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def open_folder(
    name: str, parent: int | None = None, *, owners: Collection[int] | None = None, device: int | None = None
) -> int:
    """A descriptor of the folder ``name``, never through a link; its owner gets all rights to it.

    Raises :class:`OSError` if there is none, or if it is not of one of the ``owners`` or not on ``device``.
    """
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        facts = os.fstat(place)
        if owners is not None and facts.st_uid not in owners:
            raise PermissionError(errno.EPERM, f"the folder belongs to user {facts.st_uid}", name)
        if device is not None and facts.st_dev != device:
            raise OSError(errno.EXDEV, "the folder is on another file system", name)
        if facts.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(OSError):  # this names the open folder itself, wherever it is now
                os.chmod(f"/proc/self/fd/{place}", stat.S_IRWXU)  # noqa: PTH101
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)


def empty(folder: int, owners: Collection[int] | None = None) -> None:
    """Remove everything inside the folder that is open as ``folder``, however deep.

    Raises :class:`OSError` if something remains.
    """
    work = _Emptying(folder, owners)
    stalls = 0
    while names := work.names():
        before = work.changes
        for name, is_folder in names:
            work.take(name, is_folder)
        stalls = 0 if work.changes > before else stalls + 1
        if stalls > _MAX_STALLS:
            raise OSError(errno.EBUSY, "the folder changes while it is emptied", names[0][0])
    if work.kept:
        raise OSError(errno.ENOTEMPTY, "what belongs to others remains in the folder", min(work.kept))


class _Emptying:
    """One run of :func:`empty`: nested folders are moved up to the top, so two descriptors reach any depth."""

    def __init__(self, top: int, owners: Collection[int] | None) -> None:
        self.kept: set[str] = set()
        self.changes = 0
        self._top = top
        self._owners = owners
        self._device = os.fstat(top).st_dev
        self._next = 0

    def names(self) -> list[tuple[str, bool]]:
        """What is left to remove, and whether it is a folder."""
        return [entry for entry in _entries(self._top) if entry[0] not in self.kept]

    def take(self, name: str, is_folder: bool) -> None:
        """Remove an entry of the top; of a folder that has folders, move these to the top first."""
        try:
            if is_folder:
                self._take_folder(name)
            else:
                os.unlink(name, dir_fd=self._top)
            self.changes += 1
        except OSError as error:
            if error.errno not in _CHANGED:
                raise

    def _take_folder(self, name: str) -> None:
        folder = self._open(name, self._top)
        if folder is None:
            self.kept.add(name)
            return
        try:
            clear = self._clear(folder)
        finally:
            os.close(folder)
        if clear:
            os.rmdir(name, dir_fd=self._top)
        else:
            self.kept.add(name)

    def _open(self, name: str, parent: int) -> int | None:
        """The folder's descriptor; None if it belongs to others."""
        try:
            return open_folder(name, parent, owners=self._owners, device=self._device)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EXDEV):
                return None
            raise

    def _clear(self, folder: int) -> bool:
        """Remove the files of a folder and move its folders to the top; False if some belong to others and stay."""
        clear = True
        for name, is_folder in _entries(folder):
            if not is_folder:
                os.unlink(name, dir_fd=folder)
                continue
            inner = self._open(name, folder)  # gives its owner the right to move it, which rewrites its ".."
            if inner is None:
                clear = False
                continue
            os.close(inner)
            os.rename(name, self._free_name(), src_dir_fd=folder, dst_dir_fd=self._top)
        return clear

    def _free_name(self) -> str:
        try:
            while True:
                os.stat(str(self._next), dir_fd=self._top, follow_symlinks=False)
                self._next += 1
        except FileNotFoundError:
            return str(self._next)


def _entries(folder: int) -> list[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
