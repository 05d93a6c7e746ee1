"""Programs that try to get out, to use up the machine, or to pass without an answer: none does, behind any walls."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from areal.rewards.programs.code import code, same
from areal.rewards.programs.sandbox.confine import MAX_THREADS, Limits
from areal.rewards.programs.sandbox.examiner import ASSERTS, CALLS, SCRIPTS
from areal.rewards.programs.sandbox.sandbox import run
from areal.rewards.programs.sandbox.values import loads
from areal.rewards.programs.sandbox.walls import Walls
from areal.rewards.reward import prepare

pytestmark = pytest.mark.slow  # a minute and a half, of which most is waiting for hostile programs to be stopped

LIMITS = Limits(timeout_s=1.5, memory_mib=256, disk_mib=4, output_kib=256)

TRYING = """
import ctypes, errno, os, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def tried(**ways):
    "The names of the ways that went without an error."
    went = []
    for name, way in ways.items():
        try:
            result = way()
        except BaseException:
            continue
        if not (isinstance(result, int) and result < 0):
            went.append(name)
    return went
"""


def returned(walls: Walls, source: str) -> Any:
    """What f() of the program returns; None if it does not."""
    (answer,) = run(walls, LIMITS, [TRYING + source], CALLS, ("f", [()])) or [None]
    if answer is None:
        return None
    holds, value, *_ = loads(answer, lambda number: "an object")
    return value if holds else None


def scored(walls: Walls, program: str, row: dict[str, Any]) -> Any:
    reward = prepare("code", code, {"walls": walls.kind})
    reward.begin()
    return reward("", program, row)


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[dict[str, socket.socket]]:
    """What listens on this machine, each where a program could look for it."""
    made = {
        "tcp": socket.create_server(("127.0.0.1", 0)),
        "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix": socket.socket(socket.AF_UNIX),
        "abstract": socket.socket(socket.AF_UNIX),
    }
    made["udp"].bind(("127.0.0.1", 0))
    made["unix"].bind(str(tmp_path / "socket"))
    made["abstract"].bind(f"\0areal-{os.getpid()}")
    for name, each in made.items():
        if name in ("unix", "abstract"):
            each.listen()
        each.settimeout(0.05)
    yield made
    for each in made.values():
        each.close()


def test_no_socket_reaches_anything(walls: Walls, listeners: dict[str, socket.socket], tmp_path: Path) -> None:
    source = f"""
def f():
    def connect(family, kind, address):
        s = socket.socket(family, kind)
        s.settimeout(0.2)
        s.connect(address)
        return s.send(b"hello")
    def netlink():
        s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        s.bind((0, 0))
        s.sendto(b"\\x14\\0\\0\\0\\x12\\0\\x01\\x03" + bytes(12), (0, 0))
        return s.recv(65536).count(b"eth")- 1
    return tried(
        tcp=lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", {listeners["tcp"].getsockname()[1]})),
        udp=lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", {listeners["udp"].getsockname()[1]})),
        unix=lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, {str(tmp_path / "socket")!r}),
        abstract=lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\\0areal-{os.getpid()}"),
        public=lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 53)),
        netlink=netlink,
        raw=lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        packet=lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300),
    )
"""
    assert returned(walls, source) == []
    for name in ("tcp", "unix", "abstract"):
        with pytest.raises(TimeoutError):
            listeners[name].accept()
    with pytest.raises(TimeoutError):
        listeners["udp"].recv(10)


def test_neither_environment_nor_files_of_others_can_be_read(
    walls: Walls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "a secret")
    (tmp_path / "key").write_text("a secret")
    (tmp_path / "key").chmod(0o644)
    wanted = ["/etc/shadow", "/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/environ", "/sys/kernel"]
    wanted += [f"/proc/{os.getpid()}/environ", str(tmp_path / "key"), str(tmp_path), "/dev/mem"]
    wanted += ["/dev/shm", "/run", "/var", "/old", "/dev/tty", "/dev/fd", f"/tmp/../..{tmp_path}/key", os.getcwd()]
    seen = {str(folder) for path in walls.shared for folder in Path(path).parents}  # down to where Python is
    wanted += [path for path in ("/root", "/home", str(Path.home())) if path not in seen]
    source = f"""
