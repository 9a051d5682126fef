"""Waiting for submitted jobs: so many at a time, each of them, whatever becomes of the others."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run.sweep import launching
from dllmquant_exp.run.sweep.launching import SlurmSettings, wait_for
from dllmquant_exp.store.schema import read

SLURM = {
    "timeout_min": 60, "cpus_per_task": 4, "gpus_per_node": 0, "array_parallelism": 8,
    "requeues": 3, "signal_delay_s": 90,
}  # fmt: skip


@dataclass(eq=False)
class Fake:
    """A job that is over after some looks, and was lost where it has no result."""

    looks: int
    result: str | None
    running: set["Fake"]
    most: list[int]
    state: str = "FAILED"
    paths: Any = field(default_factory=lambda: SimpleNamespace(stderr=Path("its.log")))

    def submit(self) -> list["Fake"]:
        self.running.add(self)
        self.most.append(len(self.running))
        return [self]

    def done(self, force_check: bool) -> bool:
        self.looks -= 1
        if self.looks <= 0:
            self.running.discard(self)
        return self.looks <= 0

    def results(self) -> list[str]:
        if self.result is None:
            raise RuntimeError("no output\nand a long log")
        return [self.result]


@pytest.mark.parametrize("at_a_time", [1, 2, 5])
def test_every_job_is_waited_for_and_no_more_run_than_may(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at_a_time: int
) -> None:
    monkeypatch.setattr(launching, "SECONDS_BETWEEN_LOOKS", 0)
    running: set[Fake] = set()
    most: list[int] = []
    looks = [5, 1, 3, 2]
    results = ["a", None, "c", "d"]
    jobs = [Fake(n, r, running, most) for n, r in zip(looks, results, strict=True)]
    with caplog.at_level(logging.ERROR):
        found = list(wait_for([job.submit for job in jobs], at_a_time, range(10, 14)))
    assert sorted(found) == ["a", "c", "d"]
    assert max(most) == min(at_a_time, 4)
    assert "job 11 was lost (RuntimeError: no output; FAILED). Its log: its.log" in caplog.text
    assert caplog.text.count("was lost") == 1


def test_settings_become_sbatch_options_and_what_is_null_is_left_out() -> None:
    plain = read(SlurmSettings, SLURM, "launcher").parameters
    assert plain == {
        "job_name": "dllmquant", "time": 60, "cpus_per_task": 4, "array_parallelism": 8,
        "signal_delay_s": 90,
    }  # fmt: skip
    more = {**SLURM, "mem_gb": 1.5, "gpus_per_node": 2, "partition": "gpu", "extra": {"nice": 10}}
    assert read(SlurmSettings, more, "launcher").parameters == {
        **plain, "mem": "1536MB", "gpus_per_node": 2, "partition": "gpu",
        "additional_parameters": {"nice": 10},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signal_delay_s": 3600}, "is not before the end of timeout_min = 60"),
        ({"requeues": -1}, "requeues = -1 must be at least 0"),
        ({"mem_gb": 0.0}, "mem_gb = 0.0 must be above 0"),
        ({"partiton": "gpu"}, "did you mean 'partition'"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(SlurmSettings, {**SLURM, **changes}, "launcher")
