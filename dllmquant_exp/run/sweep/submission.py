"""The jobs of a sweep that have something left to do, known and checked before any is submitted.

A job can wait for hours in a queue, or behind the others. Everything that can be known of it
without loading a model is therefore known when the call is made: finished cells, folders to save
in, this machine.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.identity import saved_parts
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.formats import CheckpointError
from dllmquant_exp.run.cell import cells_of, local_digest
from dllmquant_exp.run.machine import check_surroundings
from dllmquant_exp.run.requirements import check_jobs
from dllmquant_exp.run.save_model import is_kept, save_folder
from dllmquant_exp.run.sweep.callbacks import write_outcome
from dllmquant_exp.run.sweep.composition import Job

REMOTE_LAUNCHERS = ("SlurmLauncher",)  # their jobs run on machines with other devices than this one
FINISHED = "finished"  # the folder of what was not submitted
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """The words of a job's command line, and the folders of the cells that are left to it."""

    words: list[str]
    cells: list[Path]


def check_sweep(config: DictConfig, experiments: Sequence[Experiment]) -> None:
    """Refuse a sweep that would save different models in one folder, or lacks what it needs here.

    Raises:
        ConfigError: nothing has been written then.
    """
    models: dict[Path, set[frozenset[tuple[str, str]]]] = {}
    for experiment in (e for e in experiments if e.common.save is not None):
        parts = saved_parts(experiment, None)  # without digests: a checkpoint has one
        folder = save_folder(experiment).resolve()
        models.setdefault(folder, set()).add(frozenset(parts.items()))
    for folder, found in models.items():
        if len(found) > 1:
            raise ConfigError(
                f"save={folder} is one folder, and this sweep makes {len(found)} models; name "
                "folders by what differs, as in 'save=kept/${method.name}-${seed}', or save one "
                "model at a time"
            )
    remote = str(config.hydra.launcher._target_).endswith(REMOTE_LAUNCHERS)
    check_surroundings(experiments, remote=remote)


def to_submit(jobs: Sequence[Job]) -> tuple[list[Submission], list[Path]]:
    """List the jobs that are left, one per shard where there are shards, and the finished cells.

    A job is left where a cell is, or the model that it is to save; of shards, the first one saves.

    Raises:
        ConfigError: a job that would save where something else is, or see `check_jobs`.
    """
    submitted: list[Submission] = []
    finished: list[Path] = []
    started: list[Experiment] = []
    for job in jobs:
        experiment, common = job.experiment, job.experiment.common
        digest = local_digest(experiment, keep_going=True)
        left: list[Path] = []
        for cell in cells_of(experiment):
            if cell.is_finished(digest):
                finished.append(cell.folder.resolve())
                cell.restate()
            else:
                left.append(cell.folder.resolve())
        if not left and not _has_to_save(experiment, digest):
            continue
        started.append(experiment)
        whole = common.shards == 1 or common.shard is not None
        shards = [] if whole else [f"shard={k}" for k in range(common.shards if left else 1)]
        lines = [[*job.words, shard] for shard in shards] or [job.words]
        submitted += [Submission(line, left) for line in lines]
    check_jobs(started)
    return submitted, finished


def _has_to_save(experiment: Experiment, digest: str | None) -> bool:
    try:
        return experiment.common.save is not None and not is_kept(experiment, digest)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def announce(folder: Path, submitted: Sequence[Submission], finished: Sequence[Path]) -> None:
    """Write down what is expected of every job, so that a lost one is missed at the end."""
    if finished:
        write_outcome(folder / FINISHED, finished)
        jobs = f"{len(submitted)} job{'s' if len(submitted) != 1 else ''}"
        logger.info("cells that are finished already: %d; %s to do", len(set(finished)), jobs)
    for number, job in enumerate(submitted):
        lost = f"job {number} ({' '.join(job.words)}) was lost, or is not over yet"
        write_outcome(folder / str(number), job.cells, lost)
