"""kill -9 at random moments over a sweep: what a resumed one ends with is what an undisturbed one
ends with.

    python tests/faults/kill_sweep.py --kills 100 --seed 0        (half an hour of one core)

A sweep of two rows and three tasks on a tiny model is run undisturbed once. Then the same command
is started, killed at a random moment and started again, until it ends by itself; what it leaves is
compared file by file, and it begins anew with an empty folder, until there were enough kills.

Half of the moments are uniform over the time that an undisturbed call takes, start-up included. The
other half are uniform over the changes that such a call makes to its files, which come in bursts
of milliseconds: temporary files, renames, appended answers.

Compared are the names of all files and folders, every file's bytes, and the printed table; of
result files everything but `timing`. `.hydra` is left out: Hydra's notes about a call.
"""

import argparse
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from dllmquant_exp.reporting.commands import print_report
from dllmquant_exp.reporting.frame import read_sweep
from dllmquant_exp.reporting.reports import sweep_report

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS, TASKS = ("awq", "quarot"), ("micro_piqa", "micro_winogrande", "micro_gsm8k")
SETTINGS = (
    "+tmas=on", "tmas.samples=16", "tmas.gen_length=8", "tmas.steps=8", "model.outliers=null",
    "limit=6", "batch_size=1", "threads=1", "tracking=off", "decoding=smoke",
)  # fmt: skip
LONGEST = 1800  # seconds for one call
POLL = 0.01  # seconds between two looks at the files

Contents = dict[str, Any]


@dataclass
class Summary:
    """What became of a number of kills; the last four must be empty."""

    kills: int = 0
    in_startup: int = 0  # before the call had changed any file
    while_writing: int = 0  # that left a file which was not whole
    finished_sweeps: int = 0
    calls: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return sum(map(len, (self.lost, self.duplicated, self.differing, self.left_over)))


def make_checkpoint(folder: Path) -> Path:
    """A random LLaDA of two layers with the micro-world's tokenizer."""
    words = ["random-checkpoint", "architecture=llada", f"folder={folder}", "d_model=32"]
    subprocess.run(command(words), cwd=REPOSITORY, env=environment(), check=True, timeout=LONGEST)
    return folder


def command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "dllmquant_exp", *words]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def sweep_words(checkpoint: Path, runs: Path) -> list[str]:
    axes = (f"method={','.join(ROWS)}", f"task={','.join(TASKS)}")
    return ["-m", *axes, *SETTINGS, f"model.checkpoint={checkpoint}", f"runs_dir={runs}"]


