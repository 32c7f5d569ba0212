"""No call finds anything of an earlier one: not in its memory, and not in what its descriptors share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agentopt_local.problem import Problem
from agentopt_local.sandbox import Execution, ForkServerSandbox, Sandbox, SandboxLimits, open_sandbox
from agentopt_local.tasks.reasoning_gym import ReasoningGymTask

HEAD, TAIL = "SecretOf", "AnEarlierCall"
"""The searching code has the two halves only apart, so it cannot find itself."""

SEARCH = '''
import ctypes, os

PAGE = 4096


def search(head, tail):
    """How often the two halves stand together in this process's memory, and how many pages were searched.

    The kernel copies pages into a pipe for anyone, and refuses those that are not mapped.
    """
    reader, writer = os.pipe()
    libc = ctypes.CDLL(None)
    libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    libc.sbrk.restype = ctypes.c_void_p
    heads, seconds = (head.encode(), head[::-1].encode()), (tail.encode(), tail[::-1].encode())
    pages = found = 0

    def look(address):
        """Whether the page is mapped; counts what it holds."""
        nonlocal pages, found
        if libc.write(writer, address, PAGE) != PAGE:
            return False
        data = os.read(reader, PAGE)
        pages += 1
        start = data.find(heads[0])
        while start >= 0:
            end = start + len(head)
            found += data[end : end + len(tail)] == seconds[0]
            start = data.find(heads[0], end)
        return True

    top = libc.sbrk(0) // PAGE * PAGE
    address = top - PAGE
    while look(address):  # the whole heap, backwards
        address -= PAGE
    own = ctypes.create_string_buffer(4 << 20)  # large blocks of memory are all near each other
    anchors = [ctypes.addressof(own), ctypes.addressof(ctypes.c_int(0)), id(search), ctypes.cast(libc.write, ctypes.c_void_p).value]
    for anchor in anchors:
        anchor = anchor // PAGE * PAGE
        for step in (PAGE, -PAGE):
            address, missed = anchor, 0
            while missed < 4096 and abs(address - anchor) < 512 << 20:
                missed = 0 if look(address) else missed + 1
                address += step
    return {"found": found, "pages": pages, "own": search_of_own(look)}


def search_of_own(look):
    """Whether a page that is known to be mapped can be read: the search works here."""
    return look(id(search) // PAGE * PAGE)
'''  # noqa: E501 - code of another process

Seen = Callable[[ForkServerSandbox], Awaitable[Execution | None]]


async def as_argument(sandbox: ForkServerSandbox) -> Execution:
    return await sandbox.call("def f(a):\n    return len(a)", "f", {"a": [HEAD + TAIL] * 2000})


async def as_large_argument(sandbox: ForkServerSandbox) -> Execution:
    return await sandbox.call("def f(a):\n    return len(a)", "f", {"a": [HEAD + TAIL] * 200_000})


async def as_source(sandbox: ForkServerSandbox) -> Execution:
    return await sandbox.run(f"len({HEAD + TAIL!r})\n" * 500)


async def as_result(sandbox: ForkServerSandbox) -> Execution:
    return await sandbox.call("def f(a, b):\n    return [a + b] * 2000", "f", {"a": HEAD[::-1][::-1], "b": TAIL})


async def as_output(sandbox: ForkServerSandbox) -> Execution:
    code = "import sys\nfor f in (sys.stdout, sys.stderr):\n    print((%r + %r) * 3000, file=f)"
    return await sandbox.run(code % (HEAD, TAIL))


async def as_error(sandbox: ForkServerSandbox) -> Execution:
    execution = await sandbox.run(f"raise ValueError(({HEAD!r} + {TAIL!r}) * 50)")
    assert execution.status == "exception"
    return await sandbox.run("1")


async def in_a_batch(sandbox: ForkServerSandbox) -> Execution:
    return (await sandbox.call_many("def f(a):\n    return a", "f", [{"a": HEAD + TAIL}] * 200))[-1]


async def as_expected_answer(sandbox: ForkServerSandbox) -> None:
    """A wrong answer to a problem that is graded in the sandbox."""
    task = ReasoningGymTask("spell_backward")
    expected = HEAD + TAIL
    entry = {"question": "?", "answer": expected, "metadata": {"word": expected[::-1], "word_len": len(expected)}}
    metadata = {"options": {}, "entry": repr(entry)}
    problem = Problem(id="p", question="?" * 50, answer=expected, kind="spell_backward", metadata=metadata)
    for _ in range(3):
        grade = await task.grade(problem, "wrong", sandbox)
        assert grade.reward < 1 and "failed" not in grade.reason, grade


async def cut_off(sandbox: ForkServerSandbox) -> Execution:
    source = "def f(a):\n    print(a, flush=True)\n    while True: pass"
    execution = await sandbox.call(source, "f", {"a": (HEAD + TAIL) * 500}, timeout_s=0.3)
    assert execution.status == "timeout"
    running = asyncio.create_task(sandbox.call(source, "f", {"a": (HEAD + TAIL) * 500}))
    await asyncio.sleep(0.2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return await sandbox.run("1")


WAYS: list[Seen] = [
    as_argument, as_large_argument, as_source, as_result, as_output, as_error, in_a_batch, as_expected_answer, cut_off,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_an_earlier_call_is_in_the_memory_of_a_later_one(way: Seen) -> None:
    async def work() -> None:
        limits = SandboxLimits(timeout_s=60.0)
        async with open_sandbox(workers=1, limits=limits, preload=("reasoning_gym",)) as sandbox:
            execution = await way(sandbox)
            assert execution is None or execution.ok, execution
            for _ in range(3):
                found = await sandbox.call(SEARCH, "search", {"head": HEAD, "tail": TAIL})
                assert found.ok, found
                assert found.value["own"] and found.value["pages"] > 5000, found
                assert found.value["found"] == 0

    asyncio.run(work())


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def streams(pid: int) -> dict[str, str]:
    """Descriptor -> what it is, of a process's sockets and pipes."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[entry.name] = str(entry.readlink())
    return {name: target for name, target in found.items() if target.startswith(("socket:", "pipe:"))}


