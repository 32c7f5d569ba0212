"""The scratch folder of a worker: measured while a call runs, emptied afterwards.

Untrusted code has chosen the names, depths and modes in it, so nothing here recurses or follows links.
"""

from __future__ import annotations

import contextlib
import errno
import os

MAX_ENTRIES = 2000


def is_over(folder: str, max_bytes: int) -> bool:
    """Whether the folder holds more than ``max_bytes`` or more than ``MAX_ENTRIES`` entries."""
    total = 0
    count = 0
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_ENTRIES:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return True  # folders nested thousands deep
            continue  # removed meanwhile
        if total > max_bytes:
            return True
    return False


def wipe(folder: str) -> None:
    """Remove everything inside ``folder``, however deep. Raises :class:`OSError` if something remains.

    Nested folders are moved up to the top, so no path is ever longer than two levels.
    """
    moved = 0
    while True:
        with os.scandir(folder) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        if not names:
            return
        for name, is_folder in names:
            path = f"{folder}/{name}"
            if is_folder:
                moved = _flatten(path, folder, moved)
            else:
                os.unlink(path)  # noqa: PTH108


def _flatten(path: str, top: str, moved: int) -> int:
    """Remove the folder ``path`` after moving its folders to ``top``. Returns the next free number for a name."""
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)  # noqa: PTH101 - the code may have made it unreadable
    with os.scandir(path) as entries:
        inner = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for inner_path, is_folder in inner:
        if not is_folder:
            os.unlink(inner_path)  # noqa: PTH108
            continue
        with contextlib.suppress(OSError):
            os.chmod(inner_path, 0o700)  # noqa: PTH101 - moving a folder rewrites its ".."
        while os.path.lexists(target := f"{top}/{moved}"):
            moved += 1
        os.rename(inner_path, target)  # noqa: PTH104
    os.rmdir(path)  # noqa: PTH106
    return moved
