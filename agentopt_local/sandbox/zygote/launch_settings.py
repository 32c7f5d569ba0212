"""The settings that the trainer sends to the launcher, and what the launcher derives from them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

WORKER_USERS = range(64000, 65000)
"""Worker ``n`` runs its calls as the n-th of these users and groups if it may change its user."""

EXIT_FAILED = 97
"""Exit status of a child whose own program failed: the lock-down did, or the code broke it."""


def own_users() -> Collection[int]:
    """The users whose folders this process may have made: its own and, if it is root, those of its workers."""
    return (0, *WORKER_USERS) if os.geteuid() == 0 else (os.geteuid(),)


@dataclass
class Settings:
    """All settings of one launcher; the fields up to ``off`` arrive as JSON."""

    timeout_s: float
    memory_bytes: int
    output_bytes: int
    result_bytes: int
    file_bytes: int
    root: str
    """Folder that holds a scratch folder for each worker."""
    preload: list[str] = field(default_factory=list)
    """Modules to import besides the usual ones; they must exist."""
    site_folders: list[str] = field(default_factory=list)
    """Package folders of the trainer's interpreter."""
    off: list[str] = field(default_factory=list)
    """Layers switched off for tests."""
    layers: dict[str, str] = field(default_factory=dict)
    """Layer name -> "on", or why it is not in force; set by the launcher."""
    read_paths: list[str] = field(default_factory=list)
    """What Landlock lets the code read; set by the launcher."""

    def on(self, layer: str) -> bool:
        """Whether a layer is in force."""
        return self.layers.get(layer) == "on"

    @property
    def files(self) -> str:
        """How the system call filter lets the code use files: "none", "read", "write", or "keep" to delete none."""
        if not self.on("landlock") and "landlock" not in self.off:
            return "none"
        if not self.file_bytes:
            return "read"
        return "write" if self.on("file_notices") else "keep"

    @property
    def scratch(self) -> bool:
        """Whether calls get a folder to which they may write."""
        return self.files in ("write", "keep")

    @property
    def notices(self) -> bool:
        """Whether calls wait for the supervisor before they make, delete or rename a file."""
        return self.files == "write" and self.on("seccomp")

    @property
    def answer_bytes(self) -> int:
        """The largest answer frame: a result, and captured output in its longest JSON form."""
        return self.result_bytes + 16 * self.output_bytes + (64 << 10)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Settings:
        """Raises :class:`TypeError` for unknown fields."""
        return cls(**value)
