"""Attacks that a sandbox runs against itself when it starts, to detect layers that silently do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROBE = '''
import os, socket


def probe(canary, folder):
    """Name of an attack -> whether it succeeded."""
    got = {}

    def attack(name, action):
        try:
            action()
            got[name] = True
        except (OSError, RuntimeError):
            got[name] = False

    def read(path):
        with open(path, "rb") as file:
            file.read(1)

    def write(path):
        with open(path, "w") as file:
            file.write("x")

    def fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    attack("reads a file outside", lambda: read(canary))
    attack("writes a file outside", lambda: write(os.path.join(folder, "written-by-the-self-test")))
    attack("reads its parent's environment", lambda: read(f"/proc/{os.getppid()}/environ"))
    attack("makes a socket", lambda: socket.socket().close())
    attack("signals its parent", lambda: os.kill(os.getppid(), 0))
    attack("starts a process", fork)
    return got
'''


def breaches(value: Any) -> list[str]:
    """The attacks that succeeded, from the probe's result; a malformed result counts as one."""
    if not isinstance(value, Mapping) or len(value) != 6:
        return ["the self-test gave no result"]
    return [str(name) for name, through in value.items() if through is not False]
