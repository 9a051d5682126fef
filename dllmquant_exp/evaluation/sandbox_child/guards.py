"""Everything that stands between a program and the machine, put up before the program starts.

Guards overlap on purpose: a process without network devices cannot make a socket either, and one
that has no other processes to see cannot send a signal either.
"""

import contextlib
import itertools
import os
import resource
import signal
import struct
from collections.abc import Sequence
from typing import Any

from .files import WORK, allow_only, enter_private_root, hidden_paths, visible_paths
from .kernel import call, libc, no_new_privileges
from .system_calls import forbid_system_calls

NAMESPACES = {  # name of the guard -> flag of unshare(2)
    "mount_namespace": 0x00020000,
    "process_namespace": 0x20000000,
    "network_namespace": 0x40000000,
    "ipc_namespace": 0x08000000,
}
PRIVATE_ROOT, READ_ONLY = "private_root", "read_only_filter"
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
CAPABILITY_VERSION_3 = 0x20080522
NOBODY = 65534
OPEN_FILES = 64
HIGHEST_DESCRIPTOR = 4096  # the supervisor holds a handful, and they are low


def enclose(request: dict[str, Any]) -> list[str]:
    """The guards that processes share, put up by the supervisor before it forks any.

    Returns the names of those that are up. The current folder is the program's own afterwards, or
    the root where it has none.
    """
    request["tasks"] += _tasks(NOBODY if os.getuid() == 0 else os.getuid())
    visible = visible_paths()
    hidden = hidden_paths(visible)
    request["paths"] = (visible, hidden, [])
    os.chdir("/")
    guards = _enter_namespaces()
    if not guards:
        return []
    try:
        enter_private_root(visible, hidden, request["file_bytes"])
    except OSError:
        return guards
    request["paths"] = (visible, hidden, [WORK])
    return [*guards, PRIVATE_ROOT]


def shut_in(request: dict[str, Any], shared: Sequence[str], keep: Sequence[int]) -> list[str]:
    """The guards of one process, put up by itself; the names of those that are up.

    Args:
        shared: what `enclose` returned.
        keep: file descriptors that stay open.
    """
    _detach(keep)
    os.environ.clear()
    _limit_resources(request)
    guards = ["resource_limits"]
    for name, guard in (
        ("no_capabilities", _drop_privileges),
        ("process_limit", _check_process_limit),
        ("no_orphan", die_with_parent),  # forgotten when the user changes, so not earlier
        ("no_tracing", hide_memory),
        ("landlock", lambda: allow_only(*request["paths"])),
    ):
        with contextlib.suppress(OSError):
            guard()
            guards.append(name)
    files_are_safe = PRIVATE_ROOT in shared or "landlock" in guards
    with contextlib.suppress(OSError):
        forbid_system_calls(read_only=not files_are_safe)
        guards += ["system_call_filter", *([] if files_are_safe else [READ_ONLY])]
    return guards


def die_with_parent() -> None:
    """SIGKILL when the parent ends."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def hide_memory() -> None:
    """No other process of this user can read this one's memory: the checks are in the checker's."""
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def _enter_namespaces() -> list[str]:
    """Mount, process, network and IPC namespaces of its own, where the kernel allows it.

    root needs no user namespace for that, and without one the program can be nobody.
    """
    flags, uid, gid = sum(NAMESPACES.values()), os.getuid(), os.getgid()
    with contextlib.suppress(OSError):
        call("unshare", flags)
        return list(NAMESPACES)
    try:
        call("unshare", flags | CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    except OSError:
        return []
    return list(NAMESPACES)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _tasks(uid: int) -> int:
    """Threads that a user has now: the kernel's limit counts them too."""
    count = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it may end meanwhile
            if os.stat(f"/proc/{process}").st_uid == uid:
                count += len(os.listdir(f"/proc/{process}/task"))
    return count


def _detach(keep: Sequence[int]) -> None:
    """Standard streams to the null device; no other descriptor but those to keep."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    edges = [2, *sorted(keep), HIGHEST_DESCRIPTOR]
    for below, above in itertools.pairwise(edges):
        os.closerange(below + 1, above)


def _limit_resources(request: dict[str, Any]) -> None:
    seconds = int(request["timeout"]) + 1
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: request["memory_bytes"],
        resource.RLIMIT_NPROC: request["tasks"],
        resource.RLIMIT_FSIZE: request["file_bytes"],
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def _check_process_limit() -> None:
    """Raise OSError where the limit on processes does not bind, as it does not for root.

    It is tried out, with a limit that is reached already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
    try:
        child = os.fork()
    except BlockingIOError:
        return
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    raise OSError("the limit on processes does not bind")


def _drop_privileges() -> None:
    """Be nobody instead of root, and give up every capability.

    root stays root, without capabilities, where nobody could not read the standard library; no
    limit on processes binds it then.
    """
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails past the last one: nothing to drop
    if os.getuid() == 0:
        with contextlib.suppress(OSError):
            _become_nobody()
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    call("capset", header, struct.pack("IIIIII", 0, 0, 0, 0, 0, 0))
    no_new_privileges()


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    if os.access(os.__file__, os.R_OK, effective_ids=True):
        os.seteuid(0)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        os.seteuid(0)
