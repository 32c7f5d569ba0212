"""Starts and ends the launcher process, and asks it for workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentopt_local.errors import SandboxError
from agentopt_local.sandbox.base import SandboxLimits
from agentopt_local.sandbox.folders import make_root, remove_root, sweep
from agentopt_local.sandbox.zygote import frames
from agentopt_local.sandbox.zygote.frames import FrameReader

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from zygote.launcher import main; main(sys.argv[1:])"
_START_S = 600.0
"""Imports take seconds, or minutes on a busy machine. A launcher that died is noticed at once by its closed socket."""
_SPAWN_S = 20.0

_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    # Large pages for the preloaded heap make forks cheaper: fewer page tables to copy, fewer faults afterwards.
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_PASSED_ON = ("LD_LIBRARY_PATH",)
"""Variables that the dynamic loader may need to start the interpreter; the launcher then removes them."""


class Launcher:
    """The launcher process and its control socket. Made by :func:`start_launcher`."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, root: Path, lock: int) -> None:
        self.process = process
        self.hello: dict[str, Any] = {}
        self._control = control
        self._reader = FrameReader(1 << 20)
        self.root = root
        self._lock = lock

    async def _reply(self, timeout_s: float) -> tuple[int, bytes]:
        """The next frame. Raises :class:`SandboxError` if the launcher died or does not answer."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while True:
            try:
                async with asyncio.timeout_at(end):
                    data = await loop.sock_recv(self._control, 1 << 16)
            except TimeoutError:
                raise SandboxError(f"the sandbox's launcher did not answer for {timeout_s:g} s") from None
            except OSError as error:
                raise SandboxError(f"the sandbox's launcher cannot be reached: {error}") from error
            if not data:
                raise SandboxError(f"the sandbox's launcher ended: {self._last_words()}")
            for frame in self._reader.feed(data):
                return frame

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        text = b""
        if self.process.stderr is not None:
            os.set_blocking(self.process.stderr.fileno(), False)
            with contextlib.suppress(OSError):
                text = os.read(self.process.stderr.fileno(), 4000)
        return text.decode("utf-8", "replace").strip() or f"exit status {self.process.returncode}"

    async def greet(self, config: dict[str, Any]) -> None:
        """Send the settings and wait until the modules are imported. Raises :class:`SandboxError`."""
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._control, frames.pack_json(frames.CONFIG, config))
        except OSError as error:
            raise SandboxError(f"the sandbox's launcher did not start: {self._last_words()}") from error
        kind, body = await self._reply(_START_S)
        if kind == frames.FAILED:
            raise SandboxError(f"the sandbox's launcher could not start:\n{body.decode('utf-8', 'replace')}")
        self.hello = json.loads(body)

    async def spawn(self, index: int) -> socket.socket:
        """The socket of a new worker, which replaces any with the same index. Raises :class:`SandboxError`."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            message = frames.pack_json(frames.SPAWN, {"index": index})
            try:
                socket.send_fds(self._control, [message], [theirs.fileno()])
            except OSError as error:
                raise SandboxError(f"the sandbox's launcher cannot be reached: {error}") from error
            finally:
                theirs.close()
            kind, body = await self._reply(_SPAWN_S)
            if kind != frames.SPAWNED or json.loads(body)["index"] != index:
                raise SandboxError("the sandbox's launcher gave a wrong answer")
            ours.setblocking(False)
            on_error.pop_all()
        return ours

    async def close(self) -> None:
        """End the launcher and all processes below it, and remove the scratch folders. Immediate if cancelled."""
        self._control.close()
        end = time.monotonic() + 5.0
        try:
            while self.process.poll() is None and time.monotonic() < end:  # noqa: ASYNC110 - no event reports its end
                await asyncio.sleep(0.002)
        finally:
            self._release()

    def _release(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        remove_root(self.root)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def kill(self) -> None:
        """End everything immediately, without waiting for a clean exit. Safe to call twice."""
        self._control.close()
        self._release()


def _site_folders() -> list[str]:
    """Package folders of this interpreter that the launcher's might lack, such as the user's."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


async def start_launcher(limits: SandboxLimits, preload: Sequence[str], layers_off: Sequence[str]) -> Launcher:
    """Start a launcher and wait until it can fork workers. Raises :class:`SandboxError`."""
    if sys.platform != "linux":
        raise SandboxError(f"the sandbox needs Linux; this is {sys.platform}. Run in a container or a virtual machine")
    if not sys.executable or shutil.which(sys.executable) is None:
        raise SandboxError("the sandbox needs a Python interpreter, and sys.executable does not name one")
    sweep()
    root, lock = make_root()
    ours, theirs = socket.socketpair()
    code_folder = os.fspath(Path(__file__).parent)
    command = [sys.executable, "-s", "-P", "-B", "-c", _CODE, code_folder, str(theirs.fileno()), str(lock)]
    environment = _ENVIRONMENT | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns as soon as the program is executed
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            pass_fds=(theirs.fileno(), lock),
            start_new_session=True,  # only the trainer handles Ctrl-C
        )
    except OSError as error:
        ours.close()
        remove_root(root)
        os.close(lock)
        raise SandboxError(f"the sandbox's interpreter {sys.executable} cannot be executed: {error}") from error
    finally:
        theirs.close()
    launcher = Launcher(process, ours, root, lock)
    config = limits.model_dump() | {
        "root": os.fspath(root),
        "preload": list(preload),
        "site_folders": _site_folders(),
        "off": list(layers_off),
    }
    with contextlib.ExitStack() as on_error:
        on_error.callback(launcher.kill)
        await launcher.greet(config)
        on_error.pop_all()
    return launcher