def f():
    os.symlink({str(tmp_path / "key")!r}, "link")
    os.symlink("/", "root")
    ways = {{path: lambda path=path: os.listdir(path) if os.path.isdir(path) else open(path).read(1) for path in
        {wanted!r} + ["link", "root/etc/shadow", "../../../../../../etc/passwd"]}}
    found = tried(**ways)
    above = []
    for directory, folders, files in os.walk("/"):
        if directory.startswith(("/usr", "/lib", "/nix")) or "/lib/" in directory:
            folders.clear()
        above += [name for name in files if name == "key"]
    return found, dict(os.environ).get("API_KEY"), above, sorted(os.listdir("/tmp"))
"""
    assert returned(walls, source) == ([], None, [], ["link", "root"])


def test_nothing_outside_its_own_folder_can_be_written(walls: Walls) -> None:
    source = """
def f():
    places = [sys.prefix, os.__file__, os.path.dirname(os.__file__) + "/x.py", "/x", "/dev/x", "/usr/x", "/usr/lib/x"]
    ways = {place: lambda place=place: open(place, "a").write("x") for place in places}
    ways["chmod"] = lambda: os.chmod(os.__file__, 0o777)
    ways["hardlink"] = lambda: os.link(os.__file__, "/tmp/os.py")
    ways["remove"] = lambda: os.remove(os.__file__)
    ways["rename"] = lambda: os.rename(os.path.dirname(os.__file__), "/tmp/lib")
    return tried(**ways)
"""
    assert returned(walls, source) == []


def test_the_disk_is_small_and_gone_afterwards(walls: Walls) -> None:
    source = """
def f():
    written = 0
    for number in range(100):
        try:
            with open(f"/tmp/{number}", "wb", buffering=0) as file:
                while True:
                    written += file.write(bytes(65536))
        except OSError as error:
            if error.errno == errno.ENOSPC and not os.path.getsize(f"/tmp/{number}"):
                return written
    return written
"""
    assert 2**21 < returned(walls, source) <= LIMITS.disk_mib * 2**20
    assert returned(walls, "def f():\n    return os.listdir('/tmp')") == []


def test_memory_has_an_end(walls: Walls) -> None:
    assert returned(walls, "def f():\n    return len(bytearray(300 * 2**20))") is None
    assert returned(walls, "def f():\n    return len(bytearray(100 * 2**20))") == 100 * 2**20
    assert returned(walls, "import mmap\ndef f():\n    return len(mmap.mmap(-1, 300 * 2**20))") is None
    assert returned(walls, "def f():\n    x = []\n    while True: x.append(x * 2)") is None


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    while True: os.fork()",
        "def f():\n    while True:\n        if os.fork() == 0: time.sleep(600)",
        "def f():\n    import subprocess\n    return subprocess.check_output(['/bin/sh', '-c', 'echo 1'])",
        "def f():\n    while True: libc.fork()",
    ],
)
def test_a_fork_bomb_is_contained(walls: Walls, source: str, survivors: Callable[[], list[psutil.Process]]) -> None:
    before = time.monotonic()
    assert returned(walls, source) is None
    assert time.monotonic() - before < 8.0
    gone(survivors)


def test_a_daemon_does_not_outlive_its_program(walls: Walls, survivors: Callable[[], list[psutil.Process]]) -> None:
    source = """
def f():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
    except OSError:
        return "refused"
    return "detached"
"""
    assert returned(walls, source) in ("refused", "detached")
    gone(survivors)


def test_threads_are_counted(walls: Walls, survivors: Callable[[], list[psutil.Process]]) -> None:
    source = """
