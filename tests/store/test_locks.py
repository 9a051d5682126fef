"""Locks between processes: held by one at a time, and free once their holder is dead."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dllmquant_exp.store.locks import Busy, LockError, locked

REPOSITORY = Path(__file__).resolve().parents[1]
HOLD = (
    "import sys, time; from pathlib import Path; from dllmquant_exp.store.locks import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
)


@contextmanager
def holder(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_lock_has_one_holder_and_outlives_none(tmp_path: Path) -> None:
    path = tmp_path / "cell" / ".lock"
    with holder(path) as process:
        with pytest.raises(Busy), locked(path, wait=False):
            pass
        process.send_signal(signal.SIGKILL)
        with locked(path):  # waits until the kernel has let go of it
            pass
    assert path.exists()
    with locked(path, wait=False), pytest.raises(Busy), locked(path, wait=False):
        pass


def test_what_happens_inside_is_not_swallowed_and_lets_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "l"):
        raise KeyError
    with locked(tmp_path / "l", wait=False):
        pass


@pytest.mark.parametrize(
    "number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.EIO]
)
def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def unsupported(*_: object) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)  # whichever of its modules calls it
    refused = pytest.raises(LockError, match="set runs_dir to a folder of another")
    with refused, locked(tmp_path / "l"):
        pass
