"""The scratch folder of a worker: measuring it while a call runs, emptying it afterwards.

The code that ran there chose names, depths and modes, so nothing here recurses or follows a link.
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
                return True  # folders in folders, thousands deep
            continue  # removed meanwhile
        if total > max_bytes:
            return True
    return False


def wipe(folder: str) -> None:
    """Remove everything inside ``folder``, however deep. Raises :class:`OSError` if something stays.

    Folders inside are emptied by moving what they hold up to the top, so no path is ever longer than two levels.
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
    """Remove the folder ``path`` after moving its own folders to ``top``; the next free number for a name."""
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)  # noqa: PTH101 - it may have been made unreadable
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
