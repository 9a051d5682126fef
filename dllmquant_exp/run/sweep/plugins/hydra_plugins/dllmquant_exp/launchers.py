"""The jobs of a sweep on Slurm, or in processes of their own, by submitit.

hydra-submitit-launcher stops waiting at the first job that is lost, while the others go on, and
starts all jobs at once on the machine itself. Here every job is waited for, so many at a time.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run.sweep.launching import LocalSettings, SlurmSettings, wait_for
from dllmquant_exp.store.schema import read

Call = Callable[[], Sequence[Any]]  # submits jobs and returns them


class _SubmititLauncher(Launcher):
    """Settings come from the group `launcher`. The object itself is what a job calls."""

    option: ClassVar[str]
    executor: ClassVar[str]  # submitit's
    kind: ClassVar[type[LocalSettings | SlurmSettings]]  # of `settings`, read when it is chosen

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Check the settings and this machine (ConfigError)."""
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"launcher={self.option} needs submitit: pip install 'dllmquant-exp[cluster]'"
            ) from error
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        values = OmegaConf.to_container(config.launcher, resolve=True)
        self.settings = read(self.kind, values, "launcher")
        self.settings.check_machine()

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Submit the jobs, and wait until every one of them has ended in whatever way."""
        import submitit
        from submitit.core import utils

        folder = Path(self.config.hydra.sweep.dir, ".submitit", "%j")
        executor = getattr(submitit, self.executor)(folder, max_num_timeout=self.settings.requeues)
        executor.update_parameters(**self.settings.parameters)
        words = [list(overrides) for overrides in job_overrides]
        numbers = range(initial_job_idx, initial_job_idx + len(words))
        calls = self.calls(executor, words, numbers, [Singleton.get_state()] * len(words))
        try:
            return list(wait_for(calls, self.settings.at_a_time, numbers))
        except (utils.FailedJobError, utils.FailedSubmissionError) as error:
            raise ConfigError(f"the jobs could not be submitted: {error}") from error

    @abstractmethod
    def calls(self, executor: Any, *jobs: Sequence[Any]) -> list[Call]:
        """The submissions: `jobs` are the words, numbers and singletons of all of them."""

    def __call__(
        self, words: list[str], number: int, singletons: dict[type, Singleton]
    ) -> JobReturn:
        """One job, in its own process."""
        import submitit
        import torch

        torch.set_num_threads(self.settings.threads)
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


class LocalLauncher(_SubmititLauncher):
    """Each job a process of its own."""

    option, executor, kind = "submitit_local", "LocalExecutor", LocalSettings

    def calls(self, executor: Any, *jobs: Sequence[Any]) -> list[Call]:
        def submit(*job: Any) -> list[Any]:
            return [executor.submit(self, *job)]

        return [partial(submit, *job) for job in zip(*jobs, strict=True)]


class SlurmLauncher(_SubmititLauncher):
    """One job array; what of it runs is Slurm's business."""

    option, executor, kind = "slurm", "SlurmExecutor", SlurmSettings

    def calls(self, executor: Any, *jobs: Sequence[Any]) -> list[Call]:
        return [partial(executor.map_array, self, *jobs)]
