"""A sweep on a real Slurm whose jobs are killed, time out and fail, and whose driver is killed.

Needs a Slurm. DLLMQUANT_SLURM_UP names a script that brings one up on this machine (and may be
called again); without it, or where it fails, nothing here runs, and the end of the test run says
so. It takes minutes, most of them waiting for a time limit.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from dllmquant_exp.config.experiment import resolve, to_mapping
from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.models.checkpoints import random_checkpoint
from dllmquant_exp.run.job import LOCK_FILE
from dllmquant_exp.store.locks import locked
from dllmquant_exp.store.results import load_json

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = float(os.environ.get("DLLMQUANT_FAULTS_SECONDS", "600"))
# A job is told of its limit 50 s before, or up to 30 s earlier: 40 to 70 s after it started.
ON_SLURM = (
    "launcher=slurm", "launcher.cpus_per_task=1", "launcher.timeout_min=2",
    "launcher.signal_delay_s=50",
)  # fmt: skip


@pytest.fixture(scope="module")
def slurm() -> None:
    script = os.environ.get("DLLMQUANT_SLURM_UP")
    if not script:
        pytest.skip("DLLMQUANT_SLURM_UP names no script that brings up a Slurm")
    done = subprocess.run([script], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{script} could not bring Slurm up: {done.stdout}{done.stderr}")


def until(what: str, found: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.2)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dllmquant_exp", *words]


def slurm_says(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_one_command_finishes_what_kills_and_time_outs_left(slurm: None, tmp_path: Path) -> None:
    checkpoint = random_checkpoint("llada", tmp_path / "checkpoint", d_model=32)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    # Two seeds of the checkpoint can be finished; the other ones fail for good, in their jobs.
    shared = [
        "row=fp", "task=micro_piqa", "limit=2", "decoding.mc_num=2", "tracking=off", "threads=1",
    ]  # fmt: skip
    paths = f"model.checkpoint={checkpoint},{tmp_path / 'nowhere'}"
    sweep = ["-m", paths, "seed=0,1", *shared]
    words = [f"model.checkpoint={checkpoint}", *shared]
    first, second = cells(words, tmp_path / "slurm", "0"), cells(words, tmp_path / "slurm", "1")

    driver = subprocess.Popen(
        command(*sweep, "runs_dir=slurm", *ON_SLURM), cwd=tmp_path, env=environment,
        stdout=subprocess.DEVNULL, stderr=(tmp_path / "driver.log").open("w"),
    )  # fmt: skip
    with ExitStack() as held:  # both jobs run for as long as these are held
        held.enter_context(locked(first / LOCK_FILE))
        held_second = held.enter_context(ExitStack())
        held_second.enter_context(locked(second / LOCK_FILE))
        logs = tmp_path / "slurm" / "default" / ".hydra"
        until("two jobs run", lambda: len(waiting(logs)) == 2)
        array = waiting(logs)[0].name.partition("_")[0]

        driver.send_signal(signal.SIGKILL)
        driver.wait()
        # scancel reports an error where a job is gone before it looks again; what counts is below.
        subprocess.run(["scancel", "--signal=KILL", f"{array}_0"])
        until("a job is told of its limit", lambda: "Restarts=1" in job(f"{array}_1"))
        held_second.close()
        # Slurm lets a job that was queued again wait for two minutes.
        slurm_says("scontrol", "update", f"JobId={array}_1", "StartTime=now")
        until("it goes on by itself", (second / "result.json").exists)
        until("the array ends", lambda: array not in slurm_says("squeue", "-h", "-r", "-o", "%i"))
        assert not (first / "result.json").exists(), "this one was killed"

    stamp = (second / "result.json").stat().st_mtime_ns
    again = subprocess.run(
        command(*sweep, "runs_dir=slurm", *ON_SLURM),
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    local = subprocess.run(
        command(*sweep, "runs_dir=local"),
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert again.stdout == local.stdout, again.stderr + local.stderr
    assert "failed" in again.stdout and (again.returncode, local.returncode) == (1, 1)
    assert "cells that are finished already: 1; 3 jobs to do" in again.stderr
    assert (second / "result.json").stat().st_mtime_ns == stamp
    for seed, folder in (("0", first), ("1", second)):
        theirs = load_json(cells(words, tmp_path / "local", seed) / "result.json")
        ours = load_json(folder / "result.json")
        assert ours["items"] == theirs["items"] and ours["config"] == theirs["config"]


def cells(words: list[str], runs_dir: Path, seed: str) -> Path:
    """The folder of the one cell."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", [*words, f"seed={seed}", f"runs_dir={runs_dir}"])
    experiment = resolve(to_mapping(config))
    return experiment.cell_folder(experiment.tasks[0])


def waiting(logs: Path) -> list[Path]:
    """Logs of jobs that found their cell locked."""
    found = logs.glob("*/.submitit/*/*_log.err")
    return sorted(path for path in found if "another job is at it" in path.read_text())


def job(name: str) -> str:
    return slurm_says("scontrol", "show", "job", name)
