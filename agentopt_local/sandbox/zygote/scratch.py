"""The scratch folder of a worker: measured while a call runs, emptied afterwards (``removal.py``).

Untrusted code has chosen the names, depths and modes in it, so nothing here recurses or follows links.
"""

from __future__ import annotations

import errno
import os

MAX_ENTRIES = 2000


def is_over(folder: str, max_bytes: int) -> bool:
    """Whether the folder holds more than ``max_bytes`` or more than ``MAX_ENTRIES`` entries.

    A folder in it that cannot be listed counts as over: it could hold anything.
    """
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
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # removed meanwhile
                return True  # closed, or nested thousands deep
        if total > max_bytes:
            return True
    return False
