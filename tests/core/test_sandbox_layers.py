"""Each layer alone and all together; the messages when one is missing; the filter on both architectures."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agentopt_local.errors import SandboxError
from agentopt_local.sandbox import ForkServerSandbox, SandboxLimits, describe_layers
from agentopt_local.sandbox.zygote import seccomp, syscalls

LIMITS = SandboxLimits(timeout_s=10.0, memory_bytes=128 << 20)
KERNEL_LAYERS = ("rlimits", "seccomp", "landlock", "uid", "capabilities", "namespaces")
ATTACKS = """
import os, socket
def attacks(canary, folder):
    def fork():
        if os.fork() == 0:
            os._exit(0)
    tries = {
        "read": lambda: open(canary).close(),
        "write": lambda: open(os.path.join(folder, "new"), "w").close(),
        "chmod": lambda: os.chmod(canary, 0o644),
        "fork": fork,
        "socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).close(),
        "signal": lambda: os.kill(os.getppid(), 0),
        "memory": lambda: len(bytearray(1 << 30)),
        "import": lambda: __import__("wave"),
        "scratch": lambda: open("mine", "w").close(),
    }
    through = []
    for name, action in tries.items():
        try:
            action()
            through.append(name)
        except (OSError, MemoryError, ImportError):
            pass
    return through
"""


def through(folder: Path, *off: str) -> set[str]:
    """The attacks that get through when layers are switched off."""
    canary = folder / "canary"
    canary.write_text("secret")

    async def work() -> set[str]:
        async with ForkServerSandbox(LIMITS, workers=1, allow_weak=True, layers_off=off) as sandbox:
            arguments = {"canary": str(canary), "folder": str(folder)}
            execution = await sandbox.call(ATTACKS, "attacks", arguments)
            assert execution.ok, execution
            return set(execution.value)

    return asyncio.run(work())


def all_but(layer: str) -> list[str]:
    return [name for name in KERNEL_LAYERS if name != layer]


def test_all_layers_together(tmp_path: Path) -> None:
    assert through(tmp_path) == {"import", "scratch"}


def test_without_layers_every_attack_gets_through(tmp_path: Path) -> None:
    assert through(tmp_path, *KERNEL_LAYERS) == {
        *("read", "write", "chmod", "fork", "socket", "signal", "memory", "import", "scratch")
    }


def test_the_system_call_filter_alone(tmp_path: Path) -> None:
    assert through(tmp_path, *all_but("seccomp")) == {"read", "write", "memory", "import", "scratch"}


def test_landlock_alone(tmp_path: Path) -> None:
    left = through(tmp_path, *all_but("landlock"))
    assert left - {"signal"} == {"chmod", "fork", "socket", "memory", "import", "scratch"}


def test_resource_limits_alone(tmp_path: Path) -> None:
    assert "memory" not in through(tmp_path, *all_but("rlimits"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_of_its_own_where_the_interpreter_is_readable(tmp_path: Path) -> None:
    """The interpreter of the system, if it has the same version and so can use the same packages."""
    python = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(python).exists() or any(not path.stat().st_mode & 1 for path in Path(__file__).parents):
        pytest.skip("no interpreter that others can read")
    code = """
import asyncio
from agentopt_local.sandbox import open_sandbox
async def main():
    async with open_sandbox(workers=1) as sandbox:
        print(sandbox.describe_layers()["uid"])
        print((await sandbox.run("import os, wave; open('x', 'w').close(); os.getuid(), os.getgroups()")).stdout)
