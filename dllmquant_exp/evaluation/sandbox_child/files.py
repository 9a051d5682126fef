"""The file system as a program sees it: the standard library, and an empty folder.

Two guards, either of which is enough. A root folder of its own, in its own mount namespace, holds
nothing but the standard library and the C libraries, read-only, `/dev/null` and a small `/tmp` in
memory. Landlock rules allow the same paths and no others; where they stand alone, nothing can be
written: nothing would limit how much. Packages that are installed beside the standard library have
no content. On the disk nothing is made, so that nothing can be left behind.
"""

import glob
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence

from .kernel import call, no_new_privileges

LIBRARIES = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
    "/usr/share/zoneinfo", "/nix/store", "/gnu/store",
)  # fmt: skip
NULL = "/dev/null"
HIDDEN, DEEPER = ("site-packages", "dist-packages"), ("", "*/", "*/*/")
MOUNT_POINT = "/proc"  # a folder that is everywhere and that no program needs
WORK = "/tmp"  # of the private root
WORK_FILES = 1024  # inodes of the working folder: they cost memory too

MS_READ_ONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_RECURSIVE, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 0x2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_SETATTR = 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION, LANDLOCK_PATH_BENEATH = 1, 1
WRITE_FILE, READ_FILE, READ_DIR = 0x2, 0x4, 0x8
LANDLOCK_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF}  # version -> every right on files that it knows


def visible_paths() -> list[str]:
    """The standard library and what its extension modules load, but for paths inside another."""
    wanted = {*LIBRARIES, os.path.dirname(os.path.dirname(os.__file__)), *sys.path}
    found: list[str] = []
    for path in sorted(path for path in wanted if os.path.isabs(path) and os.path.exists(path)):
        if not any(path.startswith(outer + "/") for outer in found):
            found.append(path)
    return found


def hidden_paths(visible: Iterable[str]) -> list[str]:
    """Folders of installed packages below the visible paths, two levels deep at most."""
    patterns = [
        f"{path}/{deeper}{name}" for path in visible for name in HIDDEN for deeper in DEEPER
    ]
    return sorted({path for pattern in patterns for path in glob.glob(pattern)})


def enter_private_root(visible: Sequence[str], hidden: Sequence[str], limit_bytes: int) -> None:
    """Build the private root and make it this process's root.

    Needs a mount namespace of its own and CAP_SYS_ADMIN there; goes on in `WORK`.

    Raises:
        OSError: this machine does not allow it; nothing has changed but this mount namespace.
    """
    if platform.machine() not in PIVOT_ROOT:
        raise OSError(f"no system call numbers for {platform.machine()}")
    folder = MOUNT_POINT
    call("mount", b"none", b"/", None, MS_RECURSIVE | MS_PRIVATE, None)
    _mount_memory(folder, "mode=755,size=1m,nr_inodes=1024")
    for path in visible:
        _place(path, folder + path)
        _bind(path, folder + path)
    for path in hidden:
        _mount_memory(folder + path, "mode=755,size=0,nr_inodes=1")
    _place(NULL, folder + NULL)
    os.mkdir(folder + WORK)
    flags = struct.pack("QQQQ", MS_READ_ONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    call(
        "syscall", MOUNT_SETATTR, AT_FDCWD, folder.encode(), AT_RECURSIVE, flags, len(flags)
    )  # fmt: skip
    _bind(NULL, folder + NULL)  # after the rest, or NODEV would close it
    _mount_memory(folder + WORK, f"mode=1777,size={limit_bytes},nr_inodes={WORK_FILES}")
    os.chdir(folder)
    call("syscall", PIVOT_ROOT[platform.machine()], b".", b".")
    call("umount2", b".", MNT_DETACH)  # the old root, which now lies over the new one
    os.chdir(WORK)


def _place(like: str, target: str) -> None:
    """Something to mount `like` on: a folder, or an empty file."""
    os.makedirs(target if os.path.isdir(like) else os.path.dirname(target), exist_ok=True)
    if not os.path.isdir(like):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))


def _bind(source: str, target: str) -> None:
    call("mount", source.encode(), target.encode(), None, MS_BIND | MS_RECURSIVE, None)


def _mount_memory(target: str, options: str) -> None:
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    call("mount", b"tmpfs", target.encode(), b"tmpfs", flags, options.encode())


def allow_only(visible: Sequence[str], hidden: Sequence[str], writable: Sequence[str]) -> None:
    """Landlock rules for this process: read the visible paths, everything below `writable`.

    Raises:
        OSError: the kernel has no Landlock.
    """
    version = call("syscall", LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)
    every = LANDLOCK_RIGHTS[min(version, max(LANDLOCK_RIGHTS))]
    handled = struct.pack("Q", every)
    rules = call("syscall", LANDLOCK_CREATE_RULESET, handled, len(handled), 0)
    for path in visible:
        _allow_reading(rules, path, hidden)
    _allow(rules, NULL, READ_FILE | WRITE_FILE)
    for path in writable:
        _allow(rules, path, every)
    no_new_privileges()
    call("syscall", LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _allow_reading(rules: int, path: str, hidden: Sequence[str]) -> None:
    """Read a file, or list a folder and read what is in it but for hidden folders."""
    if not os.path.isdir(path):
        _allow(rules, path, READ_FILE)
    elif not any(outer.startswith(path + "/") for outer in hidden):
        _allow(rules, path, READ_FILE | READ_DIR)
    else:
        _allow(rules, path, READ_DIR)
        for entry in os.scandir(path):  # links may lead out of the folder
            if entry.path not in hidden and not entry.is_symlink():
                _allow_reading(rules, entry.path, hidden)


def _allow(rules: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH)
    rule = struct.pack("=Qi", rights, parent)
    call("syscall", LANDLOCK_ADD_RULE, rules, LANDLOCK_PATH_BENEATH, rule, 0)
    os.close(parent)
