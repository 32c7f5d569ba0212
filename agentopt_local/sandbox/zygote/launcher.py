"""The process between the trainer and its workers: it imports once, then forks supervisors on request.

It is started with a minimal environment and few descriptors, so it holds nothing of the trainer's memory. It ends when
the trainer closes the connection or dies, and ends all processes below it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any

from . import frames, native, removal
from .frames import FrameReader
from .launch_settings import Settings, own_users
from .layers import enter_namespaces, find_layers, interpreter_paths
from .preload import package_folders, preload, settle
from .supervisor import scratch_path, supervisor_main

_CHECK_S = 1.0
"""Seconds between checks that the trainer is still the parent."""


class Launcher:
    """Serves the trainer's control connection."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._trainer = os.getppid()
        self._reader = FrameReader(1 << 20)
        self._descriptors: list[int] = []
        self._requests: list[tuple[int, bytes]] = []
        self._workers: dict[int, int] = {}
        self._settings: Settings | None = None

    def run(self) -> None:
        """Serve until the trainer is gone, then clean up."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self._receive():
                for kind, body in self._requests:
                    if kind == frames.CONFIG:
                        self._start(json.loads(body))
                    elif kind == frames.SPAWN:
                        self._spawn(json.loads(body)["index"])
                self._requests = []
        except ConnectionError:
            pass
        finally:
            self._end()

    def _receive(self) -> bool:
        """Wait for requests; False when the trainer is gone."""
        while not select.select([self._control], [], [], _CHECK_S)[0]:
            self._reap()
            if os.getppid() != self._trainer:
                return False
        data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 8)
        self._descriptors += descriptors
        self._requests = self._reader.feed(data)
        return bool(data)

    def _start(self, config: dict[str, Any]) -> None:
        try:
            hello = self._prepare(Settings.from_json(config))
        except Exception:  # noqa: BLE001 - preloaded modules may raise anything; the trainer reports it
            self._control.sendall(frames.pack(frames.FAILED, traceback.format_exc(limit=-3).encode()[-8000:]))
            raise ConnectionError("the start failed") from None
        self._control.sendall(frames.pack_json(frames.HELLO, hello))

    def _prepare(self, settings: Settings) -> dict[str, Any]:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write("1000")  # when memory runs out, the kernel should kill this family first
        for folder in settings.site_folders:
            if folder not in sys.path:
                sys.path.append(folder)
        imported = preload(settings.preload)
        settings.read_paths = interpreter_paths([*settings.site_folders, *package_folders(settings.preload)])
        sys.path = [path for path in sys.path if os.path.realpath(path) in settings.read_paths or _is_inside(path)]
        sys.path_importer_cache.clear()
        sys.argv = [""]
        settings.layers = find_layers(settings)
        if settings.on("namespaces"):
            enter_namespaces()
        if settings.on("dumpable"):
            native.prctl(native.PR_SET_DUMPABLE, 0)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a supervisor holds the files that a call has made
        self._settings = settings
        settle()
        return {
            "layers": settings.layers,
            "files": settings.files,
            "preloaded": imported,
            "python": platform.python_version(),
            "threads": _thread_count(),
        }

    def _spawn(self, index: int) -> None:
        """Fork the supervisor of worker ``index``, after ending any earlier one."""
        assert self._settings is not None
        connection = self._descriptors.pop(0)
        self._kill(index)
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._control.close()
            for descriptor in self._descriptors:
                os.close(descriptor)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if self._settings.on("parent_death_signal"):
                native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != launcher:
                    os._exit(1)
            supervisor_main(socket.socket(fileno=connection), self._settings, index)
        os.close(connection)
        self._workers[index] = pid
        self._control.sendall(frames.pack_json(frames.SPAWNED, {"index": index, "pid": pid}))

    def _kill(self, index: int) -> None:
        pid = self._workers.pop(index, None)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._clean_up(index, pid)

    def _reap(self) -> None:
        for index, pid in list(self._workers.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._workers[index]
                self._clean_up(index, pid)

    def _clean_up(self, index: int, pid: int) -> None:
        """Remove the folder of a supervisor that has ended."""
        if self._settings is not None and (folder := scratch_path(self._settings, index, pid)):
            with contextlib.suppress(OSError):  # a call may still be dying; the rest is removed at the end
                removal.remove(folder, own_users())

    def _end(self) -> None:
        """Let the supervisors exit by themselves, kill those that do not, and remove the folders."""
        self._control.close()
        end = time.monotonic() + 2.0
        while self._workers and time.monotonic() < end:
            self._reap()
            time.sleep(0.002)
        for index in list(self._workers):
            self._kill(index)
        if self._settings is not None:
            with contextlib.suppress(OSError):
                removal.remove(self._settings.root, own_users())
                os.unlink(f"{self._settings.root}.lock")  # noqa: PTH108


def _is_inside(path: str) -> bool:
    """Whether an entry of ``sys.path`` is part of the standard library: inside the interpreter's folders."""
    return path.startswith((f"{sys.base_prefix}/lib", f"{sys.prefix}/lib")) and bool(path)


def _thread_count() -> int:
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208
    except OSError:
        return 1


def main(arguments: list[str]) -> None:
    """Run the launcher. Arguments: the folder of this program, the control socket, the lock of the scratch root."""
    sys.path.remove(arguments[0])
    os.environ.pop("LD_LIBRARY_PATH", None)
    # Move both to the lowest free numbers, because children close a range of descriptors.
    control, lock = int(arguments[1]), int(arguments[2])
    moved = os.dup(control)
    os.dup(lock)
    os.close(control)
    os.close(lock)
    os.set_blocking(2, False)  # nobody reads it unless something fails
    Launcher(socket.socket(fileno=moved)).run()
