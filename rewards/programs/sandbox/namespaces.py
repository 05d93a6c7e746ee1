"""The walls that need no program but this interpreter: namespaces of users, processes, mounts, network and IPC.

    launcher ──unshare, fork──▶ pid 1 of the namespaces ──▶ a root of its own, of tmpfs, with what is shared read-only

As root no namespace of users is needed, and pid 1 becomes a user that owns nothing; anyone else keeps the own user, in a
namespace of users where that has no more rights. There is no /proc in it: none can be mounted in many containers, and
nobody misses it.
"""

from __future__ import annotations

import ctypes
import os

from .confine import become_nobody, check, end_with_parent, libc, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_INODES = 4096
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_DUMPABLE = 4
_BASE = "/tmp"  # stands on every Linux; what is in it is found below _OLD
_OLD = "/old"


def unshare(user: int) -> bool:
    """Leaves all namespaces but the file system's view; whether with a namespace of users, as all but root must."""
    try:
        check(libc().unshare(_NAMESPACES), "unshare")
        return False
    except OSError:
        if os.geteuid() == 0:  # in a container that may not mount: as root its files would stay readable
            become_nobody(user)
            end_with_parent()  # a change of users has undone it
            prctl(_PR_SET_DUMPABLE, 1)  # else the maps below would be root's
    own, group = os.geteuid(), os.getegid()
    check(libc().unshare(_NAMESPACES | _NEWUSER), "unshare with a namespace of users")
    for name, text in (("setgroups", "deny"), ("gid_map", f"{group} {group} 1"), ("uid_map", f"{own} {own} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return True


def fork_first() -> None:
    """Goes on as pid 1 of the namespaces; the launcher waits for its end, and takes its exit code."""
    pid = os.fork()
    if pid == 0:
        return end_with_parent()
    os.closerange(0, 64)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def enter_root(shared: Sequence[str], disk_mib: int) -> None:
    """A root with nothing but these files and folders, read-only, three devices, and a /tmp of so much.

    Links among them are made anew. Raises OSError.
    """
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _BASE, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=755,size=1m,nr_inodes={MAX_INODES}")
    os.mkdir(_BASE + _OLD)
    number = ctypes.c_long(_PIVOT_ROOT[os.uname().machine])
    check(libc().syscall(number, _BASE.encode(), (_BASE + _OLD).encode()), "pivot_root")
    os.chdir("/")
    os.mkdir("/tmp", 0o755)
    options = f"mode=1777,size={disk_mib}m,nr_inodes={MAX_INODES}"
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    for path in shared:  # of which some may lie in /tmp
        _share(path)
    for device in DEVICES:
        _make(device, folder=False)
        _mount(_OLD + device, device, None, _MS_BIND)
    check(libc().umount2(_OLD.encode(), _MNT_DETACH), "umount2")
    os.rmdir(_OLD)
    _set_attributes("/", _ATTR_RDONLY, recursive=False)
    os.chdir("/tmp")


def _share(path: str) -> None:
    source = _OLD + path
    if os.path.islink(source):
        _make(os.path.dirname(path), folder=True)
        return os.symlink(os.readlink(source), path)
    _make(path, folder=os.path.isdir(source))
    _mount(source, path, None, _MS_BIND | _MS_REC)
    _set_attributes(path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=True)


def _make(path: str, *, folder: bool) -> None:
    os.makedirs(path if folder else os.path.dirname(path), 0o755, exist_ok=True)
    if not folder:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode())
    check(libc().mount(*arguments), f"mount {source} on {target}")


def _set_attributes(path: str, attributes: int, *, recursive: bool) -> None:
    """Of the mount there, and of those below it. Needs Linux 5.12."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    where = (ctypes.c_int(_AT_FDCWD), path.encode(), ctypes.c_uint(_AT_RECURSIVE if recursive else 0))
    call = (ctypes.c_long(_MOUNT_SETATTR), *where, ctypes.byref(wanted), ctypes.c_size_t(32))
    check(libc().syscall(*call), f"mount_setattr {path}")
