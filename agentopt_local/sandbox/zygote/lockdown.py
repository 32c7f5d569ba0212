"""What a child does to itself before it executes untrusted code. Each step can only remove rights."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from dataclasses import dataclass

from . import landlock, native, seccomp
from .launch_settings import Settings
from .notices import Reporting

RESERVE_BYTES = 4 << 20
"""Address space beyond the limit, so that running out of memory can still be reported."""

_READ_PATHS = (
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/urandom",
    "/sys/devices/system/cpu",
)
_DEVICES = ("/dev/null", "/dev/zero")


def landlock_rules(read_paths: list[str], scratch: str | None) -> list[tuple[str, int]]:
    """The paths and rights of the Landlock rule set."""
    rules = [(path, landlock.READ) for path in (*_READ_PATHS, *read_paths)]
    rules += [(path, landlock.DEVICE) for path in _DEVICES]
    if scratch:
        rules.append((scratch, landlock.SCRATCH))
    return rules


def change_user(uid: int) -> None:
    """Become user and group ``uid`` permanently, without other groups. Raises :class:`OSError`."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def address_space() -> int:
    """Bytes of address space that this process uses now."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


def set_limit(kind: int, value: int) -> None:
    """Lower one resource limit, hard and soft; an existing lower limit stays. Raises :class:`OSError`."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def set_limits(settings: Settings, base_bytes: int) -> None:
    """Apply the resource limits, allowing for the ``base_bytes`` of address space that the process already uses.

    Raises :class:`OSError` if an essential one cannot be set.
    """
    set_limit(resource.RLIMIT_AS, base_bytes + settings.memory_bytes + RESERVE_BYTES)
    set_limit(resource.RLIMIT_FSIZE, settings.file_bytes)
    set_limit(resource.RLIMIT_NOFILE, 64)
    set_limit(resource.RLIMIT_CORE, 0)
    set_limit(resource.RLIMIT_NPROC, 0)
    for kind, value in (
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_STACK, 8 << 20),
    ):
        with contextlib.suppress(OSError, ValueError):  # gVisor does not support some of them
            set_limit(kind, value)


def close_descriptors(keep: set[int]) -> None:
    """Close every descriptor that is not in ``keep``."""
    low = 0
    for descriptor in sorted(keep):
        if low < descriptor:  # an empty range from 0 would close everything
            os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, 4096)  # the launcher was started with few descriptors, so numbers stay small


@dataclass
class Walls:
    """What is prepared once for all children of a template, because each page that a child writes costs time."""

    parent: int
    """The template's process id."""
    uid: int
    base_bytes: int
    """Address space of a child before it runs any code."""
    ruleset: int | None = None
    """The descriptor of the Landlock rule set."""
    system_calls: bytes | None = None
    """The program of the system call filter."""
    notices: Reporting | None = None
    """Tells the supervisor which files are made and deleted."""


def lock_down(settings: Settings, walls: Walls, supervisor: int) -> None:
    """Apply all layers that are on, in the order that works. Raises :class:`OSError` if one fails.

    ``supervisor``: the socket on which the supervisor gets the listener for notices.
    """
    if settings.on("uid"):
        change_user(walls.uid)
    if settings.on("capabilities"):
        native.drop_capabilities()
    if settings.on("no_new_privs"):
        native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    if settings.on("dumpable"):
        native.prctl(native.PR_SET_DUMPABLE, 0)
    if settings.on("parent_death_signal"):
        # after the change of user, which clears it
        native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != walls.parent:
            raise OSError("the template has ended")
    if settings.on("rlimits"):
        set_limits(settings, walls.base_bytes)
    if walls.ruleset is not None:
        landlock.restrict_self(walls.ruleset)
        os.close(walls.ruleset)
    if walls.notices is not None:
        walls.notices.begin(supervisor)
    if walls.system_calls is not None:
        seccomp.install(walls.system_calls)
