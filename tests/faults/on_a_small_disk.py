"""Run by test_storage_faults.py in a mount namespace of its own: a sweep on a disk that fails.

    python on_a_small_disk.py FOLDER WORDS...

Three calls each on a disk that is full, and on one that is read-only: refused at submission; broken
after the first cell; and resumed on the mended disk. The last line of output is what they said, as
JSON.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dllmquant_exp.__main__ import main
from dllmquant_exp.run import job as experiment

EVALUATE = experiment.evaluate_task
DISK, WORDS = Path(sys.argv[1]), sys.argv[2:]


FOLDER = DISK / "folder"


def execute(*words: str) -> None:
    subprocess.run([*words], check=True)


def protect() -> None:
    """A read-only view over the folder; files that are open for writing do not hinder it."""
    execute("mount", "--bind", str(FOLDER), str(FOLDER))
    execute("mount", "-o", "remount,bind,ro", str(FOLDER))


def fill() -> None:
    with contextlib.suppress(OSError), (DISK / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def call() -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(WORDS)
    files = DISK.rglob("result.json")
    found = {path.parent.name: json.loads(path.read_text()) for path in files}
    return {
        "status": status,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "finished": sum(value["status"] == "finished" for value in found.values()),
        "digests": {name: value["content_digest"] for name, value in found.items()},
    }


def three_calls(harm: Callable[[], None], mend: Callable[[], None]) -> list[dict[str, Any]]:
    execute("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(DISK))
    FOLDER.mkdir()
    harm()
    told = [call()]
    mend()
    cells: list[int] = []

    def fail_later(*arguments: Any, **named: Any) -> Any:
        cells.append(1)
        if len(cells) == 2:
            harm()
        return EVALUATE(*arguments, **named)

    experiment.evaluate_task = fail_later
    told.append(call())
    experiment.evaluate_task = EVALUATE
    mend()
    told.append(call())
    return told


if __name__ == "__main__":
    answers = {
        "full": three_calls(fill, lambda: (DISK / "filler").unlink()),
        "read-only": three_calls(protect, lambda: execute("umount", "--lazy", str(FOLDER))),
    }
    print(json.dumps(answers))