def test_nothing_can_pass_through_the_template() -> None:
    """Between calls it has one socket, to the supervisor, and one pipe, for last words."""

    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            await as_argument(sandbox)
            (supervisor,) = children(sandbox.describe_processes()["launcher"])
            (template,) = children(supervisor)
            end = time.monotonic() + 20
            while len(streams(template)) > 2 and time.monotonic() < end:  # noqa: ASYNC110 - until it has forked the next
                await asyncio.sleep(0.01)
            kinds = {name: target.partition(":")[0] for name, target in streams(template).items()}
            assert kinds.pop("2") == "pipe"
            assert list(kinds.values()) == ["socket"]
            maps = [line.split() for line in Path(f"/proc/{template}/maps").read_text().splitlines()]
            assert {rights for _, rights, *_ in maps if rights[3] == "s"} <= {"r--s"}  # nothing writable is shared

    asyncio.run(work())


def test_a_scorer_gets_a_process_of_its_own_without_functions() -> None:
    class Recording:
        """The sandbox, and the sources that it was given."""

        def __init__(self, inner: Sandbox) -> None:
            self.inner, self.sources = inner, set[str]()

        async def call(self, source: str, name: str, arguments: dict[str, Any], **more: Any) -> Execution:
            self.sources.add(source)
            return await self.inner.call(source, name, arguments, **more)

    async def work() -> set[str]:
        async with open_sandbox(workers=1, preload=("reasoning_gym",)) as sandbox:
            recording = Recording(sandbox)
            await as_expected_answer(cast(ForkServerSandbox, recording))
            return recording.sources

    (source,) = asyncio.run(work())
    assert "score_answer" in source and source.count("def ") == 1


def test_the_search_finds_what_is_there() -> None:
    async def work() -> Execution:
        async with open_sandbox(workers=1, limits=SandboxLimits(timeout_s=60.0)) as sandbox:
            source = SEARCH + "\n\ndef f(head, tail):\n    kept = [head + tail] * 2\n    return search(head, tail)"
            return await sandbox.call(source, "f", {"head": HEAD, "tail": TAIL})

    assert asyncio.run(work()).value["found"] > 0


