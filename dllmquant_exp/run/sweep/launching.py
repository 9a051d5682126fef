"""Settings of the launchers that go through submitit, and what becomes of the jobs they submit."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.schema import Above, AtLeast

Positive = Annotated[int, AtLeast(1)]
NotNegative = Annotated[int, AtLeast(0)]
SECONDS_BETWEEN_LOOKS = 1.0  # for result files
SECONDS_BETWEEN_CHECKS = 30.0  # with the cluster, for jobs that were lost
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Limits:
    """Limits of both launchers; their options in conf/launcher explain them."""

    timeout_min: Positive
    requeues: NotNegative
    signal_delay_s: Positive
    gpus_per_node: NotNegative

    def __post_init__(self) -> None:
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ValueError(
                f"signal_delay_s = {self.signal_delay_s} is not before the end of timeout_min = "
                f"{self.timeout_min} minutes"
            )


@dataclass(frozen=True)
class LocalSettings(_Limits):
    """See conf/launcher/submitit_local.yaml."""

    processes: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.requeues > 5:
            raise ValueError(f"requeues = {self.requeues}, but submitit starts a job 6 times here")

    def check_machine(self) -> None:
        """Nothing is needed."""

    @property
    def at_a_time(self) -> int:
        """Submissions whose jobs may run side by side."""
        return self.processes

    @property
    def threads(self) -> int:
        """Torch's threads in a job."""
        return max(1, len(os.sched_getaffinity(0)) // self.processes)

    @property
    def parameters(self) -> dict[str, Any]:
        """Options by the names that submitit's LocalExecutor takes."""
        names = ("timeout_min", "gpus_per_node", "signal_delay_s")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class SlurmSettings(_Limits):
    """See conf/launcher/slurm.yaml."""

    cpus_per_task: Positive
    array_parallelism: Positive
    mem_gb: Annotated[float, Above(0)] | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    at_a_time = 1  # the array

    def check_machine(self) -> None:
        """Raise ConfigError where no jobs can be submitted from."""
        missing = [name for name in ("sbatch", "srun", "sacct") if shutil.which(name) is None]
        if missing:
            raise ConfigError(
                f"launcher=slurm submits jobs with Slurm's own commands, and this machine has no "
                f"{' and no '.join(missing)}; call it on a login node, or use "
                "launcher=submitit_local, which needs no server"
            )

    @property
    def threads(self) -> int:
        """Torch's threads in a job."""
        return min(len(os.sched_getaffinity(0)), self.cpus_per_task)

    @property
    def parameters(self) -> dict[str, Any]:
        """Options of sbatch, by the names that submitit's SlurmExecutor takes."""
        names = {"timeout_min": "time", "mem_gb": "mem", "extra": "additional_parameters"}
        values = {**asdict(self), "job_name": "dllmquant", "setup": list(self.setup)}
        values["mem_gb"] = self.mem_gb and f"{round(1024 * self.mem_gb)}MB"
        del values["requeues"]
        return {names.get(name, name): value for name, value in values.items() if value}


def wait_for(
    calls: Sequence[Callable[[], Sequence[Any]]], at_a_time: int, numbers: Sequence[int]
) -> Iterator[Any]:
    """Submit jobs, so many at a time, and give the results of those that had one, as they end.

    Args:
        calls: each submits jobs and returns them (submitit's).
        at_a_time: calls whose jobs are submitted and not over.
        numbers: of the jobs, in order, for messages about lost ones.
    """
    names, waiting, running = iter(numbers), list(calls), dict[Any, int]()
    checked = time.monotonic()
    while waiting or running:
        while waiting and len(running) < at_a_time:
            for job in waiting.pop(0)():
                running[job] = next(names)
        force = bool(running) and time.monotonic() - checked > SECONDS_BETWEEN_CHECKS
        if force:
            checked = time.monotonic()
        for job, number in list(running.items()):
            over = job.done(force_check=force)
            force = False  # one question to the cluster is about all of its jobs
            if over:
                del running[job]
                yield from _result(job, number)
        time.sleep(SECONDS_BETWEEN_LOOKS if running else 0)


def _result(job: Any, number: int) -> Iterator[Any]:
    try:
        yield job.results()[0]
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        logger.error(
            "job %d was lost (%s: %s; %s). Its log: %s",
            number, type(error).__name__, first, job.state, job.paths.stderr,
        )  # fmt: skip
