"""Fake and packed execution from end to end, and the script that counts their agreement."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.agreement import main
from made_experiments import option, small_config

from dllmquant_exp.config.experiment import resolve
from dllmquant_exp.run.job import run
from dllmquant_exp.store.results import SCHEMA_VERSION, write_result

Count = Callable[[], tuple[int, str]]


@pytest.fixture
def count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Count:
    """Exit status and output of the script, on the sweep `s` in `tmp_path`."""

    def call() -> tuple[int, str]:
        return main([str(tmp_path / "s")]), capsys.readouterr().out

    return call


@pytest.mark.parametrize("method", ["quarot", "awq"])
def test_both_executions_give_the_same_answers(
    method: str, checkpoint: Path, tmp_path: Path, count: Count
) -> None:
    config = small_config(checkpoint, tmp_path, ("micro_piqa", "micro_gsm8k"))
    decoding = {**config["decoding"], "gen_length": 16, "block_length": 16, "steps": 8}
    for execution in ("fake", "packed"):
        changes = {"method": option("method", method), "execution": execution}
        run(resolve({**config, "decoding": decoding, **changes}), keep_going=False)
    status, out = count()
    assert status == 0
    assert out.strip() == "alike: answer 6, score 6, log_likelihoods 6, response 6 of 6"


def write(folder: Path, execution: str, answers: list[int], **config: Any) -> None:
    items = [
        {"subtask": "", "doc_id": n, "doc_hash": "h", "answer": str(answer), "score": 0.0,
         "log_likelihoods": None, "response": None}
        for n, answer in enumerate(answers)
    ]  # fmt: skip
    write_result(
        folder / f"{execution}-{len(config)}",
        {"schema_version": SCHEMA_VERSION, "status": "finished",
         "cell": {"name": "a cell", "method": "rtn", "model": "m", "task": "t", "seed": 0},
         "config": {**config, "execution": execution}, "items": items},
    )  # fmt: skip


def test_answers_that_differ_are_counted(tmp_path: Path, count: Count) -> None:
    folder = tmp_path / "s"
    write(folder, "fake", [0] * 400)
    assert count()[0] == 2  # nothing to compare it with
    write(folder, "packed", [1] * 2 + [0] * 398)
    write(folder, "packed", [1] * 400, seed=1)  # of another cell, which fake lacks
    status, out = count()
    assert status == 0 and out.splitlines()[0].startswith("a cell answer 398 score 400")
    write(folder, "packed", [1] * 3 + [0] * 397)
    assert count()[0] == 1
    write(folder, "packed", [0] * 399)
    with pytest.raises(ValueError, match="a cell: the two executions answered other items"):
        count()
    assert json.loads((folder / "fake-0" / "result.json").read_text())["items"]


def test_items_that_differ_between_sweeps_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sweep, answers in (("one", [0, 1, 2]), ("two", [0, 1, 2]), ("three", [0, 5, 5])):
        write(tmp_path / sweep, "fake", answers, batch_size=len(sweep))
    sweeps = [str(tmp_path / sweep) for sweep in ("one", "two", "three")]
    assert main(["between", *sweeps]) == 0
    head, _, two, three = capsys.readouterr().out.splitlines()
    assert head == "| one | rtn |"
    assert two == "| two | 0 answer, 0 score, 0 log_likelihoods, 0 response of 3 |"
    assert three == "| three | 2 answer, 0 score, 0 log_likelihoods, 0 response of 3 |"
