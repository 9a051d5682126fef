"""Tell finished cells of a job from others, before anything is submitted, locked or loaded."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.task_config import Task
from dllmquant_exp.models.checkpoints import (
    CheckpointError,
    checkpoint_digest,
    resolve_checkpoint,
)
from dllmquant_exp.speed.machine import abilities
from dllmquant_exp.store import provenance
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.results import config_hash, finished_result

logger = logging.getLogger(__name__)


def unfinished_tasks(experiment: Experiment) -> list[Task]:
    """The tasks whose cells are not finished; problems of a checkpoint are left to the job."""
    digest = local_digest(experiment, keep_going=True)
    return [task for task in experiment.tasks if not is_finished(experiment, task, digest)]


def local_digest(experiment: Experiment, *, keep_going: bool) -> str | None:
    """Digest of a checkpoint on this disk, to notice changes; None where a hub would be asked.

    Args:
        keep_going: None as well where the checkpoint cannot be read (else CheckpointError): every
            cell will meet the same error and record it.
    """
    if experiment.saved is not None:
        return experiment.saved.digest
    checkpoint = experiment.model.checkpoint
    if not checkpoint.startswith("embedded:") and not expanded(checkpoint).exists():
        return None
    try:
        return checkpoint_digest(resolve_checkpoint(checkpoint, experiment.model.revision))
    except CheckpointError:
        if keep_going:
            return None
        raise


def is_finished(experiment: Experiment, task: Task, digest: str | None) -> bool:
    """Whether the task's cell has a result of this configuration and checkpoint.

    A speed task's result must also come from this processor, number of threads and kernels.

    Args:
        digest: see `local_digest`.
    """
    folder = experiment.cell_folder(task)
    result = finished_result(folder, config_hash(experiment.cell_config(task)))
    if result is None:
        return False
    if digest is not None and result["checkpoint_digest"] != digest:
        logger.info("%s: the checkpoint has changed since, so it runs again", folder.name)
        return False
    changed = [] if task.speed is None else _differences(result, experiment.common.threads)
    if changed:
        logger.info(
            "%s: measured with %s, and this machine has %s, so it runs again",
            folder.name,
            ", ".join(f"{name} {before}" for name, before, _ in changed),
            ", ".join(f"{name} {now}" for name, _, now in changed),
        )
    return not changed


def _differences(result: Mapping[str, Any], threads: int | None) -> list[tuple[str, Any, Any]]:
    """Conditions of speed that have changed since a measurement: name, then, now."""
    here = provenance.hardware(torch.device("cpu"))
    now = {"cpu": here["cpu"], "threads": threads or here["threads"], **abilities()}
    then = {**result["hardware"], **result["speed"]["machine"]}
    return [(name, then.get(name), own) for name, own in now.items() if then.get(name) != own]