FLAGS = """
import fcntl, os

def flags():
    \"\"\"Descriptor -> its flags and position.\"\"\"
    found = {}
    for number in range(64):
        try:
            found[number] = [fcntl.fcntl(number, fcntl.F_GETFL)]
            found[number].append(os.lseek(number, 0, os.SEEK_CUR))
        except OSError:
            continue
    return found

def change():
    before = flags()
    for number in before:
        fcntl.fcntl(number, fcntl.F_SETFL, before[number][0] | os.O_NONBLOCK | os.O_APPEND)
    return len(before), before != flags()
"""


def test_what_a_call_does_to_its_descriptors_ends_with_it() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            before = (await sandbox.call(FLAGS, "flags", {})).value
            assert {"0", "1", "2"} <= set(before)
            for _ in range(2):
                changed = (await sandbox.call(FLAGS, "change", {})).value
                assert changed == [len(before), True]
                assert (await sandbox.call(FLAGS, "flags", {})).value == before

    asyncio.run(work())


STATE = '''
import ctypes, fcntl, locale, os, resource, signal, struct, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
libc.getenv.restype = ctypes.c_char_p
LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_") and name not in ("RLIMIT_AS", "RLIMIT_CPU")]
LOCKED = ("/dev/null", os.__file__)


def name_of_process():
    name = ctypes.create_string_buffer(16)
    libc.prctl(16, name, 0, 0, 0)
    return name.value.decode()


def locks(path):
    """Who locks a file that every process can open."""
    number = os.open(path, os.O_RDONLY)
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    found = struct.unpack("hhqqi4x", fcntl.fcntl(number, fcntl.F_GETLK, wanted))
    os.close(number)
    return found[0]


def state():
    """What a process has besides its memory."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "umask": mask,
        "folder": os.getcwd(),
        "files": os.listdir("."),
        "links to the folder": os.stat(".").st_nlink,
        "mode of the folder": os.stat(".").st_mode,
        "environment": dict(os.environ),
        "libc's environment": [str(libc.getenv(name.encode())) for name in ("HOME", "CHANGED")],
        "locale": locale.setlocale(locale.LC_ALL),
        "zone": time.tzname,
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
        "handlers": [str(signal.getsignal(number)) for number in range(1, 32)],
        "blocked": sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "pending": sorted(int(number) for number in signal.sigpending()),
        "timers": [signal.getitimer(kind) for kind in (0, 1, 2)],
        "name": name_of_process(),
        "locks": [locks(path) for path in LOCKED],
        "group": [os.getpid() == os.getpgrp(), os.getpid() == os.getsid(0)],
        "threads": threading.active_count(),
        "processor seconds": time.process_time() < 20,
        "arguments": [sys.argv, sys.orig_argv[-4:-3]],
        "path": list(sys.path),
        "modules": len(sys.modules),
        "recursion": sys.getrecursionlimit(),
    }


def change():
    before = state()
    open("left", "w").close()
    os.makedirs("below/further")
    os.umask(0o77)
    os.environ["CHANGED"] = "SecretOfAnEarlierCall"
    os.environ["HOME"] = "/"
    locale.setlocale(locale.LC_ALL, "C")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    for name in LIMITS:
        resource.setrlimit(getattr(resource, name), (0, resource.getrlimit(getattr(resource, name))[1]))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGUSR1)
    for number in (signal.SIGHUP, signal.SIGALRM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    libc.prctl(15, b"changed", 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    for path in LOCKED:
        fcntl.lockf(os.open(path, os.O_RDONLY), fcntl.LOCK_SH)
    sys.argv = ["changed"]
    sys.path.append("/changed")
    sys.setrecursionlimit(5000)
    os.chdir("below")
    after = state()
    return [name for name in before if before[name] == after[name]]
'''


