"""Attacks on the host, from the threat table of the sandbox: each is contained, and the next call works.

An attack is the body of ``def f(canary, folder, parent, port)``. ``canary`` is a secret file, ``folder`` its
folder, ``parent`` the process id of the trainer, ``port`` a listening TCP port on loopback. It is contained if the
call fails, or if it returns something else than "breached".
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.sandbox import Execution, ForkServerSandbox, SandboxLimits

SECRET = "sk-canary-7f3a"
HELPERS = """
import ctypes, os, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)


def raw(number, *arguments):
    result = libc.syscall(number, *arguments)
    return result


def read(path):
    with open(path) as file:
        return file.read()


def has_secret(text):
    return "breached" if "sk-canary" in text else "clean"


def frame(body, kind=10):
    return struct.pack(">IB", len(body), kind) + body


def forge(data):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, data)
        except OSError:
            pass
    os._exit(0)


"""

# name -> body. Bodies return "breached" when they got through.
READS = {
    "open": "return has_secret(read(canary))",
    "os_open": "return has_secret(os.read(os.open(canary, os.O_RDONLY), 100).decode())",
    "pathlib": "import pathlib; return has_secret(pathlib.Path(canary).read_text())",
    "listdir": "return 'breached' if os.listdir(folder) else 'clean'",
    "scandir_root": "return 'breached' if list(os.scandir('/')) else 'clean'",
    "scandir_etc": "return 'breached' if os.listdir('/etc') else 'clean'",
    "passwd": "return 'breached' if read('/etc/passwd') else 'clean'",
    "shadow": "return 'breached' if read('/etc/shadow') else 'clean'",
    "home": "return 'breached' if os.listdir('/root') else 'clean'",
    "pwd_home": "import pwd; return 'breached' if pwd.getpwall() else 'clean'",
    "relative": "os.chdir('/'); return has_secret(read(canary.lstrip('/')))",
    "chdir_folder": "os.chdir(folder); return has_secret(read('canary'))",
    "symlink": "os.symlink(canary, 'link'); return has_secret(read('link'))",
    "hard_link": "os.link(canary, 'link'); return has_secret(read('link'))",
    "rename_in": "os.rename(canary, 'mine'); return 'breached'",
    "mmap": "import mmap; d = os.open(canary, os.O_RDONLY); return has_secret(bytes(mmap.mmap(d, 0, prot=1)).decode())",
    "numpy": "import numpy; return has_secret(numpy.fromfile(canary, dtype='u1').tobytes().decode())",
    "libc_fopen": "h = libc.fopen(canary.encode(), b'r'); return 'breached' if h else 'clean'",
    "raw_openat": "return 'breached' if raw(257, -100, canary.encode(), 0, 0) >= 0 else 'clean'",
    "raw_open": "return 'breached' if raw(2, canary.encode(), 0, 0) >= 0 else 'clean'",
    "openat2": "how = struct.pack('=QQQ', 0, 0, 0); "
    "return 'breached' if raw(437, -100, canary.encode(), how, 24) >= 0 else 'clean'",
    "o_path_reopen": "d = os.open(canary, os.O_PATH); return has_secret(read(f'/proc/self/fd/{d}'))",
    "handle": "return 'breached' if raw(304, -100, b'x', 0) >= 0 else 'clean'",
    "runpy": "import runpy; runpy.run_path(canary); return 'breached'",
    "import_from_folder": "sys.path.insert(0, folder); import canary_module; return 'breached'",
    "linecache": "import linecache; return has_secret(''.join(linecache.getlines(canary)))",
    "sqlite": "import sqlite3; "
    "sqlite3.connect(canary).execute('select 1 from sqlite_master').fetchall(); return 'clean'",
    "ctypes_dlopen": "ctypes.CDLL(canary); return 'breached'",
}
WRITES = {
    "open": "open(canary, 'w').write('x'); return 'breached'",
    "append": "open(canary, 'a').write('x'); return 'breached'",
    "new_file": "open(folder + '/new', 'w').write('x'); return 'breached'",
    "tmp": "open('/tmp/agentopt-attack', 'w').write('x'); return 'breached'",
    "shm": "open('/dev/shm/agentopt-attack', 'w').write('x'); return 'breached'",
    "site_packages": "import sympy; open(sympy.__file__, 'a').write('#'); return 'breached'",
    "mkdir": "os.mkdir(folder + '/new'); return 'breached'",
    "unlink": "os.unlink(canary); return 'breached'",
    "rmtree": "import shutil; shutil.rmtree(folder); return 'breached'",
    "rename_out": "open('mine', 'w').write('x'); os.rename('mine', folder + '/new'); return 'breached'",
    "dotdot": "open('../new', 'w').write('x'); return 'breached'",
    "remove_scratch": "os.rmdir(os.getcwd()); return 'breached'",
    "chmod": "os.chmod(canary, 0o777); return 'breached'",
    "chown": "os.chown(canary, 12345, 12345); return 'breached'",
    "fchmod_null": "os.fchmod(os.open('/dev/null', os.O_RDWR), 0o600); return 'breached'",
    "utime": "os.utime(canary, (0, 0)); return 'breached'",
    "setxattr": "os.setxattr(canary, 'user.x', b'1'); return 'breached'",
    "truncate": "os.truncate(canary, 0); return 'breached'",
    "raw_truncate": "return 'breached' if raw(76, canary.encode(), 0) == 0 else 'clean'",
    "mknod": "os.mknod(folder + '/node'); return 'breached'",
    "mkfifo": "os.mkfifo('fifo'); return 'breached'",
    "numpy_tofile": "import numpy; numpy.arange(3).tofile(canary); return 'breached'",
    "core_pattern": "open('/proc/sys/kernel/core_pattern', 'w').write('x'); return 'breached'",
    "own_oom_score": "open('/proc/self/oom_score_adj', 'w').write('-1000'); return 'breached'",
    "mount": "return 'breached' if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0 else 'clean'",
    "chroot": "os.chroot(os.getcwd()); return 'breached'",
}
NETWORK = {
    "tcp": "socket.create_connection(('127.0.0.1', port), 1); return 'breached'",
    "tcp_socket": "socket.socket(); return 'breached'",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', port)); return 'breached'",
    "ipv6": "socket.socket(socket.AF_INET6); return 'breached'",
    "unix": "socket.socket(socket.AF_UNIX).connect(folder + '/socket'); return 'breached'",
    "abstract": "socket.socket(socket.AF_UNIX).connect(f'\\0agentopt-test-{parent}'); return 'breached'",
    "raw_socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); return 'breached'",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); return 'breached'",
    "packet": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW); return 'breached'",
    "vsock": "socket.socket(40, socket.SOCK_STREAM); return 'breached'",
    "dgram_pair": "a, b = socket.socketpair(type=socket.SOCK_DGRAM); a.sendto(b'x', f'\\0agentopt-test-{parent}'); "
    "return 'breached'",
    "pair_connect": "a, b = socket.socketpair(); a.connect(f'\\0agentopt-test-{parent}'); return 'breached'",
    "pair_bind": "a, b = socket.socketpair(); a.bind('\\0mine'); return 'breached'",
    "urllib": "import urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{port}', timeout=1); return 'breached'",
    "getaddrinfo": "socket.getaddrinfo('example.com', 80); return 'breached'",
    "libc_socket": "return 'breached' if libc.socket(2, 1, 0) >= 0 else 'clean'",
    "io_uring": "return 'breached' if raw(425, 8, ctypes.create_string_buffer(120)) >= 0 else 'clean'",
    "asyncio": "import asyncio; asyncio.run(asyncio.open_connection('127.0.0.1', port)); return 'breached'",
}
SECRETS = {
    "environ": "return has_secret(str(dict(os.environ)))",
    "libc_environ": "libc.getenv.restype = ctypes.c_char_p; "
    "return 'breached' if libc.getenv(b'CANARY_KEY') else 'clean'",
    "own_proc_environ": "return has_secret(read('/proc/self/environ'))",
    "parent_environ": "return has_secret(read(f'/proc/{os.getppid()}/environ'))",
    "trainer_environ": "return 'breached' if read(f'/proc/{parent}/environ') else 'clean'",
    "trainer_memory": "return 'breached' if open(f'/proc/{parent}/mem', 'rb') else 'clean'",
    "trainer_cmdline": "return 'breached' if read(f'/proc/{parent}/cmdline') else 'clean'",
    "trainer_fd": "return 'breached' if os.listdir(f'/proc/{parent}/fd') else 'clean'",
    "trainer_exe": "return 'breached' if os.readlink(f'/proc/{parent}/exe') else 'clean'",
    "trainer_cwd": "return 'breached' if os.readlink(f'/proc/{parent}/cwd') else 'clean'",
    "proc_listing": "return 'breached' if os.listdir('/proc') else 'clean'",
    "supervisor_memory": "return 'breached' if open(f'/proc/{os.getppid()}/mem', 'rb') else 'clean'",
    "process_vm_readv": "return 'breached' if raw(310, parent, 0, 0, 0, 0, 0) >= 0 else 'clean'",
    "ptrace": "return 'breached' if libc.ptrace(16, parent, 0, 0) == 0 else 'clean'",
    "ptrace_supervisor": "return 'breached' if libc.ptrace(16, os.getppid(), 0, 0) == 0 else 'clean'",
    "ptrace_seize": "return 'breached' if raw(101, 0x4206, parent, 0, 0) == 0 else 'clean'",
    "pidfd": "return 'breached' if raw(434, parent, 0) >= 0 else 'clean'",
    "kcmp": "return 'breached' if raw(312, parent, parent, 0, 0, 0) >= 0 else 'clean'",
    "keyctl": "return 'breached' if raw(250, 0, -3, 0) >= 0 else 'clean'",
    "perf": "return 'breached' if raw(298, ctypes.create_string_buffer(128), parent, -1, -1, 0) >= 0 else 'clean'",
    "bpf": "return 'breached' if raw(321, 0, ctypes.create_string_buffer(128), 128) >= 0 else 'clean'",
    "shmget": "return 'breached' if raw(29, 1234, 4096, 0o1666) >= 0 else 'clean'",
    "msgget": "return 'breached' if raw(68, 1234, 0o1666) >= 0 else 'clean'",
    "descriptors": """
        import fcntl
        seen = []
        for d in range(3, 1024):
            try:
                fcntl.fcntl(d, fcntl.F_GETFD)
                seen.append(d)
            except OSError:
                pass
        return 'breached' if len(seen) > 2 else 'clean'
    """,
    "canary_in_heap": """
        import gc
        texts = [o for o in gc.get_objects() if isinstance(o, dict) and 'CANARY_KEY' in o]
        return 'breached' if texts else 'clean'
    """,
}
PROCESSES = {
    "fork": "pid = os.fork(); return 'breached'",
    "vfork": "return 'breached' if raw(58) >= 0 else 'clean'",
    "raw_fork": "return 'breached' if raw(57) >= 0 else 'clean'",
    "raw_clone": "return 'breached' if raw(56, 17, 0, 0, 0, 0) >= 0 else 'clean'",
    "raw_clone3": "return 'breached' if raw(435, struct.pack('=11Q', *[0] * 11), 88) >= 0 else 'clean'",
    "system": "return 'breached' if os.system('true') == 0 else 'clean'",
    "popen": "return 'breached' if os.popen('echo hello').read() else 'clean'",
    "subprocess": "subprocess.run(['true'], check=True); return 'breached'",
    "exec": "os.execv('/bin/echo', ['echo', 'hello']); return 'breached'",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {}); return 'breached'",
    "multiprocessing": "import multiprocessing; p = multiprocessing.Process(target=print); p.start(); "
    "return 'breached'",
    "pty": "import pty; pty.fork(); return 'breached'",
    "memfd_exec": "d = os.memfd_create('x'); return 'breached'",
    "unshare": "return 'breached' if libc.unshare(0x10000000) == 0 else 'clean'",
    "setns": "return 'breached' if libc.setns(0, 0) == 0 else 'clean'",
    "kill_parent": "os.kill(os.getppid(), 0); return 'breached'",
    "kill_trainer": "os.kill(parent, 0); return 'breached'",
    "kill_all": "os.kill(-1, 0); return 'breached'",
    "kill_group": "os.killpg(os.getpgid(parent), 0); return 'breached'",
    "tgkill": "return 'breached' if raw(234, parent, parent, 0) == 0 else 'clean'",
    "tkill": "return 'breached' if raw(200, parent, 0) == 0 else 'clean'",
    "sigqueue": "return 'breached' if raw(129, parent, 10, ctypes.create_string_buffer(128)) == 0 else 'clean'",
    "fcntl_sigio": "import fcntl; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, parent); return 'breached'",
    "prlimit_trainer": "import resource; resource.prlimit(parent, resource.RLIMIT_NOFILE, (64, 64)); return 'breached'",
    "raise_own_limit": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 50, 1 << 50)); return 'breached'",
    "raise_files": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)); return 'breached'",
    "setpriority": "os.setpriority(os.PRIO_PROCESS, parent, 19); return 'breached'",
    "affinity": "os.sched_setaffinity(parent, {0}); return 'breached'",
    "setuid": "os.setuid(0 if os.getuid() else 1); return 'breached'",
    "setns_user": "return 'breached' if raw(272, 0x00020000) == 0 else 'clean'",
    "dumpable": "return 'breached' if libc.prctl(4, 1, 0, 0, 0) == 0 else 'clean'",
    "pdeathsig": "return 'breached' if libc.prctl(1, 0, 0, 0, 0) == 0 else 'clean'",
    "personality": "return 'breached' if raw(135, 0x0040000) >= 0 else 'clean'",
    "thread": "t = threading.Thread(target=print); t.start(); return 'breached'",
    "reboot": "return 'breached' if libc.reboot(0) == 0 else 'clean'",
    "sethostname": "socket.sethostname('x'); return 'breached'",
    "settime": "time.clock_settime(time.CLOCK_REALTIME, 0); return 'breached'",
}

# name -> (body, statuses that are right)
EXHAUSTION = {
    "loop": ("while True: pass", {"timeout"}),
    "c_loop": ("return sum(range(10**12))", {"timeout"}),
    "big_power": ("return len(str(9**(9**9)))", {"timeout", "memory", "exception"}),
    "regex": ("import re; return bool(re.match('(a+)+$', 'a' * 60 + 'b'))", {"timeout"}),
    "sleep": ("time.sleep(60)", {"timeout"}),
    "pause": ("signal.pause()", {"timeout"}),
    "ignore_signals": (
        "for s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        {"timeout"},
    ),
    "catch_everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        {"timeout"},
    ),
    "stop_itself": ("os.kill(os.getpid(), signal.SIGSTOP)", {"timeout"}),
    "hang_in_str": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        {"timeout"},
    ),
    "hang_on_exit": ("import atexit; atexit.register(time.sleep, 60); raise SystemExit", {"exception"}),
    "memory_list": ("return len([0] * 10**10)", {"memory"}),
    "memory_bytes": ("x = bytearray(4 << 30); return 1", {"memory"}),
    "memory_grow": ("x = []\nwhile True: x.append(bytearray(1 << 20))", {"memory"}),
    "memory_small": ("x = []\nwhile True: x.append(str(len(x)) * 50)", {"memory", "timeout"}),
    "memory_mmap": ("import mmap; m = mmap.mmap(-1, 8 << 30); return 1", {"exception", "memory"}),
    "memory_numpy": ("import numpy; return float(numpy.ones(10**10).sum())", {"memory", "exception"}),
    "recursion": ("def g(): return g()\nreturn g()", {"exception"}),
    "deep_recursion": (
        "sys.setrecursionlimit(10**9)\ndef g(): return g()\nreturn g()",
        {"memory", "crashed", "timeout", "exception"},
    ),
    "segfault": ("return ctypes.string_at(0)", {"crashed"}),
    "abort": ("os.abort()", {"crashed"}),
    "os_exit": ("os._exit(0)", {"crashed"}),
    "lock_down_exit_code": ("os._exit(97)", {"crashed"}),
    "sys_exit": ("sys.exit(0)", {"exception"}),
    "kill_itself": ("os.kill(os.getpid(), 9)", {"crashed"}),
    "parentheses": ("return eval('(' * 60000 + ')' * 60000)", {"exception", "memory", "crashed"}),
    "stdout_flood": ("while True: print('x' * 10000)", {"output_limit", "timeout"}),
    "stderr_flood": ("while True: os.write(2, b'x' * 65536)", {"output_limit", "timeout"}),
    "large_result": ("return 'x' * (2 << 20)", {"result_too_large"}),
    "large_nested": ("return [[0] * 1000] * 10000", {"result_too_large"}),
    "endless_iterator": ("import itertools; return itertools.count()", {"result_too_large"}),
    "self_reference": ("x = []; x.append(x); return x", {"exception"}),
    "big_file": ("open('a', 'wb').write(b'x' * (64 << 20))", {"exception"}),
    "many_files": (
        "for i in range(10**7): open(f'{i}', 'w').close()",
        {"disk_limit"},
    ),
    "full_disk": (
        "for i in range(10**4):\n    open(f'{i}', 'wb').write(b'x' * (1 << 20))\ntime.sleep(60)",
        {"disk_limit"},
    ),
    "deep_folders": ("while True:\n    os.mkdir('d'); os.chdir('d')", {"disk_limit", "timeout", "exception"}),
    "unreadable_folder": ("os.mkdir('d', 0); open('e', 'w').close(); os._exit(1)", {"crashed"}),
    "many_descriptors": ("x = [os.open('/dev/null', 0) for _ in range(10**5)]", {"exception"}),
    "close_everything": ("os.closerange(0, 100); return 1", {"crashed"}),
    "close_and_loop": ("os.closerange(0, 100)\nwhile True: pass", {"crashed", "timeout"}),
}

# Well-formed answers, written to every descriptor by code that does not know its call's token.
BLIND = """
body = b'{"status": "ok", "value": "forged"}'
for descriptor in range(3, 64):
    try:
        os.write(descriptor, frame(body))
    except OSError:
        pass
