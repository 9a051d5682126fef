"""One job at a time: a cell, a calibration set or a model's rounded weights have one maker.

A lock is an open file that the kernel has locked for a process (flock), so it is free as soon as
its holder ends, however it ends: no lock is ever stale, and its file stays where it is. On folders
that several nodes share it holds where the file system passes flock on: NFS does (version 3 with
its lock service, version 4 by itself; a node that died is let go of after the server's lease, 90 s
as a rule), Lustre when it is mounted with `flock` (with `localflock` on one node only).
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dllmquant_exp.errors import Refusal

SECONDS_BETWEEN_TRIES = 0.5
# What file systems and their lock services answer that have none, or none now.
_NOT_OFFERED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.EIO)


class Busy(Exception):
    """Another process holds the lock."""


class LockError(Refusal):
    """Locks cannot be had where they are needed."""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock that `path` stands for; the file and its folders are made where they lack.

    Args:
        wait: until the other holder is done or dead.

    Raises:
        Busy: it is held by another process (or thread), and `wait` is False.
        LockError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A soft lock, a file that merely exists, would outlive a killed job.
    lock = FileLock(path, is_singleton=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=wait, poll_interval=SECONDS_BETWEEN_TRIES)
    except Timeout as error:
        raise Busy(str(path)) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_OFFERED:
            raise
        raise LockError(
            f"{path.parent} is on a file system that gives no file locks ({error}), and without "
            "them two jobs could write the same file; set runs_dir to a folder of another one"
        ) from error
    try:
        yield
    finally:
        lock.release()
