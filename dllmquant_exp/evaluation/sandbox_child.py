"""The trusted half of the sandbox: started by `sandbox.py` as a script, never imported there.

It reads one JSON request on standard input, puts itself behind every guard that the machine
offers, forks a worker that runs the program, waits for the verdict, kills everything and prints
one JSON answer. Standard library only, because it starts without site-packages.

    our process --(request)--> supervisor --fork--> worker: guards, then exec(program)
                <--(answer)---            <--pipe--  nonce when the program reached its end
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import secrets
import select
import signal
import struct
import sys
import time
from typing import Any

NAMESPACES = {  # name of the guard -> flags of unshare(2)
    "mount_namespace": 0x00020000,
    "process_namespace": 0x20000000,
    "network_namespace": 0x40000000,
    "ipc_namespace": 0x08000000,
}
CLONE_NEWUSER = 0x10000000
CLONE_THREAD = 0x00010000
MS_PRIVATE_RECURSIVE = 0x00040000 | 0x00004000
MS_NOSUID_NODEV = 0x2 | 0x4
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 38, 22, 24

# Forbidden system calls: network, new processes, other programs, signals to and tampering with
# other processes, namespaces and mounts. Numbers of x86_64 and aarch64; None where it has none.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "ptrace": (101, 117),
    "process_vm_writev": (311, 271),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "shmget": (29, 194),
}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
ALLOW, DENY, NO_SUCH_CALL, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """Call a libc function; OSError with its errno where it fails."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def seccomp_filter(machine: str) -> bytes:
    """Berkeley packet filter program: forbidden calls fail with EPERM, the rest goes through."""
    column = list(ARCHITECTURES).index(machine)
    forbidden = [n for pair in FORBIDDEN.values() if (n := pair[column]) is not None]

    def op(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("HBBI", code, true, false, k)

    load, equal, at_least, has_bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    program = [op(load, 4), op(equal, ARCHITECTURES[machine], 1, 0), op(give, KILL), op(load, 0)]
    program += [op(at_least, 0x40000000, 0, 1), op(give, KILL)]  # the x32 calling convention
    for number in forbidden:
        program += [op(equal, number, 0, 1), op(give, DENY)]
    # clone3 hides its flags in memory; without it the C library falls back to clone, whose first
    # argument tells a thread (allowed) from a process
    program += [op(equal, CLONE3, 0, 1), op(give, NO_SUCH_CALL)]
    program += [op(equal, CLONE[machine], 0, 3), op(load, 16)]
    program += [op(has_bits, CLONE_THREAD, 1, 0), op(give, DENY), op(give, ALLOW)]
    return b"".join(program)


def forbid_system_calls() -> None:
    """Install the filter for this process and its threads; it cannot be taken off again."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"no system call numbers for {machine}")
    program = seccomp_filter(machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, 2, ctypes.create_string_buffer(header, len(header)), 0, 0)


def enter_namespaces() -> list[str]:
    """A user, mount, process, network and IPC namespace of its own, where the kernel allows it."""
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWUSER
    for flag in NAMESPACES.values():
        flags |= flag
    try:
        call("unshare", flags)
        write_text("/proc/self/setgroups", "deny")
        write_text("/proc/self/uid_map", f"0 {uid} 1")
        write_text("/proc/self/gid_map", f"0 {gid} 1")
    except OSError:
        return []
    return list(NAMESPACES)


def write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def protect_files(folder: str, limit_bytes: int) -> list[str]:
    """Everything read-only but a small in-memory file system over `folder`; no view of /proc."""
    read_only = struct.pack("QQQQ", 1, 0, 0, 0)  # mount_attr: set MOUNT_ATTR_RDONLY
    at_fdcwd, recursive, mount_setattr = -100, 0x8000, 442
    options = f"size={limit_bytes},mode=700".encode()
    try:
        call("mount", b"none", b"/", None, MS_PRIVATE_RECURSIVE, None)
        call("syscall", mount_setattr, at_fdcwd, b"/", recursive, read_only, len(read_only))
        call("mount", b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID_NODEV, options)
        call("mount", b"tmpfs", b"/proc", b"tmpfs", MS_NOSUID_NODEV | 1, b"size=4096")
    except OSError:
        return []
    return ["read_only_files", "no_proc"]


def drop_privileges() -> None:
    """Give up every capability, in this process and for whatever it could start."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails past the last one: nothing to drop
    header = struct.pack("Ii", 0x20080522, 0)
    call("capset", header, struct.pack("IIIIII", 0, 0, 0, 0, 0, 0))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def limit_resources(request: dict[str, Any]) -> None:
    seconds = int(request["timeout"]) + 1
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: request["memory_bytes"],
        resource.RLIMIT_NPROC: request["processes"],
        resource.RLIMIT_FSIZE: request["file_bytes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def detach(verdict: int) -> None:
    """Standard streams to the null device; no descriptor left but the verdict's."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.closerange(3, verdict)
    os.closerange(verdict + 1, 4096)


def work(request: dict[str, Any], verdict: int, nonce: bytes) -> None:
    """In the worker: put up the last guards, run the program, report. Never returns.

    What runs after the program uses names bound before it, so that a program which replaces
    `os.write` or raises SystemExit cannot turn its failure into a pass.
    """
    report, leave, describe = os.write, os._exit, failure
    # the parent of a new process namespace cannot be seen from inside, but its death is felt
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    detach(verdict)
    os.environ.clear()
    limit_resources(request)
    with contextlib.suppress(OSError):  # where the kernel has no capabilities to give up
        drop_privileges()
    guards = ["resource_limits"]
    try:
        forbid_system_calls()
        guards.append("system_call_filter")
    except OSError:
        pass
    report(verdict, json.dumps(guards).encode() + b"\n")
    if request["required"] and not set(request["required"]) & set(guards + request["guards"]):
        leave(3)
    message = b"F" + b"the program did not start"
    try:
        code = compile(request["program"], "<program>", "exec")
        exec(code, {"__name__": "__main__"})
        message = nonce
    except BaseException as error:
        message = b"F" + describe(error)
    report(verdict, message)
    leave(0)


def failure(error: BaseException) -> bytes:
    """One short line about an exception of the program; its own __str__ may be hostile."""
    kind = type(error).__name__
    try:
        text = f"{kind}: {error}"
    except BaseException:
        text = kind
    return text.replace("\n", " ")[:300].encode("utf-8", "replace")


def watch(worker: int, verdict: int, timeout: float) -> tuple[bytes, bool]:
    """All that the worker reports until it ends, or the time is up: (bytes, timed out)."""
    deadline, received = time.monotonic() + timeout, b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([verdict], [], [], left)[0]:
            return received, True
        chunk = os.read(verdict, 4096)
        received += chunk
        if not chunk or len(received) > 65536:
            return received, False


def decide(received: bytes, late: bool, status: int, nonce: bytes, timeout: float) -> str:
    """The reason in words; "passed" only for the nonce as the whole of the last message."""
    lines = received.split(b"\n", 1)
    message = lines[1] if len(lines) == 2 else b""
    if message == nonce:
        return "passed"
    if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return f"timed out after {timeout:g} s"
    if message[:1] == b"F":
        return "failed: " + message[1:].decode("utf-8", "replace")
    if os.WIFSIGNALED(status):
        return f"failed: killed by signal {os.WTERMSIG(status)}"
    return "failed: the process ended before the program did"


def main() -> None:
    request = json.load(sys.stdin)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    guards = enter_namespaces()
    if guards:
        guards += protect_files(request["folder"], request["file_bytes"])
    os.chdir(request["folder"])
    request["guards"] = guards
    nonce = secrets.token_hex(32).encode()
    ours, theirs = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(ours)
        try:
            work(request, theirs, nonce)
        finally:
            os._exit(2)
    os.close(theirs)
    received, late = watch(worker, ours, request["timeout"])
    os.kill(worker, signal.SIGKILL)
    status = os.waitpid(worker, 0)[1]
    first = received.split(b"\n", 1)[0]
    with contextlib.suppress(ValueError):  # a worker that could not say has no guards of its own
        guards = guards + list(json.loads(first))
    reason = decide(received, late, status, nonce, request["timeout"])
    json.dump({"reason": reason, "guards": guards}, sys.stdout)


if __name__ == "__main__":
    main()
