"""The system call filter: an allow-list as a classic BPF program.

A call that is not listed fails with EPERM, which Python raises as PermissionError. A call of another architecture
kills the process. The filter reads ``struct seccomp_data``: number, architecture, instruction pointer, six 64-bit
arguments. Both supported architectures are little-endian.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .native import PR_SET_SECCOMP, libc
from .syscalls import AUDIT_ARCH_X86_64, this_machine

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000
_NOTIFY = 0x7FC00000
_X32_BIT = 0x40000000
_FILTER_MODE = 2

_PLAIN_CALLS = """
read write readv writev pread64 pwrite64 preadv pwritev lseek close close_range dup dup2 dup3
fstat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir getdents
getdents64 sendfile fadvise64
pipe pipe2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2
recvfrom shutdown getsockopt setsockopt getsockname getpeername
brk mmap munmap mprotect mremap madvise msync membarrier
exit exit_group getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getrlimit
getrusage times sched_yield getcpu sysinfo uname umask wait4 waitid
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time alarm setitimer getitimer pause
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
futex set_robust_list set_tid_address rseq getrandom arch_prctl restart_syscall
"""

# Safe only with Landlock.
_WRITING_CALLS = """
ftruncate mkdir mkdirat rmdir fsync fdatasync copy_file_range
"""

# Safe only if the supervisor sees them coming (``notices.py``).
_REMOVING_CALLS = """
unlink unlinkat rename renameat
"""

_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # DUPFD, GETFD, SETFD, GETFL, SETFL, locks, DUPFD_CLOEXEC
_IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, WINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
_O_TMPFILE = 0x400000
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | _O_TMPFILE
_UNSEEN_FLAGS = _O_TMPFILE | os.O_PATH
"""With these, a file can be had or held without a trace that the supervisor finds; Python then does without."""
_RENAME_FLAGS = 0b11  # NOREPLACE and EXCHANGE, but not WHITEOUT, which makes another entry
_AT_REMOVEDIR = 0x200
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_SOCK_STREAM, _SOCK_TYPE_FLAGS = 1, 0o2004000

ANY_PID = 0x5EEDF00D
"""Placeholder for the id of the process that installs a program; no other operand has this value."""

_GROUP = 40
"""About how many instructions are skipped at once; a jump reaches 255."""

Instruction = tuple[int, int, int, int]


def _argument(index: int, *, high: bool = False) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))


def _give(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


_PLAIN = [_give(_ALLOW)]


def _refuse(number: int) -> Instruction:
    return _give(_ERRNO | number)


def _argument_in(index: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow if the low half of an argument is one of ``values``."""
    body = [_argument(index)]
    for value in values:
        body += [(_EQUAL, 0, 1, value), _give(_ALLOW)]
    return [*body, _refuse(errno.EPERM)]


def _without_bits(index: int, bits: int, otherwise: int) -> list[Instruction]:
    """Allow if no bit of ``bits`` is set in an argument, else fail with errno ``otherwise``."""
    return [_argument(index), (_ANY_BIT, 0, 1, bits), _refuse(otherwise), _give(_ALLOW)]


def _rules(files: str) -> dict[str, list[Instruction]]:
    """Calls that are allowed only with some arguments. ``files``: as for :func:`build_filter`."""
    own = _argument_in(0, (ANY_PID,))
    streams = tuple(_SOCK_STREAM | flags for flags in (0, 0o4000, 0o2000000, _SOCK_TYPE_FLAGS))
    socketpair = [_argument(0), (_EQUAL, 1, 0, 1), _refuse(errno.EPERM), *_argument_in(1, streams)]
    address = [_argument(4), (_EQUAL, 1, 0, 0), _refuse(errno.EPERM)]
    address += [_argument(4, high=True), (_EQUAL, 1, 0, 0), _refuse(errno.EPERM), _give(_ALLOW)]
    rules = {
        "kill": own,
        "tgkill": own,
        "tkill": own,
        "getpgid": _argument_in(0, (0, ANY_PID)),
        "getsid": _argument_in(0, (0, ANY_PID)),
        "sched_getaffinity": _argument_in(0, (0, ANY_PID)),
        # only its own limits: without privileges they can be lowered but never raised
        "prlimit64": _argument_in(0, (0,)),
        "prctl": _argument_in(0, (_PR_SET_NAME, _PR_GET_NAME)),
        "fcntl": _argument_in(1, _FCNTL_COMMANDS),
        "ioctl": _argument_in(1, _IOCTL_REQUESTS),
        # asyncio wakes itself through a pair of stream sockets; no socket may have an address
        "socketpair": socketpair,
        "sendto": address,
        # glibc falls back to older calls if these two do not exist
        "clone3": [_refuse(errno.ENOSYS)],
        "openat2": [_refuse(errno.ENOSYS)],
    }
    if files in ("write", "keep"):
        rules |= {
            "open": _without_bits(1, _UNSEEN_FLAGS, errno.EOPNOTSUPP),
            "openat": _without_bits(2, _UNSEEN_FLAGS, errno.EOPNOTSUPP),
        }
        if files == "write":
            rules["renameat2"] = _without_bits(4, 0xFFFFFFFF ^ _RENAME_FLAGS, errno.EINVAL)
    elif files == "read":
        rules |= {
            "open": _without_bits(1, _WRITE_FLAGS, errno.EROFS),
            "openat": _without_bits(2, _WRITE_FLAGS, errno.EROFS),
        }
    else:
        rules |= {"open": [_refuse(errno.EACCES)], "openat": [_refuse(errno.EACCES)]}
    return rules


