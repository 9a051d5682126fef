"""The short version of kill_sweep.py: three kills, and two sweeps at once."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "kill_sweep", Path(__file__).with_name("kill_sweep.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill_sweep"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


kill_sweep = load()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = kill_sweep.make_checkpoint(tmp_path_factory.mktemp("c") / "llada")
    return folder


def test_a_sweep_killed_and_resumed_ends_like_an_undisturbed_one(
    checkpoint: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    summary = kill_sweep.kill_many(checkpoint, tmp_path, kills=3, seed=1, record=lines.append)
    assert summary.kills == 3 and summary.finished_sweeps >= 1
    assert summary.faults == 0, summary
    assert sum(json.loads(line).get("killed", False) for line in lines) == 3


def test_two_sweeps_at_once_end_like_one(checkpoint: Path, tmp_path: Path) -> None:
    summary, repeated = kill_sweep.run_twice_at_once(checkpoint, tmp_path)
    assert summary.faults == 0, summary
    assert repeated == 0, "locks let each cell be computed once"


def test_the_judge_sees_what_is_lost_doubled_changed_and_left_over() -> None:
    expected = {"a/result.json": {"score": 1}, "b/result.json": {"score": 2}, "x": b"1"}
    found = {
        "a/result.json": {"score": 3},
        "c/result.json": {"score": 2},
        ".x.partial": b"",
        "x": b"1",
        "a/requests.jsonl": b'{"key": "k", "answer": 1}\n{"key": "k", "answer": 1}\n',
    }
    summary = kill_sweep.Summary()
    kill_sweep.judge(found, expected, summary, "s")
    assert summary.lost == ["s: b/result.json"]
    assert summary.differing == ["s: a/result.json"]
    assert sorted(summary.duplicated) == ["s: answers in a/requests.jsonl", "s: c/result.json"]
    assert sorted(summary.left_over) == ["s: .x.partial", "s: a/requests.jsonl"]