def start(words: Sequence[str], output: Path) -> "subprocess.Popen[bytes]":
    """A call in a process group of its own, its output in a file."""
    with output.open("wb") as file:
        return subprocess.Popen(
            command(words), cwd=REPOSITORY, env=environment(), stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def follow(
    process: "subprocess.Popen[bytes]", runs: Path, stop: Callable[[float, int], bool]
) -> tuple[bool, int]:
    """Wait for the end of a call, or kill it as soon as `stop(seconds, changes)`.

    Returns:
        Whether it was killed, and how many times its files were seen to have changed.
    """
    begin, changes, before = time.monotonic(), 0, listing(runs)
    while process.poll() is None:
        now = listing(runs)
        changes += now != before
        before = now
        seconds = time.monotonic() - begin
        if stop(seconds, changes):
            process.send_signal(signal.SIGKILL)
            break
        if seconds > LONGEST:
            kill_group(process)
            raise TimeoutError(f"a call did not end within {LONGEST} s")
        time.sleep(POLL)
    killed = process.wait() == -signal.SIGKILL
    kill_group(process)  # the programs of a HumanEval task that it had started
    return killed, changes


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def listing(folder: Path) -> dict[str, int]:
    """Size of every file and folder below; those that vanish meanwhile are left out."""
    found: dict[str, int] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            try:
                found[path] = os.stat(path).st_size if name in files else 0
            except OSError:
                continue
    return found


def contents(runs: Path) -> Contents:
    """What is compared, by path."""
    found: Contents = {}
    for path in sorted(runs.rglob("*")):
        name = path.relative_to(runs).as_posix()
        if ".hydra" in path.relative_to(runs).parts:
            continue
        if path.is_dir():
            found[name + "/"] = None
        elif path.name == "result.json":
            found[name] = untimed(json.loads(path.read_text()))
        elif path.name.startswith("requests"):
            found[name] = SECONDS.sub(b"", path.read_bytes())
        else:
            found[name] = path.read_bytes()
    return found


# What answers took, and the digest over it: not the same twice.
SECONDS = re.compile(rb'"seconds": [0-9.e-]+, |, "sha256": "[0-9a-f]+"')


def untimed(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "timing"}


def table(runs: Path) -> str:
    """What `report` prints."""
    cells, problems = read_sweep(runs, "default")
    printed = io.StringIO()
    print_report(sweep_report(cells, problems), Console(file=printed, width=200))
    return printed.getvalue()


def judge(found: Contents, expected: Contents, summary: Summary, where: str) -> None:
    """Count what a finished sweep lacks, has twice, has otherwise, or has left behind."""
    for name in expected:
        if name not in found:
            summary.lost.append(f"{where}: {name}")
        elif found[name] != expected[name]:
            summary.differing.append(f"{where}: {name}")
    for name in found.keys() - expected.keys():
        is_cell = name.endswith("result.json")
        (summary.duplicated if is_cell else summary.left_over).append(f"{where}: {name}")
    for name, lines in found.items():
        if name.endswith("requests.jsonl") and len(set(keys(lines))) < len(keys(lines)):
            summary.duplicated.append(f"{where}: answers in {name}")


def keys(lines: bytes) -> list[str]:
    """Of all answers in a file of answers."""
    entries = map(json.loads, lines.splitlines())
    return [entry["key"] for entry in entries if "key" in entry]


@dataclass(frozen=True)
class Undisturbed:
    """What one call without kills leaves behind, and takes."""

    contents: Contents
    table: str
    seconds: float
    changes: int


def undisturbed(checkpoint: Path, folder: Path) -> Undisturbed:
    runs = fresh(folder / "undisturbed")
    begin = time.monotonic()
    process = start(sweep_words(checkpoint, runs), folder / "undisturbed.txt")
    _, changes = follow(process, runs, lambda *_: False)
    seconds = time.monotonic() - begin
    check_end(process, folder / "undisturbed.txt")
    found = contents(runs)
    results = [name for name in found if name.endswith("/result.json")]
    assert len(results) == len(ROWS) * len(TASKS), results
    assert all(found[name]["status"] == "finished" for name in results)
    return Undisturbed(found, table(runs), seconds, changes)


def check_end(process: "subprocess.Popen[bytes]", output: Path) -> None:
    if process.returncode != 0:
        raise RuntimeError(f"a call ended with {process.returncode}:\n{output.read_text()}")


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def kill_many(
    checkpoint: Path, folder: Path, kills: int, seed: int, record: Callable[[str], None]
) -> Summary:
    """Kill `kills` calls, and judge every sweep that was resumed to its end.

    Args:
        folder: for the runs and the output of the calls.
        record: gets a line of JSON for every call.
    """
    reference = undisturbed(checkpoint, folder)
    record(json.dumps({"undisturbed": reference.seconds, "changes": reference.changes}))
    dice, summary, runs, since = random.Random(seed), Summary(), fresh(folder / "runs"), 0
    words, output = sweep_words(checkpoint, runs), folder / "call.txt"
    while summary.kills < kills or since:
        stop, moment = draw(dice, reference) if summary.kills < kills else (never, {})
        begin = time.monotonic()
        process = start(words, output)
        killed, changes = follow(process, runs, stop)
        summary.calls += 1
        entry = moment | {"killed": killed, "seconds": round(time.monotonic() - begin, 2)}
        if killed:
            since += 1
            summary.kills += 1
            summary.in_startup += changes == 0
            partial = sum(".partial-" in name for name in listing(runs))
            summary.while_writing += partial > 0
            record(json.dumps(entry | {"changes": changes, "partial_files": partial}))
            continue
        record(json.dumps(entry | {"changes": changes, "kills_before": since}))
        check_end(process, output)
        judge(contents(runs), reference.contents, summary, f"sweep {summary.finished_sweeps}")
        if table(runs) != reference.table:
            summary.differing.append(f"sweep {summary.finished_sweeps}: the table")
        summary.finished_sweeps += 1
        since = 0
        fresh(runs)
    return summary


def never(seconds: float, changes: int) -> bool:
    return False


def draw(
    dice: random.Random, reference: Undisturbed
) -> tuple[Callable[[float, int], bool], dict[str, Any]]:
    """A random moment, as a condition and as a record."""
    if dice.random() < 0.5:
        at = dice.uniform(0, reference.seconds)
        return (lambda seconds, _: seconds >= at), {"at_seconds": round(at, 3)}
    number = dice.randint(1, reference.changes)
    return (lambda _, changes: changes >= number), {"at_change": number}


def run_twice_at_once(checkpoint: Path, folder: Path) -> tuple[Summary, int]:
    """Two equal sweeps on one folder at the same time, both to their end.

    Returns:
        How the results compare with an undisturbed sweep's (results and table only: what is kept
        for resuming may hold an answer twice), and how many cells were computed by both.
    """
    reference = undisturbed(checkpoint, folder)
    runs, summary = fresh(folder / "runs"), Summary(calls=2)
    outputs = [folder / "first.txt", folder / "second.txt"]
    processes = [start(sweep_words(checkpoint, runs), output) for output in outputs]
    for process, output in zip(processes, outputs, strict=True):
        follow(process, runs, never)
        check_end(process, output)
    results = [
        {name: value for name, value in found.items() if not name.endswith("requests.jsonl")}
        for found in (contents(runs), reference.contents)
    ]
    judge(*results, summary, "both")
    if table(runs) != reference.table:
        summary.differing.append("both: the table")
    summary.finished_sweeps = 1
    return summary, sum(map(computed_cells, outputs)) - len(ROWS) * len(TASKS)


def computed_cells(output: Path) -> int:
    """Cells that a call computed, and did not find finished, by what it says of each."""
    line = re.compile(rf"^  ({'|'.join(TASKS)}): [\d.]+% \[", re.MULTILINE)
    return len(line.findall(output.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept afterwards; default: a temporary one")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kill_sweep-"))
    fresh(folder)
    checkpoint = make_checkpoint(folder / "checkpoint")
    with (folder / "kills.jsonl").open("w") as log:

        def record(line: str) -> None:
            print(line, file=log, flush=True)

        summary = kill_many(checkpoint, folder, given.kills, given.seed, record)
    for name, value in asdict(summary).items():
        print(f"{name}: {value if isinstance(value, int) else f'{len(value)} {value[:5]}'}")
    if given.folder is None and not summary.faults:
        shutil.rmtree(folder)
    else:
        print(f"moments and runs: {folder}")
    return 1 if summary.faults else 0


if __name__ == "__main__":
    sys.exit(main())
