"""Disks that are full or read-only, and files that are damaged: nothing finished is lost.

The short version of this suite is all of it but the longer draws of flipped bits:

    DLLMQUANT_LONG_TESTS=1 python -m pytest tests/faults/test_storage_faults.py

Checkpoints and data files that are damaged are in bad_input.yaml, damaged blocks of rounded weights
in tests/store/test_hashed_tensors.py, kills in test_kill_sweep.py.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dllmquant_exp.__main__ import main
from dllmquant_exp.calibration.states import CalibrationSet, CalibrationState
from dllmquant_exp.calibration.storage import cached
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import ResultError, finished_result, load_json

LONG = os.environ.get("DLLMQUANT_LONG_TESTS") == "1"
FLIPS = 3000 if LONG else 300
REPOSITORY = Path(__file__).resolve().parents[2]
ON_A_DISK_OF_ITS_OWN = Path(__file__).with_name("on_a_small_disk.py")
Sweep = Callable[..., tuple[int, str, str]]


def words(checkpoint: Path, *more: str) -> list[str]:
    return [
        f"model.checkpoint={checkpoint}", "method=fp", "task=micro_piqa", "limit=2",
        "decoding.mc_num=1", "tracking=off", "threads=1", *more,
    ]  # fmt: skip


@pytest.fixture
def sweep(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Sweep:
    """sweep(seeds, model): status, table and errors of a sweep in this process."""
    monkeypatch.chdir(tmp_path)

    def run(seeds: str = "0,1", model: Path = checkpoint) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["-m", *words(model, f"seed={seeds}")])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def contents(folder: Path) -> dict[str, Any]:
    """What every result file under a folder says, but for times."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("result.json")}
    return {name: {**value, "timing": None} for name, value in found.items()}


def flipped(data: bytes, dice: random.Random) -> bytes:
    position, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
    return data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]


