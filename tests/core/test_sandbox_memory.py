"""No call finds anything of an earlier one: not in its memory, and not in what its descriptors share."""

from __future__ import annotations

import asyncio
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
    found = {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
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
