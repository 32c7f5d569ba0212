"""Other users, a container's filter and a small file system, to try the sandbox under."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from agentopt_local.sandbox.zygote import syscalls

ROOT = Path(__file__).parents[2]
NEEDS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
NEEDS_SETPRIV = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")


def python_path() -> list[str]:
    return [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


def readable_python() -> str:
    """An interpreter of this version, with this checkout and its packages, that every user may execute."""

    def is_open(path: str) -> bool:
        real = Path(path).resolve()
        return real.exists() and all(part.stat().st_mode & 0o5 == 0o5 for part in (real, *real.parents))

    candidates = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
    found = next((path for path in candidates if is_open(path)), None)
    if found is None or not all(is_open(path) for path in python_path()):
        pytest.skip("no interpreter, checkout and packages that other users can read")
    return found


# What Docker's and containerd's default filter denies a process without capabilities, of what we could want.
DENIED = """
unshare setns mount umount2 pivot_root chroot ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp bpf
perf_event_open userfaultfd keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register personality
open_by_handle_at fanotify_init quotactl reboot swapon swapoff sethostname setdomainname syslog acct
"""
NUMBERS = {
    "x86_64": (
        *(272, 308, 165, 166, 155, 161, 101, 310, 311, 438, 312, 321, 298, 323, 250, 248, 249, 425, 426, 427, 135),
        *(304, 300, 179, 169, 167, 168, 170, 171, 103, 163),
    ),
    "aarch64": (
        *(97, 268, 40, 39, 41, 51, 117, 270, 271, 438, 272, 280, 241, 282, 219, 217, 218, 425, 426, 427, 92),
        *(265, 262, 60, 142, 224, 225, 161, 162, 116, 89),
    ),
}
CONTAINER_CAPABILITIES = """
chown dac_override fowner fsetid kill setgid setuid setpcap
net_bind_service net_raw sys_chroot mknod audit_write setfcap
"""


def container_filter() -> bytes:
    """A program that denies ``DENIED`` and new namespaces with EPERM, clone3 with ENOSYS, and allows the rest."""
    machine = syscalls.this_machine()
    assert machine is not None
    _, numbers = machine
    denied = NUMBERS["x86_64" if "open" in numbers else "aarch64"]
    assert len(denied) == len(DENIED.split())
    program = [(0x20, 0, 0, 0)]
    for number in denied:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050001)]
    program += [(0x15, 0, 1, numbers["clone3"]), (0x06, 0, 0, 0x00050026)]
    program += [(0x15, 0, 3, numbers["clone"]), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000), (0x06, 0, 0, 0x00050001)]
    program.append((0x06, 0, 0, 0x7FFF0000))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def enter_container() -> None:
    """In the child, before it executes: the filter, by a process that still may set it without no_new_privs."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    program = container_filter()
    described = Program(len(program) // 8, program)
    if ctypes.CDLL(None).prctl(22, 2, ctypes.byref(described)) != 0:
        os._exit(99)


def as_user(uid: int) -> list[str]:
    """The start of a command that runs as an ordinary user."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


def on_small_disk(folder: Path, size: str) -> list[str]:
    """The start of a command that sees a memory file system of its own in ``folder``. Skips the test if it cannot."""
    script = f'mount -t tmpfs -o size={size},mode=1777 tmpfs "$1" && shift && exec "$@"'
    start = ["unshare", "--mount", "sh", "-c", script, "sh", str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*start, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    return start
