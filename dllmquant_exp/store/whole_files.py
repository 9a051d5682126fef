"""Files and folders that appear whole or not at all, and what a killed writer leaves of them.

A writer fills a hidden neighbour of its target and renames it. Killed in between, it leaves the
neighbour behind; the next writer of the same target on the same machine removes it.

    .result.json.partial-<machine>-<process>-<random>

Files and folders are open to whom the user's umask opens them.
"""

import atexit
import hashlib
import os
import platform
import secrets
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
        OSError: the folder cannot be written; it names a file. `path` is then as it was.
    """
    _clear_leftovers(path)
    partial = _partial(path)
    try:
        with _named(path):
            partial.touch(exist_ok=False)
            mode = partial.stat().st_mode
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.chmod(mode)  # some libraries write a private file in its place
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
        OSError: the folder cannot be written; it names a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    partial = _partial(path)
    replaced = partial.with_name(partial.name + "-replaced")
    try:
        with _named(path):
            partial.mkdir()
            yield partial
            readers = partial.stat().st_mode & 0o666
            for file in (file for file in partial.rglob("*") if file.is_file()):
                file.chmod(readers)  # some libraries write private files
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


@lru_cache
def scratch_folder(name: str) -> Path:
    """A folder in the system's temporary one, removed when this process ends.

    A killed process leaves it behind; the next process that asks for one removes it.
    """
    path = Path(tempfile.gettempdir()) / name
    _clear_leftovers(path)
    made = _partial(path)
    made.mkdir(mode=0o700)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in an OSError that names none, as a full disk's does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _partial(path: Path) -> Path:
    return path.with_name(f"{_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}")


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
