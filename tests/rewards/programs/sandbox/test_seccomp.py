import ctypes
import os
import struct
import sys

import pytest

from areal.rewards.programs.sandbox.confine import filter_calls
from areal.rewards.programs.sandbox.seccomp import program_filter

ALLOW, ENOSYS, KILL = 0x7FFF0000, 0x00050000 | 38, 0x80000000
X86, ARM = 0xC000003E, 0xC00000B7


def judged(code: bytes, number: int, *arguments: int, architecture: int = X86) -> int:
    """What a filter says of a call: classic BPF as linux/filter.h has it, as far as it is used here."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            at += if_true if holds else if_false


def test_calls_are_judged_by_number_and_argument() -> None:
    code = program_filter("x86_64")
    assert {judged(code, number) for number in (0, 1, 9, 39, 202, 231, 257)} == {ALLOW}  # read … openat
    refused = {
        "fork": 57,
        "vfork": 58,
        "execve": 59,
        "kill": 62,
        "ptrace": 101,
        "mount": 165,
        "socket": 41,
        "clone3": 435,
    }
    refused |= {"unshare": 272, "setns": 308, "bpf": 321, "execveat": 322, "userfaultfd": 323, "io_uring_setup": 425}
    refused |= {
        "process_vm_readv": 310,
        "pidfd_open": 434,
        "pidfd_getfd": 438,
        "keyctl": 250,
        "setsid": 112,
        "new": 999,
    }
    assert {name: judged(code, number) for name, number in refused.items()} == dict.fromkeys(refused, ENOSYS)
    assert judged(code, 0, architecture=0x40000003) == KILL  # by int 0x80, where numbers mean others
    assert judged(code, 0x40000000 | 1) == ENOSYS  # x32
    assert [judged(code, 56, flags) for flags in (0x11, 0x3D0F00, 0x10000000)] == [ENOSYS, ALLOW, ENOSYS]
    assert [judged(code, 16, 0, command) for command in (0x5401, 0x5412, 0x541C)] == [ALLOW, ENOSYS, ENOSYS]
    assert [judged(code, 302, pid) for pid in (0, 1)] == [ALLOW, ENOSYS]
    streams = [judged(code, 53, family, kind) for family, kind in ((1, 1 | 0o2000000), (1, 2), (2, 1), (16, 3))]
    assert streams == [ALLOW, ENOSYS, ENOSYS, ENOSYS]


def test_numbers_of_another_machine() -> None:
    code = program_filter("aarch64")
    assert [judged(code, number, architecture=ARM) for number in (63, 64, 56, 220, 221, 129)] == [
        *[ALLOW] * 3,
        *[ENOSYS] * 3,
    ]
    assert judged(code, 63, architecture=X86) == KILL
    assert program_filter("riscv64") == b""


@pytest.mark.skipif(sys.platform != "linux" or not program_filter(), reason="no filter for this machine")
def test_the_kernel_takes_it() -> None:
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            filter_calls(program_filter())
            libc = ctypes.CDLL(None, use_errno=True)
            answered = [libc.fork(), ctypes.get_errno(), libc.socket(1, 1, 0), ctypes.get_errno(), libc.getppid()]
            os.write(writer, repr(answered).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 100).decode() == f"[-1, 38, -1, 38, {os.getpid()}]"
    os.close(reader)
    os.close(writer)
