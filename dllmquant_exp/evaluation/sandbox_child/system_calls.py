"""A filter of system calls: what the Python interpreter needs to compute, and nothing else.

Whatever is not named here does not exist for the program ("Function not implemented"), as on an
older kernel: C libraries know how to go on without newer calls. Left out on purpose, though
harmless programs use them now and then: everything that changes a file's mode, owner or times
(no guard on folders covers those), `truncate` by name, signals to anybody, `prctl`.
"""

import ctypes
import platform
import struct

from .kernel import call, no_new_privileges

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, NOT_PERMITTED, NO_SUCH_CALL, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000

# Architecture -> its number in a filter's data. Columns of the tables below; None: no such call.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # descriptors and files
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "pread64": (17, 67), "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70),
    "open": (2, None), "openat": (257, 56), "creat": (85, None), "close": (3, 57),
    "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "pipe": (22, None), "pipe2": (293, 59), "lseek": (8, 62), "ftruncate": (77, 46),
    "fsync": (74, 82), "fdatasync": (75, 83), "flock": (73, 32), "sendfile": (40, 71),
    "copy_file_range": (326, 285), "stat": (4, None), "lstat": (6, None), "fstat": (5, 80),
    "fstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "getdents": (78, None), "getdents64": (217, 61), "umask": (95, 166),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10),
    "listxattr": (194, 11), "llistxattr": (195, 12), "flistxattr": (196, 13),
    # waiting
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "pause": (34, None),
    "sched_yield": (24, 124), "restart_syscall": (219, 128),
    # memory and threads
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226),
    "mremap": (25, 216), "madvise": (28, 233), "futex": (202, 98), "futex_waitv": (449, 449),
    "set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96),
    "sched_getaffinity": (204, 123), "exit": (60, 93), "exit_group": (231, 94),
    # a connected pair, as asyncio needs it; what could name another address is left out
    "recvfrom": (45, 207), "sendto": (44, 206), "shutdown": (48, 210),
    # clocks, and what the process is and has
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "time": (201, None), "times": (100, 153), "getrusage": (98, 165), "getrandom": (318, 278),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getpgrp": (111, None),
    "getpgid": (121, 155), "getsid": (124, 156), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "uname": (63, 160), "sysinfo": (99, 179),
    "getcpu": (309, 168), "getrlimit": (97, 163), "setrlimit": (160, 164),
    # signals to itself
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "alarm": (37, None), "setitimer": (38, 103),
    "getitimer": (36, 102),
}  # fmt: skip

# Calls that are allowed with some arguments only: numbers, then index, mask and allowed values of
# the argument that decides. `fcntl` and `ioctl` could otherwise make the kernel send a signal to
# any process (F_SETOWN, FIOSETOWN); a pair of datagram sockets could send to any address.
CLONE_THREAD = 0x00010000
Conditional = dict[str, tuple[tuple[int | None, int | None], int, int, tuple[int, ...]]]
CONDITIONAL: Conditional = {
    "clone": ((56, 220), 0, CLONE_THREAD, (CLONE_THREAD,)),  # a thread, and no process
    "fcntl": ((72, 25), 1, 0xFFFFFFFF, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),  # F_DUPFD to F_SETLKW
    "ioctl": ((16, 29), 1, 0xFFFFFFFF, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    "prlimit64": ((302, 261), 0, 0xFFFFFFFF, (0,)),  # of this process
    "socketpair": ((53, 199), 1, 0xF, (1,)),  # SOCK_STREAM
}

# Where nothing else keeps a program from changing files: it opens them for reading only, without
# O_CREAT, O_TRUNC and O_TMPFILE, and the calls that change a folder do not exist.
CHANGING = 0x3 | 0o100 | 0o1000 | 0o20000000
OPENING: Conditional = {
    "open": ((2, None), 1, CHANGING, (0,)),
    "openat": ((257, 56), 2, CHANGING, (0,)),
}  # fmt: skip
FOLDERS_CHANGE = (
    "creat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2",
    "link", "linkat", "symlink", "symlinkat",
)  # fmt: skip


def rules(read_only: bool) -> tuple[dict[str, tuple[int | None, int | None]], Conditional]:
    """The calls that are allowed, and those that are with some arguments."""
    if not read_only:
        return ALLOWED, CONDITIONAL
    left_out = {*FOLDERS_CHANGE, *OPENING}
    return {k: v for k, v in ALLOWED.items() if k not in left_out}, {**CONDITIONAL, **OPENING}


def seccomp_filter(machine: str, read_only: bool = False) -> bytes:
    """The filter as a Berkeley packet filter program for `machine`, one of ARCHITECTURES."""
    column = list(ARCHITECTURES).index(machine)
    allowed, conditional = rules(read_only)

    def op(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("HBBI", code, true, false, k)

    load, mask, equal, at_least, give = 0x20, 0x54, 0x15, 0x35, 0x06
    program = [op(load, 4), op(equal, ARCHITECTURES[machine], 1, 0), op(give, KILL), op(load, 0)]
    program += [op(at_least, 0x40000000, 0, 1), op(give, KILL)]  # the x32 calling convention
    for numbers in allowed.values():
        if (number := numbers[column]) is not None:
            program += [op(equal, number, 0, 1), op(give, ALLOW)]
    for numbers, index, bits, values in conditional.values():
        if (number := numbers[column]) is None:
            continue
        block = [op(load, 16 + 8 * index), op(mask, bits)]
        for value in values:
            block += [op(equal, value, 0, 1), op(give, ALLOW)]
        block += [op(give, NOT_PERMITTED)]
        program += [op(equal, number, 0, len(block)), *block]
    return b"".join([*program, op(give, NO_SUCH_CALL)])


def forbid_system_calls(read_only: bool) -> None:
    """Install the filter for this process and its threads; it cannot be taken off again.

    Raises:
        OSError: the kernel has no filters, or this processor's call numbers are not known.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"no system call numbers for {machine}")
    program = seccomp_filter(machine, read_only)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    no_new_privileges()
    call(
        "prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
        ctypes.create_string_buffer(header, len(header)), 0, 0,
    )  # fmt: skip
