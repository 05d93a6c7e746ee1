"""The filter of system calls that a program runs under, as the kernel takes it: `struct sock_filter[]` of classic BPF.

What is not listed fails with ENOSYS: among it fork and exec, sockets, kill, ptrace, mounts and namespaces, keys, bpf, io_uring,
userfaultfd, and whatever later kernels add. A program is one process with threads. The bytes serve prctl(PR_SET_SECCOMP) and
`bwrap --seccomp FD` alike; here the former, since what comes before the program has to fork.
"""

import platform
import struct

_ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70,
close 3 57, close_range 436 436, lseek 8 62, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59,
fcntl 72 25, flock 73 32, open 2 -, openat 257 56, access 21 -, faccessat 269 48, faccessat2 439 439, stat 4 -,
lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44, readlink 89 -,
readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276,
link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, chmod 90 -, fchmod 91 52, fchmodat 268 53,
umask 95 166, utime 132 -, utimes 235 -, utimensat 280 88, truncate 76 45, ftruncate 77 46, fallocate 285 47,
fsync 74 82, fdatasync 75 83, sendfile 40 71, copy_file_range 326 285, mmap 9 222, mprotect 10 226,
munmap 11 215, mremap 25 216, brk 12 214, madvise 28 233, msync 26 227, futex 202 98, set_robust_list 273 99,
rseq 334 293, set_tid_address 218 96, arch_prctl 158 -, membarrier 324 283, rt_sigaction 13 134,
rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigsuspend 130 133, rt_sigtimedwait 128 137,
sigaltstack 131 132, restart_syscall 219 128, pause 34 -, alarm 37 -, setitimer 38 103, getitimer 36 102,
nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
time 201 -, times 100 153, getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175,
getgid 104 176, getegid 108 177, getgroups 115 158, getresuid 118 148, getresgid 120 150, getpgrp 111 -,
getpgid 121 155, getsid 124 156, uname 63 160, sysinfo 99 179, getrusage 98 165, getrlimit 97 163,
setrlimit 160 164, getpriority 140 141, sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168,
getrandom 318 278, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, sendto 44 206, recvfrom 45 207,
shutdown 48 210, getsockname 51 204, wait4 61 260, waitid 247 95, exit 60 93, exit_group 231 94
"""
"""Name, number on x86_64, number on aarch64 (-: has none)."""

_MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}  # column, AUDIT_ARCH_*
_NAMED = {"clone": (56, 220), "ioctl": (16, 29), "prctl": (157, 167), "prlimit64": (302, 261), "socketpair": (53, 199)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 38, 0x80000000  # 38: ENOSYS, on which libraries fall back
_NR, _ARCH, _ARGUMENTS = 0, 4, 16

_CLONE_THREAD = 0x10000
_TCGETS, _TIOCGWINSZ, _FIONREAD, _FIONCLEX, _FIOCLEX = 0x5401, 0x5413, 0x541B, 0x5450, 0x5451
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_AF_UNIX, _SOCK_STREAM, _SOCK_KIND = 1, 1, 0xF


def program_filter(machine: str | None = None) -> bytes:
    """The filter for this machine, or for that of a name as `uname -m` has it; no bytes where none is known."""
    machine = machine or platform.machine()
    if machine not in _MACHINES or struct.calcsize("P") != 8:
        return b""
    column, architecture = _MACHINES[machine]
    wanted = [row.split()[column] for row in _ALLOWED.replace("\n", " ").split(",")]
    numbers = [int(number) for number in wanted if number != "-"]
    named = {name: both[column - 1] for name, both in _NAMED.items()}
    code = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NR)]
    code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)]  # x32, the other numbers of x86_64
    for number in numbers:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    code += _where(named["clone"], 0, [(_ANY_BIT, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW)])
    code += _where(named["ioctl"], 1, _one_of(_TCGETS, _TIOCGWINSZ, _FIONREAD, _FIONCLEX, _FIOCLEX))
    code += _where(named["prctl"], 0, _one_of(_PR_SET_NAME, _PR_GET_NAME))
    code += _where(named["prlimit64"], 0, _one_of(0))  # its own limits
    stream = [(_LOAD, 0, 0, _argument(1)), (_AND, 0, 0, _SOCK_KIND), *_one_of(_SOCK_STREAM)]
    code += _where(named["socketpair"], 0, [(_EQUAL, 0, len(stream), _AF_UNIX), *stream])
    code.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


_Code = list[tuple[int, int, int, int]]


def _where(number: int, argument: int, then: _Code) -> _Code:
    """For this call, the check `then` of the low half of an argument, or else refusal."""
    body = [(_LOAD, 0, 0, _argument(argument)), *then, (_RETURN, 0, 0, _REFUSE)]
    return [(_EQUAL, 0, len(body), number), *body]


def _one_of(*values: int) -> _Code:
    return [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]


def _argument(index: int) -> int:
    return _ARGUMENTS + 8 * index  # little endian: the low half comes first