"""

FORGERIES = {
    "blind": 'forge(frame(b\'{"status": "ok", "value": "forged"}\'))',
    "blind_and_return": BLIND + "return 1",
    "blind_and_wait": BLIND + "time.sleep(60)",
    "token_of_another_call": 'forge(frame(bytes(16) + b\'{"status": "ok", "value": "forged"}\'))',
    "json": 'forge(b\'{"ok": true, "value": "forged"}\\n\' * 9)',
    "garbage": "forge(b'\\xff' * 100)",
    "empty_frame": "forge(frame(b''))",
    "nan_frame": 'forge(frame(b\'{"status": "ok", "value": NaN}\'))',
    "deep_frame": "forge(frame(b'{\"status\": \"ok\", \"value\": ' + b'[' * 500 + b']' * 500 + b'}'))",
    "very_deep_frame": 'forge(frame(b\'{"status": "ok", "value": \' + b\'[\' * 200000))',
    "foreign_kind": "forge(frame(b'{}', 8))",
    "ready_again": "forge(frame(b'', 9))",
    "unknown_status": 'forge(frame(b\'{"status": "cancelled", "error": "x"}\'))',
    "status_of_another_type": 'forge(frame(b\'{"status": ["ok"], "value": 1}\'))',
    "no_value": 'forge(frame(b\'{"status": "ok"}\'))',
    "huge_int": "forge(frame(b'{\"status\": \"ok\", \"value\": ' + b'9' * 100000 + b'}'))",
    "not_utf8": 'forge(frame(b\'{"status": "ok", "value": "\\xff"}\'))',
    "list": "forge(frame(b'[1]'))",
    "oversized_header": "forge(struct.pack('>IB', 2**32 - 1, 10))",
    "half_frame": "forge(struct.pack('>IB', 100, 10) + b'{')",
}


class Loop:
    """An event loop in a thread, so that one sandbox serves all tests of this module."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Target:
    """The sandbox under attack, and what it must not reach."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.loop = Loop()
        limits = SandboxLimits(timeout_s=5.0, memory_bytes=128 << 20, file_bytes=1 << 20)
        self.sandbox = ForkServerSandbox(limits, workers=2)
        self.loop.do(self.sandbox.start())

    def attack(self, body: str, timeout_s: float | None = None) -> Execution:
        source = HELPERS + "def f(canary, folder, parent, port):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        arguments = {
            "canary": str(self.folder / "canary"),
            "folder": str(self.folder),
            "parent": os.getpid(),
            "port": self.port,
        }
        before = self.state()
        execution: Execution = self.loop.do(self.sandbox.call(source, "f", arguments, timeout_s=timeout_s))
        assert self.state() == before, "the host was changed"
        assert SECRET not in repr(execution)
        return execution

    def state(self) -> list[tuple[str, bytes, int]]:
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return [(path.name, path.read_bytes(), path.stat().st_mode) for path in sorted(paths)]

    def check_next_call(self) -> None:
        async def on_both_workers() -> list[Execution]:
            source = "def add(a, b):\n    return a + b"
            return await asyncio.gather(*[self.sandbox.call(source, "add", {"a": n, "b": 1}) for n in range(2)])

        for number, execution in enumerate(self.loop.do(on_both_workers())):
            assert (execution.ok, execution.value, execution.stdout) == (True, number + 1, "")

    def close(self) -> None:
        self.loop.do(self.sandbox.aclose())
        self.loop.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("host")
    (folder / "canary").write_text(SECRET)
    (folder / "canary_module.py").write_text(f"KEY = {SECRET!r}\n")
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv("CANARY_KEY", SECRET)
        with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as abstract:
            by_path.bind(str(folder / "socket"))
            by_path.listen()
            abstract.bind(f"\0agentopt-test-{os.getpid()}")
            abstract.listen()
            made = Target(folder, server.getsockname()[1])
            try:
                yield made
            finally:
                made.close()


def _named(groups: dict[str, dict[str, Any]]) -> list[Any]:
    """Parameters with names. System calls by number are tried on x86_64 only, whose numbers they are."""
    return [
        pytest.param(body, id=f"{group}-{name}")
        for group, attacks in groups.items()
        for name, body in attacks.items()
        if "raw(" not in body or platform.machine() == "x86_64"
    ]


@pytest.mark.parametrize(
    "body",
    _named({"read": READS, "write": WRITES, "network": NETWORK, "secrets": SECRETS, "processes": PROCESSES}),
)
def test_an_attack_on_the_host_is_contained(target: Target, body: str) -> None:
    execution = target.attack(body)
    assert execution.value != "breached"
    assert execution.status in ("ok", "exception", "crashed"), execution
    target.check_next_call()


@pytest.mark.parametrize("case", _named({"exhaust": EXHAUSTION}))
def test_exhausting_a_resource_ends_the_call_only(target: Target, case: tuple[str, set[str]]) -> None:
    body, statuses = case
    execution = target.attack(
        body, timeout_s={1: 0.4, 2: 1.0}.get(len(statuses), 1.5) if "timeout" in statuses else 8.0
    )
    assert not execution.ok
    assert execution.status in statuses, execution.model_copy(update={"stdout": "", "stderr": ""})
    assert execution.error
    assert len(execution.stdout) < 70_000
    target.check_next_call()


@pytest.mark.parametrize("body", _named({"forge": FORGERIES}))
def test_a_forged_answer_is_no_result(target: Target, body: str) -> None:
    execution = target.attack(body, timeout_s=3.0)
    assert not execution.ok
    assert execution.value is None
    assert execution.status == "crashed", execution
    assert "the process" in (execution.error or "")
    target.check_next_call()


def test_a_call_cannot_poison_the_next(target: Target) -> None:
    source = """
