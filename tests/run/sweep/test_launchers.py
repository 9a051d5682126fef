"""Sweeps in several processes: the same results, cores divided, and a killed job survived."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dllmquant_exp.__main__ import main
from dllmquant_exp.models.checkpoints import random_checkpoint
from dllmquant_exp.run.job import LOCK_FILE
from dllmquant_exp.store.locks import locked
from dllmquant_exp.store.results import load_json

REPOSITORY = Path(__file__).resolve().parents[3]
Sweep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sweep(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Sweep:
    """sweep(words...): exit status, output and error stream of a sweep of fp and rtn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    checkpoint = random_checkpoint("llada", tmp_path / "checkpoint", d_model=32)

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([
            "-m", "method=fp,rtn", "task=micro_piqa", f"model.checkpoint={checkpoint}", "limit=2",
            "decoding.mc_num=2", "tracking=off", *words,
        ])  # fmt: skip
        out, err = capfd.readouterr()
        return status, out, err

    return run


def threads(runs: Path) -> list[int]:
    """Threads that torch had in each job."""
    return [load_json(p)["hardware"]["threads"] for p in sorted(runs.rglob("result.json"))]


def test_joblib_gives_the_same_table_and_divides_the_cores(sweep: Sweep, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    status, table, err = sweep("launcher=joblib", "launcher.processes=2", "runs_dir=a")
    assert status == 0, err
    assert threads(tmp_path / "a") == [max(1, cores // 2)] * 2
    assert sweep("runs_dir=b")[:2] == (0, table)


def test_submitit_local_survives_a_killed_job(sweep: Sweep, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert sweep("runs_dir=b")[0] == 0
    (name,) = [path.name for path in (tmp_path / "b" / "default").glob("*-rtn-*")]
    killer = threading.Thread(target=kill_the_job_of, args=(tmp_path / "a" / "default" / name,))
    killer.start()
    words = ("launcher=submitit_local", "launcher.processes=2", "runs_dir=a")
    status, _, err = sweep(*words)
    killer.join()
    assert status == 1
    assert "job 1 was lost" in err and f"unfinished: {name}" in err
    assert threads(tmp_path / "a") == [max(1, cores // 2)]
    assert sweep(*words)[:2] == (0, sweep("runs_dir=b")[1])


def kill_the_job_of(cell: Path) -> None:
    """Hold a cell's lock until a job waits for it, and kill that job."""
    with locked(cell / LOCK_FILE):
        end = time.monotonic() + 600
        while time.monotonic() < end:
            for log in cell.parent.glob(".hydra/*/.submitit/*/*_log.err"):
                if "another job is at it" in log.read_text():
                    os.kill(child_of(int(log.parent.name)), signal.SIGKILL)
                    time.sleep(1)  # the lock is not for a job that is about to be killed
                    return
            time.sleep(0.1)


def child_of(process: int) -> int:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == process:
            return int(stat.parent.name)
    raise AssertionError(f"{process} has no child")