import threading
def f():
    threading.stack_size(65536)
    count = 0
    try:
        while True:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            count += 1
    except RuntimeError:
        return count
"""
    assert 8 <= returned(walls, source) <= MAX_THREADS
    gone(survivors)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    time.sleep(600)",
        "def f():\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    while True: pass",
        "def f():\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\n    while True: pass",
        "def f():\n    return len(str(10 ** 10 ** 9))",
        "import re\ndef f():\n    return re.match('(a*)*b', 'a' * 100)",
        "time.sleep(600)\ndef f(): pass",
        "def f():\n    import threading\n    threading.Thread(target=time.sleep, args=(600,)).start()\n    time.sleep(600)",
    ],
)
def test_time_has_an_end(walls: Walls, source: str, survivors: Callable[[], list[psutil.Process]]) -> None:
    before = time.monotonic()
    assert returned(walls, source) is None
    assert time.monotonic() - before < LIMITS.timeout_s + 1.5
    gone(survivors)


@pytest.mark.parametrize(
    "source",
    [
        "sys.exit(0)",
        "os._exit(0)",
        "def f():\n    sys.exit(0)",
        "def f():\n    os._exit(0)",
        "def f():\n    os.abort()",
        "def f():\n    libc.exit(0)",
        "def f():\n    return ctypes.string_at(0)",
        "def f():\n    sys.setrecursionlimit(10**9)\n    def g(n): return [g(n + 1)]\n    return g(0)",
        "def f():\n    sys.setrecursionlimit(10**9)\n    x = []\n    for _ in range(10**6): x = [x]\n    return repr(x)",
        "def f():\n    raise KeyboardInterrupt",
        "def f():\n    class E(BaseException):\n        def __str__(self): raise self\n    raise E",
        "this is not Python",
        "def f(:\n",
        "f = 5",
        "\0",
        "x = " + "(" * 100_000,
        "def f():\n    return 'x' * 300_000",
        "def f():\n    os.kill(os.getpid(), 9)",
        "def f():\n    os.closerange(0, 256)",
    ],
)
def test_a_program_that_ends_or_breaks_has_answered_nothing(walls: Walls, source: str) -> None:
    assert returned(walls, source) is None


def test_a_test_after_one_that_ended_the_program_has_a_fresh_one(walls: Walls) -> None:
    source = "import os\nseen = []\ndef f(x):\n    seen.append(x)\n    return seen if x else os._exit(0)"
    answers = run(walls, LIMITS, [source], CALLS, ("f", [(1,), (0,), (2,)]))
    assert [answer and loads(answer)[1] for answer in answers] == [[1], None, [2]]


def test_gigabytes_of_output_are_no_answer(walls: Walls) -> None:
    source = "while True: print('x' * 1_000_000)"
    before = time.monotonic()
    assert run(walls, LIMITS, [source], SCRIPTS, ["", ""]) == [None, None]
    assert returned(walls, "def f():\n    for _ in range(100): print('x' * 1_000_000)\n    return 1") == 1
    assert time.monotonic() - before < 8.0


def test_no_process_but_its_own_can_be_touched(walls: Walls) -> None:
    source = f"""
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

