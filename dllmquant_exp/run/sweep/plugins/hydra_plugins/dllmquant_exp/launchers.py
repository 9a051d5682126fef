"""The jobs of a sweep on Slurm, or in processes of their own, by submitit.

hydra-submitit-launcher stops waiting at the first job that is lost, while the others go on, and
starts all jobs at once on the machine itself. Here every job is waited for, so many at a time.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class _SubmititLauncher(Launcher):
    """Settings come from the group `launcher`. The object itself is what a job calls."""

    cluster: ClassVar[str]
    settings: Any  # LocalSettings or SlurmSettings, read when the launcher is chosen

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Check the settings and this machine (ConfigError)."""
        from dllmquant_exp.errors import ConfigError
        from dllmquant_exp.run.sweep.launching import LocalSettings, SlurmSettings
        from dllmquant_exp.store.schema import read

        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"launcher={'slurm' if self.cluster == 'slurm' else 'submitit_local'} needs "
                "submitit: pip install 'dllmquant-exp[cluster]'"
            ) from error
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        values = OmegaConf.to_container(config.launcher, resolve=True)
        kind: type[Any] = SlurmSettings if self.cluster == "slurm" else LocalSettings
        self.settings = read(kind, values, "launcher")
        self.settings.check_machine()

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Submit the jobs, and wait until every one of them has ended in whatever way."""
        import submitit
        from submitit.core import utils

        from dllmquant_exp.errors import ConfigError
        from dllmquant_exp.run.sweep.launching import wait_for

        folder = Path(self.config.hydra.sweep.dir, ".submitit", "%j")
        kind = submitit.SlurmExecutor if self.cluster == "slurm" else submitit.LocalExecutor
        executor = kind(folder, max_num_timeout=self.settings.requeues)
        executor.update_parameters(**self.settings.parameters)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        words = [list(overrides) for overrides in job_overrides]
        states = [Singleton.get_state()] * len(words)
        if self.cluster == "slurm":
            calls = [lambda: executor.map_array(self, words, numbers, states)]
            at_a_time = 1  # the array; what of it runs is Slurm's business
        else:
            jobs = zip(words, numbers, states, strict=True)
            calls = [partial(self._submit, executor, job) for job in jobs]
            at_a_time = self.settings.processes
        try:
            return list(wait_for(calls, at_a_time, numbers))
        except (utils.FailedJobError, utils.FailedSubmissionError) as error:
            raise ConfigError(f"the jobs could not be submitted: {error}") from error

    def _submit(self, executor: Any, job: tuple[Any, ...]) -> list[Any]:
        return [executor.submit(self, *job)]

    def __call__(
        self, words: list[str], number: int, singletons: dict[type, Singleton]
    ) -> JobReturn:
        """One job, in its own process."""
        import submitit
        import torch

        torch.set_num_threads(self._threads())
        Singleton.set_state(singletons)
        setup_globals()
        config = self.hydra_context.config_loader.load_sweep_config(self.config, words)
        with open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = submitit.JobEnvironment().job_id, number
        return run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

    def checkpoint(self, *arguments: Any) -> Any:
        """Run the same again when the job is queued again; it goes on where it was."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)

    def _threads(self) -> int:
        cores = len(os.sched_getaffinity(0))
        if self.cluster == "slurm":
            return min(cores, self.settings.cpus_per_task)
        return max(1, cores // self.settings.processes)


class LocalLauncher(_SubmititLauncher):
    """launcher=submitit_local"""

    cluster = "local"


class SlurmLauncher(_SubmititLauncher):
    """launcher=slurm"""

    cluster = "slurm"
