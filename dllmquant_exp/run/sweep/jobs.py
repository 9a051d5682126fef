"""The jobs of a sweep that have something left to do, known before any is submitted."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import CheckpointError
from dllmquant_exp.run.finished import local_digest, unfinished_tasks
from dllmquant_exp.run.machine import check_texts
from dllmquant_exp.run.save_model import is_kept
from dllmquant_exp.run.sweep.callbacks import OUTCOME_FILE
from dllmquant_exp.run.sweep.composition import Job
from dllmquant_exp.store.results import write_whole

FINISHED = "finished"  # the folder of what was not submitted
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """The words of a job's command line, and the folders of the cells that are left to it."""

    words: list[str]
    cells: list[Path]


def to_submit(jobs: Sequence[Job]) -> tuple[list[Submission], list[Path]]:
    """List the jobs that are left, one per shard where there are shards, and the finished cells.

    A job is left where a cell is, or the model that it is to save; of shards, the first one saves.

    Raises:
        ConfigError: a job that would save where something else is, or lacks calibration texts.
    """
    submitted: list[Submission] = []
    finished: list[Path] = []
    for job in jobs:
        experiment, words = job.experiment, job.words
        left = [experiment.cell_folder(task).resolve() for task in unfinished_tasks(experiment)]
        cells = [experiment.cell_folder(task).resolve() for task in experiment.tasks]
        finished += [cell for cell in cells if cell not in left]
        unsaved = _has_to_save(experiment)
        if not left and not unsaved:
            continue
        check_texts(experiment)
        common = experiment.common
        whole = common.shards == 1 or common.shard is not None
        shards = [] if whole else [f"shard={k}" for k in range(common.shards if left else 1)]
        lines = [[*words, shard] for shard in shards] or [words]
        submitted += [Submission(line, left) for line in lines]
    return submitted, finished


def _has_to_save(experiment: Experiment) -> bool:
    if experiment.common.save is None:
        return False
    try:
        return not is_kept(experiment, local_digest(experiment, keep_going=True))
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def announce(folder: Path, submitted: Sequence[Submission], finished: Sequence[Path]) -> None:
    """Write down what is expected of every job, so that a lost one is missed at the end."""
    if finished:
        _write(folder / FINISHED, finished, "skipped", None)
        jobs = f"{len(submitted)} job{'s' if len(submitted) != 1 else ''}"
        logger.info("cells that are finished already: %d; %s to do", len(set(finished)), jobs)
    for number, job in enumerate(submitted):
        lost = f"job {number} ({' '.join(job.words)}) was lost, or is not over yet"
        _write(folder / str(number), job.cells, "unfinished", lost)


def _write(folder: Path, cells: Sequence[Path], status: str, error: str | None) -> None:
    listed = [{"folder": str(cell), "status": status} for cell in cells]
    text = json.dumps({"cells": listed, "error": error})
    write_whole(folder / OUTCOME_FILE, text.encode())