def test_nothing_of_a_process_is_left_to_the_next() -> None:
    """What a call changes of its process besides its memory: a message for the next one to find (row 2)."""

    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            before = (await sandbox.call(STATE, "state", {})).value
            unchanged = (await sandbox.call(STATE, "change", {})).value
            assert set(unchanged) <= {"group", "threads", "processor seconds", "locks", "modules"}, unchanged
            for _ in range(2):
                after = (await sandbox.call(STATE, "state", {})).value
                assert after == before
            assert before["locks"] == [2, 2]  # F_UNLCK

    asyncio.run(work())


AROUND = '''
import os, time

FILES = """
environ cmdline maps smaps mem auxv stack syscall io stat status comm fd fdinfo map_files cwd exe root task ns/net
limits oom_score_adj pagemap timerslack_ns clear_refs sched wchan personality mountinfo setgroups
""".split()


def around(first, last):
    """What can be read of the processes around this one: [process, file]."""
    found = []
    for pid in {*range(first, last), os.getppid(), 1} - {os.getpid()}:
        if not os.path.exists(f"/proc/{pid}"):
            continue
        for name in FILES:
            path = f"/proc/{pid}/{name}"
            for attempt in (lambda: open(path, "rb"), lambda: os.listdir(path), lambda: os.readlink(path)):
                try:
                    attempt()
                    found.append([pid, name])
                except OSError:
                    pass
    return found


def wait(secret, first):
    os.environ["SECRET"] = secret
    time.sleep(60)
'''


@pytest.mark.parametrize(
    "off", [(), ("uid",), ("uid", "namespaces", "dumpable")], ids=lambda off: "-".join(off) or "all"
)
def test_a_call_finds_nothing_in_the_processes_around_it(off: tuple[str, ...]) -> None:
    """Its parent, the calls of other workers and their parents (row 2)."""

    async def work() -> None:
        async with ForkServerSandbox(SandboxLimits(timeout_s=60.0), workers=2, layers_off=off) as sandbox:
            launcher = sandbox.describe_processes()["launcher"]
            other = asyncio.create_task(sandbox.call(AROUND, "wait", {"secret": HEAD + TAIL, "first": 1}))
            await asyncio.sleep(0.3)
            family = [launcher]
            for pid in family:
                family += children(pid)
            assert len(family) >= 6
            execution = await sandbox.call(AROUND, "around", {"first": min(family), "last": max(family) + 20})
            other.cancel()
            assert execution.ok, execution
            assert execution.value == []

    asyncio.run(work())


def test_a_call_that_dies_leaves_no_core_file() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            assert sandbox.describe_layers()["dumpable"] == "on"
            root = Path(sandbox.describe_processes()["root"])
            for how in ("os.abort()", "ctypes.string_at(0)", "os.kill(os.getpid(), 11)"):
                code = f"import ctypes, os, resource\nresource.getrlimit(resource.RLIMIT_CORE)\n{how}"
                assert (await sandbox.run(code)).status == "crashed"
                assert (await sandbox.run("import os, resource; os.listdir('.')")).stdout == "[]\n"
            limit = await sandbox.run("import resource; resource.getrlimit(resource.RLIMIT_CORE)")
            assert limit.stdout == "(0, 0)\n"
            assert [path.name for path in root.rglob("*") if not path.is_dir()] == []

    asyncio.run(work())


def test_deleted_files_of_an_earlier_call_are_not_in_new_ones() -> None:
    """Neither in files that grow without being written, nor in the names of the folder."""
    leave = f"with open({HEAD + TAIL!r}, 'wb') as f: f.write(({HEAD!r} + {TAIL!r}).encode() * 10**5)"
    look = """
import ctypes, os
d = os.open("a", os.O_CREAT | os.O_RDWR)
os.ftruncate(d, 4 << 20)
folder = os.open(".", os.O_RDONLY)
names = ctypes.create_string_buffer(1 << 16)
size = ctypes.CDLL(None).syscall({"x86_64": 217, "aarch64": 61}[os.uname().machine], folder, names, len(names))
(os.read(d, 4 << 20).strip(b"\\0"), b"Secret" in names.raw, size > 0)
"""

    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            for _ in range(3):
                assert (await sandbox.run(leave)).ok
                assert (await sandbox.run(look)).stdout == "(b'', False, True)\n"

    asyncio.run(work())
