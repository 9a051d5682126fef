"""Every combination of values, without those that are finished, and with shards as jobs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dllmquant_exp.errors import BAD_INPUT, ConfigError


class UnfinishedSweeper(BasicSweeper):
    """Hydra's basic sweeper, except for what is submitted and for jobs that are lost.

    A job that is lost, or a launcher that gives up, does not end the call: the table at its end
    says what is missing.

    Args:
        words, beside_others: of the command line, held back: jobs alone are composed of them, see
            `composition`.
    """

    def __init__(
        self,
        params: dict[str, str] | None,
        words: Sequence[str],
        beside_others: bool,
    ) -> None:
        from dllmquant_exp.config.overrides import held_words

        super().__init__(None, params)
        self.words, self.beside_others = held_words(words), beside_others

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher, or leave with what has to be installed or set for it."""
        target = config.hydra.launcher._target_
        if target not in Plugins.instance().class_name_to_class:
            _leave(
                f"{target.rpartition('.')[2]} is not installed; the launchers other than local "
                "need: pip install 'dllmquant-exp[cluster]'"
            )
        try:
            super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        except ConfigError as error:
            _leave(str(error))

    def sweep(self, arguments: list[str]) -> None:
        """Submit what is left to do, and wait for it. Nothing is written where a job cannot run."""
        from dllmquant_exp.run.sweep.callbacks import COMPOSED_FILE
        from dllmquant_exp.run.sweep.composition import sweep_jobs
        from dllmquant_exp.run.sweep.submission import announce, check_sweep, to_submit

        assert self.config is not None and self.hydra_context is not None
        assert self.launcher is not None
        loader = self.hydra_context.config_loader
        folder = Path(self.config.hydra.sweep.dir)
        try:
            jobs = sweep_jobs(self.config, loader, self.words, beside_others=self.beside_others)
            check_sweep(self.config, [job.experiment for job in jobs])
            submitted, finished = to_submit(jobs)
        except ConfigError as error:
            _leave(str(error))
        announce(folder, submitted, finished)
        OmegaConf.save(self.config, folder / COMPOSED_FILE)
        lines = [job.words for job in submitted]
        try:
            results = self.launcher.launch(lines, initial_job_idx=0) if lines else []
            for result in results:
                _ = result.return_value  # raises what the job raised
        except ConfigError as error:
            _leave(str(error))
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)


def _leave(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(BAD_INPUT)