def test_damaged_results_are_named_and_made_again(sweep: Sweep, tmp_path: Path) -> None:
    """Truncated, empty, flipped, and with the clock a day back in between."""
    status, table, err = sweep()
    assert status == 0, err
    before, runs = contents(tmp_path), tmp_path / "runs" / "default"
    first, second = sorted(runs.glob("*/result.json"))
    whole = first.read_bytes()
    dice = random.Random(0)
    for damaged in (whole[: len(whole) // 2], b"", whole.replace(b'"score": 1', b'"score": 0')):
        if damaged == whole:  # no item was right
            damaged = whole.replace(b'"score": 0', b'"score": 1')
        first.write_bytes(damaged)
        assert main(["report"]) == 1, "the table says that a file is not readable"
        untouched = second.stat().st_mtime_ns
        status, again, err = sweep()
        assert (status, again) == (0, table)
        assert f"{first.relative_to(tmp_path)}: " in err and "the cell runs again" in err
        assert contents(tmp_path) == before
        assert second.stat().st_mtime_ns == untouched
    assert finished_result(first.parent, load_json(first)["config_hash"]) is not None
    for _ in range(FLIPS):
        first.write_bytes(flipped(whole, dice))
        try:
            found = load_json(first)
        except ResultError:
            continue
        expected = {**before[first.parent.name], "content_digest": None}
        digest = [key for key in found if key not in expected]  # its own name may be hit
        assert {**expected, **found, "timing": None, "content_digest": None} == (
            expected | {key: found[key] for key in digest}
        )


def test_a_clock_that_goes_back_changes_nothing(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table, _ = sweep()
    before = contents(tmp_path)
    gone = sorted(tmp_path.glob("runs/default/*/result.json"))[0]
    gone.unlink()
    monkeypatch.setattr(provenance, "now", lambda: "1999-12-31T23:59:59.000+00:00")
    monkeypatch.setattr("time.time", lambda: 946684799.0)
    status, again, err = sweep()
    assert (status, again) == (0, table), err
    assert contents(tmp_path) == before
    assert "1999" in gone.read_text() and "cells that are finished already: 1;" in err
    seconds = json.loads(gone.read_text())["timing"]["wall_seconds"]
    assert all(value >= 0 for value in seconds.values())


def test_a_flipped_bit_in_a_checkpoint_is_no_skipped_cell(
    sweep: Sweep, tmp_path: Path, checkpoint: Path
) -> None:
    """Weights carry no digest of their own; results do, so the old ones are not taken for new."""
    mine = shutil.copytree(checkpoint, tmp_path / "mine")
    assert sweep("0", mine)[0] == 0
    (before,) = contents(tmp_path).values()
    data = bytearray((mine / "model.safetensors").read_bytes())
    data[-6] ^= 1  # in the mantissa of the last weight but one
    (mine / "model.safetensors").write_bytes(data)
    status, _, err = sweep("0", mine)
    assert status == 0 and "the checkpoint has changed since, so it runs again" in err
    (after,) = contents(tmp_path).values()
    assert after["checkpoint_digest"] != before["checkpoint_digest"]


def test_damaged_calibration_sets_are_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = torch.arange(5)
    state = CalibrationState(numbers, numbers > 2, 1, numbers / 7, numbers / 9, 0, 1, 0.5)
    made = CalibrationSet("tiny", (state,), {"states": 1, "mean": 0.25})
    calls: list[int] = []

    def make() -> CalibrationSet:
        calls.append(1)
        return made

    key = {"name": "tiny"}
    cached(tmp_path, key, make)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    dice = random.Random(0)
    noticed = 0
    for damaged in (whole[:-3], b"", b"{", *(flipped(whole, dice) for _ in range(2 * FLIPS // 5))):
        path.write_bytes(damaged)
        calls.clear()
        caplog.clear()
        found = cached(tmp_path, key, make)
        assert (found.digest, found.name, found.report) == (made.digest, made.name, made.report)
        assert bool(calls) == ("it is made again" in caplog.text)
        noticed += len(calls)
        assert path.read_bytes() == whole
        assert list(tmp_path.glob("*tiny-*.safetensors")) == [path]
    assert noticed == 3 + 2 * FLIPS // 5


def may_mount() -> bool:
    command = ["unshare", *private_mounts(), "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


def private_mounts() -> list[str]:
    return ["--mount"] if os.getuid() == 0 else ["--mount", "--map-root-user"]


@pytest.mark.skipif(
    not may_mount(), reason="NOT TESTED: no full and read-only disks, for lack of mount namespaces"
)
def test_full_and_read_only_disks(checkpoint: Path, sweep: Sweep, tmp_path: Path) -> None:
    """On a disk of its own, which fills up or turns read-only while a sweep runs."""
    status, table, _ = sweep("0,1,2")
    assert status == 0
    disk = tmp_path / "disk"
    disk.mkdir()
    line = ["-m", *words(checkpoint, "seed=0,1,2", f"runs_dir={disk}/folder/runs")]
    done = subprocess.run(
        ["unshare", *private_mounts(), sys.executable, str(ON_A_DISK_OF_ITS_OWN), str(disk), *line],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    advice = "the same command then goes on, and what is finished stays"
    for fault, reason in (("full", "No space left on device"), ("read-only", "Read-only file")):
        refused, broken, resumed = told[fault]
        assert refused["status"] == 2 and refused["finished"] == 0
        assert reason in refused["err"] and "set runs_dir" in refused["err"]
        assert broken["status"] == 1 and broken["finished"] == 1
        assert reason in broken["err"] and advice in broken["err"]
        assert "Traceback" not in refused["err"] + broken["err"] + resumed["err"]
        assert resumed["status"] == 0 and resumed["out"] == table
        assert "cells that are finished already: 1;" in resumed["err"]
        assert resumed["digests"] == {
            name: value["content_digest"] for name, value in contents(tmp_path / "runs").items()
        }
