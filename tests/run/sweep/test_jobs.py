"""The jobs that a sweep submits, and their ends, from the command line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins

from dllmquant_exp.__main__ import main

Call = Callable[..., tuple[int, str, str]]
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
) -> Call:
    """call(words...): exit status, output and error stream of a sweep in an empty folder."""
    monkeypatch.chdir(tmp_path)
    fixed = (
        "task=micro_piqa", f"model.checkpoint={checkpoint}", "limit=4", "batch_size=2",
        "decoding.mc_num=2", "tracking=off", "threads=1",
    )  # fmt: skip

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["-m", *fixed, *words])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def forbid_launching(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("a worker was killed")

    monkeypatch.setattr(Plugins.instance().class_name_to_class[BASIC], "launch", refuse)


def times(folder: Path) -> dict[Path, int]:
    """When each file was written last."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_left_is_submitted(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("method=fp")[0] == 0
    status, out, err = call("method=fp,rtn")
    assert status == 0
    assert "cells that are finished already: 1; 1 job to do" in err
    assert "job 1 of 1: micro_llada, rtn w4a4, seed 0: 1 task" in err
    files = times(tmp_path / "runs")
    forbid_launching(monkeypatch)  # nothing is launched where nothing is left
    again = call("method=fp,rtn")
    assert again[:2] == (0, out)
    assert "cells that are finished already: 2; 0 jobs to do" in again[2]
    assert times(tmp_path / "runs") == files


def test_a_job_whose_cells_are_finished_still_saves(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("method=rtn", "seed=0,1")
    assert call(*quick)[0] == 0
    save = "save=kept/${method.name}-${seed}"
    status, _, err = call(*quick, save, "shards=2")
    assert status == 0, err
    assert "cells that are finished already: 2; 2 jobs to do" in err
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == ["rtn-0", "rtn-1"]
    with monkeypatch.context() as patch:
        forbid_launching(patch)
        assert "0 jobs to do" in call(*quick, save)[2]
        assert "0 jobs to do" in call(*quick, save, "shards=2")[2]
    (tmp_path / "kept" / "rtn-1" / "model.safetensors").write_bytes(b"garbage")
    status, _, err = call(*quick, save)
    assert status == 2
    assert "model.safetensors" in err and "the same command makes it again" in err
    shutil.rmtree(tmp_path / "kept" / "rtn-1")
    assert "1 job to do" in call(*quick, save)[2]
    assert (tmp_path / "kept" / "rtn-1" / "config.json").exists()


def test_two_models_are_not_saved_in_one_folder(call: Call, tmp_path: Path) -> None:
    status, _, err = call("method=rtn", "seed=0,1", "save=kept")
    assert status == 2
    assert "kept is one folder, and this sweep makes 2 models; name folders by" in err
    assert list(tmp_path.iterdir()) == []
    status, _, err = call("method=rtn", "execution=fake,packed", "save=kept")  # of one model
    assert status == 0, err
    assert (tmp_path / "kept" / "config.json").exists()


def test_a_sharded_sweep_is_the_unsharded_one(call: Call, tmp_path: Path) -> None:
    status, table, _ = call("method=rtn", "runs_dir=whole")
    assert status == 0
    assert call("method=rtn", "shards=3", "runs_dir=split")[:2] == (0, table)
    values = []
    for folder in ("whole", "split"):
        (path,) = (tmp_path / folder).rglob("result.json")
        values.append({**json.loads(path.read_text()), "timing": None, "name": path.parent.name})
    assert values[0] == values[1]


def test_jobs_that_a_launcher_lost_are_missed(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        forbid_launching(patch)
        status, _, err = call("method=fp,rtn", "seed=0")
    assert status == 1
    assert "RuntimeError: a worker was killed" in err
    for number, method in enumerate(("fp", "rtn")):
        assert f"error: job {number} (" in err and f"method={method}" in err
        assert f"unfinished: micro_llada-{method}-micro_piqa-s0-" in err
    assert call("method=fp,rtn", "seed=0")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launcher=slurm", "launcher.cpus_per_task=0"], "cpus_per_task = 0 must be at least 1"),
        (["launcher=slurm"], "this machine has no sbatch and no srun and no sacct"),
        (["launcher=submitit_local", "launcher.requeues=9"], "starts a job 6 times"),
        (["launcher=submitit_local", "launcher.processes=0"], "processes = 0 must be at least"),
        (
            ["launcher=joblib", "launcher.process=2"],
            "launcher.process is not a setting (did you mean 'processes'?)",
        ),
        (["launcher=nowhere"], "Available options in 'launcher':"),
        (["shards=0"], "shards = 0 must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_launchers_refuse_bad_settings_before_anything_is_written(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, err = call("method=fp", *words)
    assert status in (1, 2)
    assert message in err and "Traceback" not in out + err
    assert not [path for path in tmp_path.glob("runs/*/*") if path.name != ".hydra"]
