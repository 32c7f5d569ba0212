"""The scratch folder of a worker: measured while a call runs, emptied afterwards (``removal.py``).

Untrusted code has chosen the names, depths and modes in it, so nothing here recurses or follows links.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

MAX_ENTRIES = 2000
_TIDY = 30
"""Deleted files that are kept hold of before it is worth finding out which of them the code still uses."""


class ScratchUse:
    """What one call uses of its folder: everything in it, and the files that it has deleted but still holds.

    A file that has been seen is kept hold of, so its size is known wherever it is now, and it cannot be deleted unseen:
    before an entry disappears, the whole folder is looked at.
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._files: dict[int, int] = {}
        self._entries = 0
        self._deleted = 0
        self._tidy_at = _TIDY
        self._made = 0
        """Entries that may have been made since the folder was last looked at while the code waited."""
        self.begun = False
        """Whether anything may have been made."""

    def before_making(self) -> bool:
        """Called while the code waits to make an entry: whether it has too much already."""
        self.begun = True
        self._made += 1
        return self._entries + self._made > MAX_ENTRIES and self._is_over_at_rest()

    def before_removing(self) -> bool:
        """Called while the code waits to delete or replace an entry: whether it has too much already."""
        return self._made > 0 and self._is_over_at_rest()

    def _is_over_at_rest(self) -> bool:
        over = self.is_over()
        self._made = 0
        return over

    def is_over(self) -> bool:
        """Whether more than ``max_bytes`` or ``MAX_ENTRIES`` are in use.

        A folder that cannot be listed and a file that cannot be held count as over: they could be of any size.
        """
        if self._exceeds():
            return not self._let_go() or self._exceeds()
        if self._deleted > self._tidy_at:  # each of them makes the next look slower
            self._let_go()
            self._tidy_at = 2 * sum(os.fstat(held).st_nlink == 0 for held in self._files.values()) + _TIDY
        return False

    def _exceeds(self) -> bool:
        """:meth:`is_over`, as if all deleted files were still held by the code."""
        count = self._look()
        if count is None:
            return True
        facts = [os.fstat(held) for held in self._files.values()]
        self._deleted = sum(each.st_nlink == 0 for each in facts)
        self._entries = count + self._deleted
        return sum(each.st_size for each in facts) > self._max_bytes or self._entries > MAX_ENTRIES

    def _let_go(self) -> bool:
        """Let go of the deleted files that the code does not use any more; whether there were some."""
        unused = [inode for inode, held in self._files.items() if os.fstat(held).st_nlink == 0 and _is_unused(held)]
        for inode in unused:
            os.close(self._files.pop(inode))
        return bool(unused)

    def _look(self) -> int | None:
        """Take hold of all files in the folder; returns the number of entries, None if not all could be seen."""
        count = 0
        pending = [self._folder]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        count += 1
                        if count > MAX_ENTRIES:
                            return None
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                        elif entry.inode() not in self._files:
                            self._hold(entry.path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # removed meanwhile
                    return None  # closed, nested thousands deep, or more than this process may hold
        return count

    def _hold(self, path: str) -> None:
        held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        inode = os.fstat(held).st_ino
        if inode in self._files:  # renamed while the code runs
            os.close(held)
        else:
            self._files[inode] = held

    def close(self) -> None:
        """Let go of all files."""
        for held in self._files.values():
            os.close(held)
        self._files.clear()


def _is_unused(held: int) -> bool:
    """Whether nobody else has a deleted file open or mapped: only then does the kernel grant a lease to write it."""
    path = f"/proc/self/fd/{held}"
    with contextlib.suppress(OSError):
        os.chown(path, os.geteuid(), -1)  # only the owner of a file may have a lease
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        finally:
            os.close(file)
    except OSError:
        return False
    return True
