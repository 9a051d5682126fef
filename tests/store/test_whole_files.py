"""Files and folders appear whole or not at all; a killed writer's leftovers are removed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert os.stat(path).st_mode & 0o777 == (0o644 if kind == "file" else 0o755)


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
