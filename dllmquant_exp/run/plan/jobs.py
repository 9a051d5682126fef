"""The jobs that a command line stands for, composed as Hydra does it, and none of them run."""

from collections.abc import Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run.sweep.submission import explain, sweep_jobs

SWEEP_FLAGS = ("-m", "--multirun")


def compose_jobs(words: Sequence[str], config_folder: Path) -> list[Experiment]:
    """Every job of a command line, in order.

    Raises:
        ConfigError: words that Hydra refuses, or a job that cannot run.
    """
    overrides = [word for word in words if word not in SWEEP_FLAGS]
    asked = len(overrides) < len(words)
    with initialize_config_dir(str(config_folder), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            config = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
            swept = asked or config.hydra.mode == RunMode.MULTIRUN
            jobs = sweep_jobs(config, loader) if swept else [overrides]
            return [_experiment(config, loader, job) for job in jobs]
        except HydraException as error:
            raise ConfigError(explain(error)) from error


def _experiment(config: DictConfig, loader: ConfigLoader, words: Sequence[str]) -> Experiment:
    job = loader.load_sweep_config(config, list(words))
    return resolve(to_mapping(job), list(job.hydra.overrides.task))