def build_filter(files: str, machine: tuple[int, dict[str, int]]) -> bytes:
    """The filter's program. :func:`install` fills in the process id.

    ``files``: which files may be opened: "none", "read", "write", or "keep" to write but not to delete or rename.
    """
    architecture, numbers = machine
    program: list[Instruction] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), _give(_KILL), (_LOAD, 0, 0, 0)]
    if architecture == AUDIT_ARCH_X86_64:
        program += [(_AT_LEAST, 0, 1, _X32_BIT), _give(_KILL)]
    hidden = {"readlink", "readlinkat"} if files == "none" else set()
    plain = _PLAIN_CALLS
    if files in ("write", "keep"):
        plain += _WRITING_CALLS
    if files == "write":
        plain += _REMOVING_CALLS
    bodies = {name: _PLAIN for name in plain.split() if name not in hidden} | _rules(files)
    program += _search({numbers[name]: body for name, body in bodies.items() if name in numbers})
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _search(bodies: dict[int, list[Instruction]]) -> list[Instruction]:
    """Go to the body of the call's number, in groups that are skipped as a whole; refuse a call that has none.

    When a filter is installed, the kernel compiles it and tries it with every number there is, at the cost of a child.
    """
    program: list[Instruction] = []
    left = sorted(bodies.items())
    while left:
        plain: list[int] = []
        ruled: list[Instruction] = []
        while left and len(plain) + len(ruled) < _GROUP:
            number, body = left.pop(0)
            if body == _PLAIN:
                plain.append(number)
            else:
                ruled += [(_EQUAL, 0, len(body), number), *body]
        allow = len(plain) + len(ruled) + 1
        group = [(_EQUAL, allow - at - 1, 0, number) for at, number in enumerate(plain)]
        group += [*ruled, _refuse(errno.EPERM), _give(_ALLOW)]
        if left:
            program.append((_AT_LEAST, len(group), 0, left[0][0]))
        program += group
    return program


def build_notices(machine: tuple[int, dict[str, int]], making: tuple[str, ...], removing: tuple[str, ...]) -> bytes:
    """A program that reports the calls named in ``making`` and ``removing`` to a listener, and allows all others.

    Of the calls that open a file only those are reported that may make one, and no removal of an empty folder.
    """
    architecture, numbers = machine
    program: list[Instruction] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), _give(_ALLOW), (_LOAD, 0, 0, 0)]
    bodies = {
        "open": _noticed_if(1, os.O_CREAT),
        "openat": _noticed_if(2, os.O_CREAT),
        "unlinkat": [_argument(2), (_ANY_BIT, 0, 1, _AT_REMOVEDIR), _give(_ALLOW), _give(_NOTIFY)],
    }
    for name in (*making, *removing):
        if name in numbers:
            body = bodies.get(name, [_give(_NOTIFY)])
            program += [(_EQUAL, 0, len(body), numbers[name]), *body]
    program.append(_give(_ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _noticed_if(index: int, bits: int) -> list[Instruction]:
    return [_argument(index), (_ANY_BIT, 0, 1, bits), _give(_NOTIFY), _give(_ALLOW)]


class Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(program: bytes) -> None:
    """Install a filter on this process permanently, with its process id filled in; needs no_new_privs.

    Raises :class:`OSError`.
    """
    program = program.replace(struct.pack("=I", ANY_PID), struct.pack("=I", os.getpid()))
    described = Program(len(program) // 8, program)
    if libc.prctl(ctypes.c_int(PR_SET_SECCOMP), ctypes.c_ulong(_FILTER_MODE), ctypes.byref(described)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def build_here(files: str) -> bytes:
    """The filter for children on this machine. Raises :class:`OSError` if the processor is not supported.

    Built only once, because building it touches more memory pages than the rest of a child's start.
    """
    machine = this_machine()
    if machine is None:
        raise OSError("the system call numbers of this processor are not known")
    return build_filter(files, machine)
