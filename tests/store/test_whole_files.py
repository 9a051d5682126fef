"""Files and folders appear whole or not at all; a killed writer's leftovers are removed."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dllmquant_exp.store.whole_files import whole_file, whole_folder

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from dllmquant_exp.store.whole_files import whole_file, whole_folder
kind, path = sys.argv[1], Path(sys.argv[2])
with (whole_file if kind == "file" else whole_folder)(path) as partial:
    (partial if kind == "file" else partial / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(kind: str, path: Path, text: str) -> None:
    if kind == "file":
        with whole_file(path) as partial:
            partial.write_text(text)
        return
    with whole_folder(path) as partial:
        (partial / "part").write_text(text)


def content(kind: str, path: Path) -> str:
    return (path if kind == "file" else path / "part").read_text()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "target"
    words = [sys.executable, "-c", KILLED_WRITER, kind, str(path)]
    assert subprocess.run(words).returncode == -signal.SIGKILL
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    write(kind, path, "whole")
    assert list(tmp_path.iterdir()) == [path]
    assert content(kind, path) == "whole"


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
def test_files_are_open_to_whom_the_umask_opens_them(tmp_path: Path, umask: int) -> None:
    """Those too that a library writes as private ones."""
    before = os.umask(umask)
    try:
        for path in (tmp_path / "file", tmp_path / "folder"):
            with (whole_file if path.name == "file" else whole_folder)(path) as partial:
                part = partial if path.name == "file" else partial / "inner" / "part"
                part.parent.mkdir(exist_ok=True)
                save_file({"a": torch.ones(1)}, part)
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    file, folder = 0o666 & ~umask, 0o777 & ~umask
    assert modes == {"file": file, "part": file, "folder": folder, "inner": folder}


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "target"
    with pytest.raises(OSError) as caught, whole_file(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert list(tmp_path.iterdir()) == []


SCRATCH = """
import os, signal, sys
from dllmquant_exp.store.whole_files import scratch_folder
made = scratch_folder("own")
(made / "file").write_text("x")
assert scratch_folder("own") == made
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_temporary_files_go_with_their_process_or_with_the_next_one(tmp_path: Path) -> None:
    left = {}
    for end in ("killed", "ended"):
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", SCRATCH, end], env=environment)
        left[end] = len(list(tmp_path.iterdir()))
    assert left == {"killed": 1, "ended": 0}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_living_writer_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "target"
    with (whole_file if kind == "file" else whole_folder)(path) as partial:
        write(kind, path, "theirs")
        assert partial.exists()
        (partial if kind == "file" else partial / "part").write_text("ours")
    assert list(tmp_path.iterdir()) == [path]
    # A file is replaced; a folder that is there stays.
    assert content(kind, path) == ("ours" if kind == "file" else "theirs")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_exception_changes_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "target"
    write(kind, path, "before")
    with (
        pytest.raises(RuntimeError),
        (whole_file if kind == "file" else whole_folder)(path) as partial,
    ):
        (partial if kind == "file" else partial / "part").write_text("after")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [path]
    assert content(kind, path) == "before"


def test_other_targets_leftovers_stay(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_WRITER, "file", str(tmp_path / "target")])
    write("file", tmp_path / "target2", "whole")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_reader_of_the_old_content_reads_on(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old content")
    with path.open() as reader:
        with whole_file(path) as partial:
            partial.write_text("new")
        assert reader.read() == "old content"
    assert path.read_text() == "new"
