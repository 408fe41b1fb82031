"""A program under the seccomp filters that a unit asks for, without systemd: ``python sandbox.py UNIT COMMAND...``.

The sets of system calls are those of the installed systemd, the filters are loaded with the library that it uses
itself, and the rules are what systemd.exec(5) tells of the directives. Mounts, users and limits are not imitated.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ALLOW = 0x7FFF0000
FAIL_EPERM = 0x00050000 | 1
FAIL_ENOSYS = 0x00050000 | 38
EQUAL, MASKED_EQUAL = 4, 7

PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
NAMESPACES = 0x7E020080
"""The flags CLONE_NEW... of clone(2) and unshare(2)."""
MAX_FAMILY = 46
PR_SET_NO_NEW_PRIVS = 38


class Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Filter:
    """One filter. Of several that are loaded the strictest answer counts."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))

    def add(self, action: int, name: str, *where: Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # a call of other processors
            return
        array = (Comparison * len(where))(*where)
        done = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(where), array if where else None
        )
        if done != 0:
            raise OSError(-done, f"no rule for {name}")

    def load(self) -> None:
        if (done := self._library.seccomp_load(self._context)) != 0:
            raise OSError(-done, "the filter was not loaded")


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the unit's assignments, each with all its values in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def calls(sets: Iterable[str]) -> set[str]:
    """Return the system calls of sets such as ``@system-service``, and of the sets within them."""
    found: set[str] = set()
    for name in sets:
        if not name.startswith("@"):
            found.add(name)
            continue
        told = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
        lines = [line.strip() for line in told.stdout.splitlines()[1:]]
        found |= calls(line for line in lines if line and not line.startswith("#"))
    return found


def allowed(filters: Iterable[str]) -> set[str]:
    """Return what the lines ``SystemCallFilter=`` leave. As in systemd, ``@default`` is always there at first."""
    found = calls(["@default"])
    for line in filters:
        named = calls(line.removeprefix("~").split())
        found = found - named if line.startswith("~") else found | named
    return found


def confine(unit: Path) -> None:
    """Load the filters of the unit into this process; they cannot be taken off again."""
    wanted = settings(unit)
    listed = Filter(FAIL_EPERM)
    for name in sorted(allowed(wanted["SystemCallFilter"])):
        listed.add(ALLOW, name)
    rest = Filter(ALLOW)
    if wanted["MemoryDenyWriteExecute"] == ["yes"]:
        both = PROT_WRITE | PROT_EXEC
        rest.add(FAIL_EPERM, "mmap", Comparison(2, MASKED_EQUAL, both, both))
        rest.add(FAIL_EPERM, "mprotect", Comparison(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
        rest.add(FAIL_EPERM, "pkey_mprotect", Comparison(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
        rest.add(FAIL_EPERM, "shmat", Comparison(2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
    families = {int(getattr(socket, name)) for name in wanted["RestrictAddressFamilies"][0].split()}
    for family in set(range(MAX_FAMILY)) - families:
        rest.add(FAIL_EPERM, "socket", Comparison(0, EQUAL, family))
    if wanted["RestrictNamespaces"] == ["yes"]:
        rest.add(FAIL_ENOSYS, "clone3")
        rest.add(FAIL_EPERM, "unshare")
        rest.add(FAIL_EPERM, "setns")
        for bit in range(NAMESPACES.bit_length()):
            if NAMESPACES & 1 << bit:
                rest.add(FAIL_EPERM, "clone", Comparison(0, MASKED_EQUAL, 1 << bit, 1 << bit))
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    rest.load()
    listed.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - a command that the test made up