def f():
    buffer = ctypes.create_string_buffer(8)
    local, remote = Part(ctypes.addressof(buffer), 8), Part(id(f), 8)
    ways = {{}}
    for pid in [*(pid for pid in range(1, 8) if pid != os.getpid()), {os.getpid()}, {os.getppid()}]:
        ways[f"attach {{pid}}"] = lambda pid=pid: libc.ptrace(16, pid, 0, 0)
        ways[f"seize {{pid}}"] = lambda pid=pid: libc.ptrace(0x4206, pid, 0, 0)
        ways[f"read {{pid}}"] = lambda pid=pid: libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        ways[f"write {{pid}}"] = lambda pid=pid: libc.process_vm_writev(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        ways[f"open {{pid}}"] = lambda pid=pid: open(f"/proc/{{pid}}/mem", "r+b")
    for pid in {[pid for pid in (os.getpid(), os.getppid()) if pid > 8]}:  # 1 is its own first process
        ways[f"kill {{pid}}"] = lambda pid=pid: os.kill(pid, 0)
    return tried(**ways)
"""
    assert returned(walls, source) == []


def test_signals_to_all_reach_nobody_who_judges(walls: Walls) -> None:
    source = """
def f():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        for pid in (1, -1):
            try:
                os.kill(pid, number)
            except OSError:
                pass
    os._exit(0)
"""
    assert returned(walls, source) is None


def test_no_walls_can_be_moved(walls: Walls, tmp_path: Path) -> None:
    """A namespace of users of its own may be had where there is no filter, but shows no more of the machine."""
    (tmp_path / "key").write_text("a secret")
    (tmp_path / "key").chmod(0o644)
    source = f"""
def f():
    ways = dict(
        mount=lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
        remount=lambda: libc.mount(b"none", b"/", None, 32 | 4096, None),
        bind=lambda: libc.mount(b"/usr", b"/tmp", None, 4096, None),
        umount=lambda: libc.umount2(b"/tmp", 2),
        chroot=lambda: os.chroot("/tmp"),
        pivot=lambda: libc.syscall(155, b"/tmp", b"/tmp"),
        unshare=lambda: libc.unshare(0x20000),
        setns=lambda: libc.setns(0, 0),
        setuid=lambda: os.setuid(0),
        mknod=lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0)),
        host=lambda: socket.sethostname("mine"),
        raise_limit=lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_AS, (2**40, 2**40)),
        clock=lambda: time.clock_settime(time.CLOCK_REALTIME, 0),
        keys=lambda: libc.syscall(248, b"user", b"a", b"b", 1, -3) if hasattr(libc, "no such") else -1,
        bpf=lambda: libc.syscall(321, 0, 0, 0),
        kexec=lambda: libc.syscall(246, 0, 0, 0, 0),
        reboot=lambda: libc.syscall(169, 0xFEE1DEAD, 672274793, 0),
        nice=lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
    )
    went = tried(**ways)
    if libc.unshare(0x10000000 | 0x20000) == 0:
        libc.mount(b"proc", b"/tmp", b"proc", 0, None)
    went += tried(key=lambda: open({str(tmp_path / "key")!r}), shadow=lambda: open("/etc/shadow"),
        environ=lambda: open("/tmp/{os.getpid()}/environ"))
    return went
"""
    assert returned(walls, source) == []


def test_no_terminal_can_be_typed_into(walls: Walls) -> None:
    source = """
import fcntl
def f():
    ways = {f"fd {fd}": lambda fd=fd: fcntl.ioctl(fd, 0x5412, b"x") for fd in range(16)}
    ways["tty"] = lambda: open("/dev/tty", "w")
    ways["console"] = lambda: open("/dev/console", "w")
    return tried(**ways)
"""
    assert returned(walls, source) == []


def test_forged_messages_pass_no_test(walls: Walls) -> None:
    """The program writes what pid 1 would, and what the spawner would, to whatever file is open."""
    source = """
def f(*given):
    for body in (b"t2:1 2i1:0T0:", b"t1:1s3:end", b"T0:", b"t3:1 2 3T0:i2:2aN0:"):
        for fd in range(256):
            try:
                os.set_blocking(fd, False)
                os.write(fd, b"%8d%s" % (len(body), body) + b"0\\n")
            except OSError:
                pass
    os._exit(0)