asyncio.run(main())
"""
    folders = [str(Path(__file__).parents[2]), *[path for path in sys.path if path.endswith("site-packages")]]
    environment = {"PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "on\n(64000, [])\n\n", done.stderr


def test_without_landlock_no_file_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("secret")

    async def work() -> None:
        sandbox = ForkServerSandbox(LIMITS, workers=1, layers_off=("landlock_in_kernel", "uid"))
        async with sandbox:  # not weak: everything is closed instead
            assert "no file can be opened" in sandbox.describe_layers()["landlock"]
            arguments = {"canary": str(tmp_path / "canary"), "folder": str(tmp_path)}
            assert (await sandbox.call(ATTACKS, "attacks", arguments)).value == []
            source = "import sympy, numpy\ndef f():\n    return sympy.solve('x**2 - 4') + numpy.arange(2).tolist()"
            assert (await sandbox.call(source, "f", {})).value == [-2, 2, 0, 1]
            unlink = await sandbox.run(f"import os\nos.unlink({str(tmp_path / 'canary')!r})")
            assert not unlink.ok

    asyncio.run(work())
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("layer", ["seccomp", "landlock", "rlimits"])
def test_it_does_not_start_below_the_minimum(layer: str) -> None:
    async def work() -> None:
        async with ForkServerSandbox(LIMITS, workers=1, layers_off=(layer,)):
            pass

    with pytest.raises(SandboxError, match=f"{layer}: switched off.*allow_weak"):
        asyncio.run(work())


def test_weak_walls_are_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> dict[str, str]:
        async with ForkServerSandbox(LIMITS, workers=1, allow_weak=True, layers_off=("seccomp",)) as sandbox:
            assert (await sandbox.run("1 + 1")).stdout == "2\n"
            return sandbox.describe_layers()

    with caplog.at_level(logging.WARNING):
        layers = asyncio.run(work())
    assert layers["seccomp"] == "switched off"
    assert "seccomp: switched off" in layers["minimum"]
    assert "the code makes a socket" in layers["self_test"]
    assert "weak walls" in caplog.text


def test_a_missing_preload_module_is_named() -> None:
    async def work() -> None:
        async with ForkServerSandbox(LIMITS, workers=1, preload=("no_such_module_here",)):
            pass

    with pytest.raises(SandboxError, match="no_such_module_here"):
        asyncio.run(work())


def test_layers_can_be_described_without_a_sandbox() -> None:
    async def inside_a_loop() -> dict[str, str]:
        return describe_layers()

    layers = asyncio.run(inside_a_loop())
    assert layers["seccomp"] == "on"
    assert layers["self_test"] == layers["minimum"] == "on"
    assert {"rlimits", "landlock", "uid", "no_new_privs", "namespaces", "clean_exec"} <= set(layers)


def test_importing_the_package_imports_no_scientific_library() -> None:
    code = "import sys, agentopt_local.sandbox; print(sorted({'sympy', 'numpy', 'pandas', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("machine", syscalls.TABLES)
def test_call_numbers_are_those_of_libseccomp(machine: str) -> None:
    name = ctypes.util.find_library("seccomp")
    if name is None:
        pytest.skip("libseccomp is not installed")
    library = ctypes.CDLL(name)
    architecture, numbers = syscalls.TABLES[machine]
    token = ctypes.c_uint32(architecture)
    known = {call: library.seccomp_syscall_resolve_name_arch(token, call.encode()) for call in numbers}
    assert {call: number for call, number in known.items() if number != -1} == {
        call: number for call, number in numbers.items() if known[call] != -1
    }


ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000


def evaluate(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel's interpreter would answer."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *[value % 2**64 for value in padded])
    instructions = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    position, accumulator = 0, 0
    while True:
        code, when_true, when_false, operand = instructions[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x06:
            return int(operand)
        else:
            test = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            position += when_true if test[code] else when_false


@pytest.mark.parametrize("machine", syscalls.TABLES)
@pytest.mark.parametrize("files", ["none", "read", "write"])
def test_the_filter_decides_as_intended(machine: str, files: str) -> None:
    architecture, numbers = syscalls.TABLES[machine]
    own = 4321
    program = seccomp.build_filter(files, (architecture, numbers))
    assert len(program) // 8 < 4096  # the kernel's limit
    program = program.replace(struct.pack("=I", seccomp.ANY_PID), struct.pack("=I", own))

    def decide(name: str, *arguments: int) -> int:
        return evaluate(program, architecture, numbers[name], *arguments)

    assert decide("read") == decide("mmap") == decide("futex") == ALLOW
    assert decide("kill", own, 9) == decide("tgkill", own, own, 6) == ALLOW
    for pid in (1, 0, -1, -own):
        assert decide("kill", pid, 0) & ERRNO
    assert decide("clone3") == ERRNO | 38
    assert decide("clone", 17) == decide("seccomp") == decide("landlock_restrict_self") == ERRNO | 1
    assert decide("prlimit64", 0, 1) == ALLOW
    assert decide("prlimit64", own, 1) == ERRNO | 1
    assert decide("socketpair", 1, 1 | 0o2000000) == ALLOW
    assert decide("socketpair", 1, 2) == decide("socketpair", 2, 1) == ERRNO | 1
    assert decide("sendto", 3, 0, 1, 0, 0) == ALLOW
    assert decide("sendto", 3, 0, 1, 0, 1 << 40) == decide("sendto", 3, 0, 1, 0, 8) == ERRNO | 1
    assert decide("fcntl", 1, 8) == ERRNO | 1  # F_SETOWN
    assert decide("ioctl", 0, 0x5412) == ERRNO | 1  # TIOCSTI
    assert decide("prctl", 4, 1) == ERRNO | 1
    reading, writing = {"none": (13, 13), "read": (0, 30), "write": (0, 0)}[files]
    assert decide("openat", -100, 0, os.O_RDONLY | os.O_CLOEXEC) & 0xFFFF == reading
    assert decide("openat", -100, 0, os.O_WRONLY | os.O_CREAT) & 0xFFFF == writing
    assert (decide("unlinkat") == ALLOW) == (files == "write")
    assert evaluate(program, 0x40000003, numbers["read"]) == KILL
    if machine == "x86_64":
        assert evaluate(program, architecture, 0x40000000 | numbers["read"]) == KILL
    allowed = [number for number in range(500) if evaluate(program, architecture, number) == ALLOW]
    assert set(allowed) <= set(numbers.values())