import builtins, json, sys, math, random
def f():
    builtins.len = lambda x: 42
    json.dumps = lambda *a, **k: "[]"
    math.pi = 3
    sys.modules["random"] = None
    sys.path.clear()
    open("left", "w").write("x")
    return 1
"""
    assert target.loop.do(target.sandbox.call(source, "f", {})).status in ("ok", "exception", "crashed")
    check = """
import math, os, random
def g():
    return [len('abc'), math.pi > 3.1, random.random() < 1, os.listdir('.')]
"""
    for _ in range(3):
        assert target.loop.do(target.sandbox.call(check, "g", {})).value == [3, True, True, []]


def test_a_request_does_not_show_the_one_before(target: Target) -> None:
    target.loop.do(target.sandbox.call("def f(a):\n    return len(a)", "f", {"a": "earlier-secret" * 10}))
    source = """
import gc, sys
def f():
    found, frame = [], sys._getframe()
    while frame:
        found += [repr(value) for value in frame.f_locals.values()]
        frame = frame.f_back
    return any("earlier-" + "secret" in text for text in found)
"""
    assert target.loop.do(target.sandbox.call(source, "f", {})).value is False


@pytest.mark.parametrize(
    "name",
    [
        "",
        "f()",
        "f; import os",
        "__import__('os').system",
        "a.b",
        "f\n",
        "__builtins__",
        "eval",
        "os",
        "nothing",
        "é" * 9,
    ],
)
def test_a_name_is_looked_up_and_never_evaluated(target: Target, name: str) -> None:
    execution = target.loop.do(target.sandbox.call("import os\ndef f():\n    return 1", name, {}))
    assert not execution.ok
    assert execution.status in ("refused", "exception")
    target.check_next_call()


@pytest.mark.parametrize(
    "arguments",
    [
        {"a": float("nan")},
        {"a": object()},
        {"a": b"bytes"},
        {1: 2},
        [1],
        None,
        {"self": 1},
        {"a": 1, "__class__": 2},
        {"a'); import os; ('": 1},
        {"a": "\ud800"},
        {"a": 10**5000},
        {"a": "x" * (9 << 20)},
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_arguments_are_only_data(target: Target, arguments: Any) -> None:
    execution = target.loop.do(target.sandbox.call("def f(a):\n    return type(a).__name__", "f", arguments))
    assert execution.value in (None, "str")
    target.check_next_call()
