"""Finds out which layers of protection this machine has by trying each in a separate process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import sysconfig
from collections.abc import Callable
from functools import partial

from . import landlock, lockdown, native, removal, seccomp
from .launch_settings import WORKER_USERS, Settings, own_users
from .notices import Reporting
from .process import run_and_exit

NO_LANDLOCK = "landlock_in_kernel"
"""In ``Settings.off``: behave as if the kernel had no Landlock."""


def attempt(action: Callable[[], None]) -> str:
    """Run ``action`` in a forked process: "on" if it returned, otherwise why not."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        run_and_exit(partial(_confirm, writer, action), partial(_report, writer))
    os.close(writer)
    with open(reader, "rb") as file:  # noqa: PTH123
        text = file.read().decode("utf-8", "replace")
    status = os.waitpid(pid, 0)[1]
    return text or f"ended with status {status}"


def _confirm(writer: int, action: Callable[[], None]) -> None:
    """Tell the parent that ``action`` has returned."""
    action()
    os.write(writer, b"on")


def _report(writer: int, error: BaseException) -> None:
    """Send the parent the reason for a failure."""
    os.write(writer, (str(error) or type(error).__name__).encode("utf-8", "replace")[:1000])


def _try_seccomp() -> None:
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.build_here("read"))
    try:
        os.fork()
    except PermissionError:
        return
    raise OSError("the kernel accepts the filter but does not apply it")


def _try_notices() -> None:
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    os.close(Reporting().listen())


def _try_landlock() -> None:
    ruleset = landlock.create_ruleset(lockdown.landlock_rules([], None))
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict_self(ruleset)
    try:
        os.listdir("/")  # noqa: PTH208
    except PermissionError:
        return
    raise OSError("the kernel accepts the rules but does not apply them")


def _try_user(read_paths: list[str], folder: str) -> None:
    """As the other user: check that everything required is readable and that the scratch folder is writable."""
    lockdown.change_user(WORKER_USERS[0])
    for path in (os.__file__, *read_paths):
        if not os.access(path, os.R_OK):
            raise OSError(f"the interpreter's {path} is not readable for other users, so calls keep the user")
    inner = f"{folder}/inner"
    os.mkdir(inner, 0o700)  # noqa: PTH102
    with open(f"{inner}/file", "w", encoding="ascii"):  # noqa: PTH123
        pass
    signal.pause()


def _try_user_and_kill(settings: Settings) -> str:
    """Whether calls can run as another user and still be controlled by their supervisor."""
    if os.geteuid() != 0:
        return "not root: calls keep the user"
    folder = f"{settings.root}/probe"
    os.mkdir(folder, 0o700)  # noqa: PTH102
    reader, writer = os.pipe()
    try:
        os.chown(folder, WORKER_USERS[0], WORKER_USERS[0])
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
            run_and_exit(partial(_try_user, settings.read_paths, folder), partial(_report, writer))
        os.close(writer)
        writer = -1
        return _kill_probe(pid, folder, reader)
    except OSError as error:
        return str(error)
    finally:
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)
        with contextlib.suppress(OSError):
            removal.remove(folder, own_users())


def _kill_probe(pid: int, folder: str, reader: int) -> str:
    """Wait until the probe has made its file or failed, then check that it can be killed and its files wiped."""
    import select

    for _ in range(500):
        if select.select([reader], [], [], 0.01)[0]:
            text = os.read(reader, 1000).decode()
            os.waitpid(pid, 0)
            return text or "the probe of the user change died"
        if os.path.exists(f"{folder}/inner/file"):  # noqa: PTH110
            break
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    removal.remove(folder, own_users())
    return "on"


def _namespace_flags() -> int:
    flags = native.CLONE_NEWNET | native.CLONE_NEWIPC
    return flags if os.geteuid() == 0 else flags | native.CLONE_NEWUSER


def enter_namespaces() -> None:
    """Leave the host's network and its System V objects. Raises :class:`OSError`."""
    uid, gid = os.getuid(), os.getgid()
    flags = _namespace_flags()
    native.unshare(flags)
    if flags & native.CLONE_NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
                file.write(text)
    with open(os.__file__, "rb"):  # noqa: PTH123
        pass


def interpreter_paths(extra: list[str]) -> list[str]:
    """Folders that imports and shared libraries need to read."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = [sysconfig.get_path(name) for name in names]
    paths += [f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64", *extra]
    existing = dict.fromkeys(os.path.realpath(path) for path in paths if path and os.path.isdir(path))  # noqa: PTH112
    return list(existing)


def find_layers(settings: Settings) -> dict[str, str]:
    """Layer name -> "on", or why it is not in force here."""
    tries: dict[str, Callable[[], str]] = {
        "rlimits": lambda: attempt(lambda: lockdown.set_limits(settings, lockdown.address_space())),
        "no_new_privs": lambda: attempt(lambda: _ignore(native.prctl(native.PR_SET_NO_NEW_PRIVS, 1))),
        "seccomp": lambda: attempt(_try_seccomp),
        "file_notices": lambda: attempt(_try_notices),
        "landlock": lambda: attempt(_try_landlock),
        "uid": lambda: _try_user_and_kill(settings),
        "capabilities": lambda: attempt(native.drop_capabilities),
        "dumpable": lambda: attempt(lambda: _ignore(native.prctl(native.PR_SET_DUMPABLE, 0))),
        "parent_death_signal": lambda: attempt(lambda: _ignore(native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL))),
        "namespaces": lambda: attempt(enter_namespaces),
    }
    layers = {"clean_exec": "on"}
    for name, probe in tries.items():
        layers[name] = "switched off" if name in settings.off else probe()
    if layers["file_notices"] != "on":
        layers["file_notices"] += ": code cannot delete or rename files"
    if NO_LANDLOCK in settings.off:
        layers["landlock"] = "not in this kernel"
    if layers["landlock"] != "on" and "landlock" not in settings.off:
        layers["landlock"] += ": no file can be opened at all, so only modules imported at the start are available"
    return layers


def _ignore(_: int) -> None:
    """Discard the result of a C function."""
