"""Shards of a cell, and jobs that are at the same cells: on a random checkpoint, in one process."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_experiments import small_config

from dllmquant_exp.config.experiment import Experiment, resolve
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation import harness
from dllmquant_exp.run import job as module
from dllmquant_exp.run.job import LOCK_FILE, Outcome, run
from dllmquant_exp.store.locks import locked
from dllmquant_exp.store.unfinished import unfinished, unfinished_cells

TASKS = ("micro_piqa", "micro_gsm8k")


@pytest.fixture
def make(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """make(key=value, ...): an experiment with a likelihood and a generation task of six items."""
    monkeypatch.setattr(harness, "BATCHES_PER_SAVE", 1)

    def build(**changes: Any) -> Experiment:
        config = small_config(checkpoint, tmp_path / "runs", TASKS)
        config["decoding"] |= {"gen_length": 8, "steps": 4, "block_length": 8}
        return resolve({**config, "limit": 6, "batch_size": 2, **changes})

    return build


def results(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """The result files, without what a repetition may change."""
    values = [json.loads((outcome.folder / "result.json").read_text()) for outcome in outcomes]
    return [{key: value for key, value in v.items() if key != "timing"} for v in values]


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_the_last_shard_merges_what_one_job_would_have_written(make: Any, tmp_path: Path) -> None:
    whole = run(make(runs_dir=str(tmp_path / "whole")), keep_going=True)
    for k in (2, 0):
        shard = make(shards=3, shard=k)
        assert statuses(run(shard, keep_going=True)) == ["partial", "partial"]
    folders = [shard.cell_folder(task) for task in shard.tasks]
    assert [folder.name for folder in folders] == [outcome.folder.name for outcome in whole]
    for folder in folders:
        assert unfinished(folder) == f"{folder.name}: shards 1 of 3 are missing"
    assert unfinished_cells(tmp_path / "runs", "s") == [unfinished(f) for f in sorted(folders)]
    merged = run(make(shards=3, shard=1), keep_going=True)
    assert statuses(merged) == ["finished", "finished"]
    assert results(merged) == results(whole)
    assert unfinished_cells(tmp_path / "runs", "s") == []
    assert statuses(run(make(shards=3, shard=0), keep_going=True)) == ["skipped", "skipped"]
    assert statuses(run(make(), keep_going=True)) == ["skipped", "skipped"], "one and the same cell"


def test_a_failed_shard_is_a_failed_cell_until_it_is_tried_again(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "answer_shard", lambda *_, **__: 1 / 0)
        failed = run(make(shards=2, shard=0), keep_going=True)
    assert statuses(failed) == ["failed", "failed"]
    assert results(failed)[0]["error"]["type"] == "ZeroDivisionError"
    assert statuses(run(make(shards=2, shard=1), keep_going=True)) == ["partial", "partial"]
    assert statuses(run(make(shards=2, shard=0), keep_going=True)) == ["finished", "finished"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": 2}, "add -m"),
        ({"shards": 2, "shard": 2}, "not one of the shards 0 to 1"),
        ({"shard": 1}, "shards = 1"),
        ({"shards": 0}, "must be at least 1"),
    ],
)
def test_shards_that_make_no_sense(make: Any, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(make(**changes), keep_going=False)


def test_a_cell_that_another_job_is_at_comes_last_and_is_not_repeated(
    make: Any, tmp_path: Path
) -> None:
    other = run(make(runs_dir=str(tmp_path / "other")), keep_going=True)
    experiment = make()
    folder = experiment.cell_folder(experiment.tasks[0])
    held, second_done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(folder / LOCK_FILE):
            held.set()
            while not (experiment.cell_folder(experiment.tasks[1]) / "result.json").exists():
                if second_done.wait(0.05):
                    return
            (folder / "result.json").write_bytes((other[0].folder / "result.json").read_bytes())

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        outcomes = run(experiment, keep_going=True)
    finally:
        second_done.set()
        thread.join()
    assert statuses(outcomes) == ["skipped", "finished"]


def test_shards_do_not_change_what_a_cell_is(make: Any) -> None:
    plain = make()
    for changed in (make(shards=8), make(shards=8, shard=3)):
        assert [changed.cell_name(t) for t in changed.tasks] == [
            plain.cell_name(t) for t in plain.tasks
        ]
    assert replace(plain.common, shards=8, shard=3).part == (3, 8)
    assert plain.common.part is None
