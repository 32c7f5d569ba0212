"""Landlock: which files a process may access, enforced by the kernel (5.13 and later) without privileges.

All rights that the kernel supports are handled, so whatever is not granted below is denied. Landlock does not cover
chmod, chown, utime, setxattr or stat; the system call filter denies the first four.
"""

from __future__ import annotations

import ctypes
import os
import struct

from .native import syscall
from .syscalls import this_machine

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR = 1 << 7
MAKE_REG = 1 << 8
REFER = 1 << 13
TRUNCATE = 1 << 14

_FILESYSTEM_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file rights by version of the interface: REFER was added in 2, TRUNCATE in 3, IOCTL_DEV in 5."""
_NETWORK_RIGHTS = 0b11  # TCP bind and connect, since 4
_SCOPES = 0b11  # abstract Unix sockets and signals, since 6
_RULE_PATH_BENEATH = 1
_QUERY_VERSION = 1

READ = READ_FILE | READ_DIR
DEVICE = READ_FILE | WRITE_FILE
SCRATCH = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE


def _numbers() -> dict[str, int]:
    machine = this_machine()
    if machine is None:
        raise OSError("the system call numbers of this processor are not known")
    return machine[1]


def abi_version() -> int:
    """The kernel's version of the interface. Raises :class:`OSError` if it has none."""
    number = _numbers()["landlock_create_ruleset"]
    return syscall("landlock_create_ruleset", number, None, ctypes.c_size_t(0), ctypes.c_uint32(_QUERY_VERSION))


def create_ruleset(rules: list[tuple[str, int]]) -> int:
    """A descriptor of a rule set that grants only ``rules`` (path, rights); missing paths are skipped.

    Raises :class:`OSError`.
    """
    numbers = _numbers()
    abi = abi_version()
    handled = (1 << _FILESYSTEM_BITS.get(abi, 16)) - 1
    fields = [handled]
    if abi >= 4:
        fields.append(_NETWORK_RIGHTS)
    if abi >= 6:
        fields.append(_SCOPES)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = syscall(
        "landlock_create_ruleset",
        numbers["landlock_create_ruleset"],
        attributes,
        ctypes.c_size_t(len(attributes)),
        ctypes.c_uint32(0),
    )
    for path, rights in rules:
        try:
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            allowed = rights & handled
            if not os.path.isdir(path):  # noqa: PTH112 - pathlib is not worth importing here
                allowed &= _FILE_RIGHTS
            rule = struct.pack("=Qi", allowed, target)
            syscall(
                "landlock_add_rule",
                numbers["landlock_add_rule"],
                ctypes.c_int(ruleset),
                ctypes.c_int(_RULE_PATH_BENEATH),
                rule,
                ctypes.c_uint32(0),
            )
        finally:
            os.close(target)
    return ruleset


def restrict_self(ruleset: int) -> None:
    """Restrict this process to ``ruleset`` permanently; needs no_new_privs. Raises :class:`OSError`."""
    number = _numbers()["landlock_restrict_self"]
    syscall("landlock_restrict_self", number, ctypes.c_int(ruleset), ctypes.c_uint32(0))
