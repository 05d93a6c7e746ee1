"""What a process gives up before it runs what a model wrote: its user, capabilities and resources (Linux, libc by ctypes)."""

from __future__ import annotations

import ctypes
import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MIB = 2**20
MAX_THREADS = 64
MAX_FILES = 64
STACK_BYTES = 64 * MIB
FIRST_USER = 2_000_000_000
"""Users from here on belong to nobody: each sandbox that root starts takes another (walls.user_of)."""
NOBODY = 65534

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_VERSION_3 = 0x20080522
_SIGINT, _SIGKILL = 2, 9


class Limits:
    """Of one completion: seconds of all tests, and what its program may use at any moment."""

    __slots__ = ("disk_mib", "memory_mib", "output_kib", "timeout_s")

    def __init__(self, timeout_s: float, memory_mib: int, disk_mib: int, output_kib: int) -> None:
        self.timeout_s, self.memory_mib = timeout_s, memory_mib
        self.disk_mib, self.output_kib = disk_mib, output_kib

    def __iter__(self) -> Any:
        return iter((self.timeout_s, self.memory_mib, self.disk_mib, self.output_kib))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """The result of a call, or OSError that says what was tried."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, value: Any = 0, further: Any = 0) -> None:
    word = ctypes.c_ulong
    arguments = [part if isinstance(part, ctypes._SimpleCData) else word(part) for part in (value, further)]
    check(libc().prctl(ctypes.c_int(option), *arguments, word(0), word(0)), f"prctl({option})")


def end_with_parent() -> None:
    """Linux kills this process when its parent ends. Has to be said again after a change of users."""
    prctl(PR_SET_PDEATHSIG, _SIGKILL)


def become_nobody(user: int) -> None:
    """From root to a user that owns nothing, or to `nobody` where this machine's users are a few of another's."""
    os.setgroups([])
    try:
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def drop_privileges() -> None:
    """No capability, none to be had from a file, and nothing of this process for others of its user to read."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0)
    if os.uname().machine in _CAPSET:
        number = ctypes.c_long(_CAPSET[os.uname().machine])
        check(libc().syscall(number, ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    libc().signal(_SIGINT, None)  # Python's handler would make pid 1 of a namespace hear it


def limit_resources(limits: Limits, *, counts_threads: bool) -> None:
    """Hard limits, which its children inherit. `counts_threads` where a limit counts this sandbox's alone."""
    seconds = int(limits.timeout_s) + 2
    wanted = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, limits.disk_mib * MIB),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_STACK, STACK_BYTES),
        (resource.RLIMIT_AS, limits.memory_mib * MIB),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ]
    if counts_threads:
        wanted.append((resource.RLIMIT_NPROC, MAX_THREADS))
    for kind, value in wanted:
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def filter_calls(code: bytes) -> None:
    """Only what the filter of seccomp.py allows, from here on."""
    program = _Filter(len(code) // 8, code)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(program)))
