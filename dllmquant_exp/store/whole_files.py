"""Files and folders that appear whole or not at all, and what a killed writer leaves of them.

A writer fills a hidden neighbour of its target and renames it. Killed in between, it leaves the
neighbour behind; the next writer of the same target on the same machine removes it.

    .result.json.partial-<machine>-<process>-<random>
"""

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to fill, synced and renamed to `path` when the block ends without an exception.

    Raises:
        OSError: the folder cannot be written. `path` is then as it was.
    """
    _clear_leftovers(path)
    handle, name = tempfile.mkstemp(prefix=_prefix(path) + f"{os.getpid()}-", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)  # mkstemp makes it private; results are to be shared
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(
    path: Path, if_taken: Literal["keep", "replace", "refuse"] = "keep"
) -> Iterator[Path]:
    """A folder to fill, renamed to `path` when the block ends without an exception.

    Args:
        if_taken: whether a folder that is there by then stays, is replaced, or ends this in an
            OSError.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    prefix = _prefix(path) + f"{os.getpid()}-"
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    replaced = partial.with_name(partial.name + "-replaced")
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes it private
        if if_taken == "replace" and path.exists():
            path.rename(replaced)
        try:
            os.rename(partial, path)  # an empty folder gives way, any other does not
        except OSError:
            if if_taken != "keep" or not path.exists():
                raise
    finally:
        for folder in (partial, replaced):
            shutil.rmtree(folder, ignore_errors=True)


def _prefix(path: Path) -> str:
    return f".{path.name}.partial-{_machine()}-"


@lru_cache(maxsize=1)
def _machine() -> str:
    """Space in which a process number means one process: this boot, host and container."""
    parts = [platform.node()]
    with suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _clear_leftovers(path: Path) -> None:
    """Remove what processes that have ended left of `path`."""
    prefix = _prefix(path)
    for leftover in path.parent.iterdir():
        process = leftover.name.removeprefix(prefix).partition("-")[0]
        if leftover.name.startswith(prefix) and process.isdecimal() and not _runs(int(process)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