"""
    for at_load in ("", "f()\n"):
        tests = ([], [(["f"], "assert f() == 7"), (["f"], "assert f() == 8")])
        assert run(walls, LIMITS, [TRYING + source + at_load], ASSERTS, tests) == [False, False]
        row = {"tests": {"inputs": [[1], [2]], "outputs": [7, 8], "fn_name": "f"}}
        assert scored(walls, TRYING + source + at_load, row) == 0.0


@pytest.mark.parametrize(
    "source",
    [
        "class Always:\n    def __eq__(self, other): return True\n    __ne__ = None\ndef f(): return Always()",
        "class Always(int):\n    def __eq__(self, other): return True\ndef f(): return Always(3)",
        "class Always(str):\n    def __eq__(self, other): return True\n    def __len__(self): return 99\ndef f(): return Always()",
        "class Always(list):\n    def __eq__(self, other): return True\n    __iter__ = lambda s: iter([1])\ndef f(): return Always()",
        "class Meta(type):\n    def __eq__(self, other): return True\nclass f(metaclass=Meta): pass",
        "import builtins\nbuiltins.AssertionError = SystemExit\nbuiltins.int = builtins.str = lambda *x: 7\ndef f(): return 8",
        "import sys\nclass Test:\n    SESAME = property(lambda self: 1)\nsys.modules['test'] = Test()\ndef f(): return 8",
        "def f(): raise AssertionError",
        "def f(): return f",
        "def f(): return iter([7])",
        "def f(): return NotImplemented",
        "def f(): return float('nan')",
        "def f():\n    x = []\n    x.append(x)\n    return x",
        "def f():\n    x = []\n    for _ in range(60): x = [x, x]\n    return x",
        "def f():\n    x = []\n    for _ in range(100_000): x = [x]\n    return x",
        "import fractions\ndef f(): return fractions.Fraction(7, 2)",
    ],
)
def test_only_the_right_value_is_right(walls: Walls, source: str) -> None:
    """Its tests want 7, so that even what is equal to everything has to be that."""
    sevens = ["assert f() == 7", "x = f()\nassert not (x != 7)", "assert 7 == f()", "assert f() in (7, 77)"]
    tests: Any = ([], [(["f"], each) for each in sevens])
    assert run(walls, LIMITS, [source], ASSERTS, tests) == [False] * 4
    assert not same(returned(walls, source), 7)


def test_a_test_cannot_be_read(walls: Walls) -> None:
    """The program goes through all that its interpreter holds, and all that it has open, for what the test wants."""
    source = """
import gc, inspect
def f(*given):
    found = []
    seen = [repr(value)[:10_000] for frame in frames(sys._getframe()) for value in
            [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]]
    seen += [each[:10_000] for each in gc.get_objects() if isinstance(each, str)]
    for referred in gc.get_referents(*gc.get_objects()):
        if isinstance(referred, (str, bytes)):
            seen.append(str(referred[:10_000]))
    for fd in range(256):
        try:
            os.set_blocking(fd, False)
            os.lseek(fd, 0, 0)
            seen.append(str(os.read(fd, 100_000)))
        except OSError:
            pass
    for directory, folders, files in os.walk("/tmp"):
        seen += [open(os.path.join(directory, file)).read() for file in files]
    for text in seen:
        at = text.find("".join(["SES", "AME-"]))
        if at >= 0:
            return text[at : at + 12]
    return len(seen) > 100

def frames(frame):
    while frame:
        yield frame
        frame = frame.f_back
"""
    setup = [("def helper(): return 'SESAME-4711x'", False)]
    wanted = ["assert f(1) is True", "assert f('x') == 'SESAME-4711x'", "assert f(3) == helper()"]
    tests = (setup, [(["f"], each) for each in wanted])
    assert run(walls, Limits(6.0, 256, 4, 256), [TRYING + source], ASSERTS, tests) == [True, False, False]


def test_deeply_nested_json_is_only_slow(walls: Walls) -> None:
    text = json.dumps("[" * 200_000)
    assert returned(walls, f"import json\ndef f():\n    return json.loads({text})") is None


def gone(survivors: Callable[[], list[psutil.Process]]) -> None:
    deadline = time.monotonic() + 5.0
    while left := survivors():
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
