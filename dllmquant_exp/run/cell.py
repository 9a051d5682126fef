"""A cell, one task of a job: its folder, whether it is finished, and what its result file holds."""

import logging
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.task_config import Task
from dllmquant_exp.evaluation.evaluate import TaskResult
from dllmquant_exp.models.checkpoints import CheckpointError, checkpoint_digest, resolve_checkpoint
from dllmquant_exp.quantization.kernels import execution
from dllmquant_exp.reporting.statistics.intervals import Estimate, average, score_interval
from dllmquant_exp.run.machine import check_device
from dllmquant_exp.run.prepare import Prepared
from dllmquant_exp.speed.machine import abilities
from dllmquant_exp.store import provenance
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.results import (
    SCHEMA_VERSION,
    config_hash,
    finished_result,
    write_result,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One task of a job."""

    experiment: Experiment
    task: Task

    @cached_property
    def config(self) -> dict[str, Any]:
        """Everything that can change the result."""
        return self.experiment.cell_config(self.task)

    @cached_property
    def folder(self) -> Path:
        return self.experiment.cell_folder(self.task)

    @cached_property
    def hash(self) -> str:
        return config_hash(self.config)

    def is_finished(self, digest: str | None) -> bool:
        """Whether there is a result of this configuration and checkpoint.

        A speed result must also come from this processor, number of threads and kernels.

        Args:
            digest: see `local_digest`.
        """
        result = finished_result(self.folder, self.hash)
        if result is None:
            return False
        if digest is not None and result["checkpoint_digest"] != digest:
            logger.info("%s: the checkpoint has changed since, so it runs again", self.folder.name)
            return False
        if self.task.speed is None:
            return True
        changed = changed_conditions(result, self.experiment.common.threads)
        if changed:
            logger.info(
                "%s: measured with %s, and this machine has %s, so it runs again",
                self.folder.name,
                ", ".join(f"{name} {before}" for name, before, _ in changed),
                ", ".join(f"{name} {now}" for name, _, now in changed),
            )
        return not changed

    def restate(self) -> None:
        """Put what the user says of the weights into a finished result that says otherwise."""
        said, result = self.experiment.same_as, finished_result(self.folder, self.hash)
        if said is not None and result is not None and result["cell"].get("same_as") != said:
            write_result(self.folder, result | {"cell": {**result["cell"], "same_as": said}})

    def scored(
        self, prepared: Prepared, measured: TaskResult, timing: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The content of an evaluation's result; a repetition may change nothing but `timing`."""
        content = self._head("finished")
        content["hardware"] |= {"kernels": self._kernels()}
        interval = _interval(measured)
        names = ("chance", "token_forwards", "forwards", "truncated")
        return content | {
            "metric": measured.metric,
            "score": measured.score,
            "n": measured.n,
            "interval95": [interval.low, interval.high],
            **{name: getattr(measured, name) for name in names},
            "diagnostics": dict(measured.diagnostics),
            "other_scores": {name: list(found) for name, found in measured.other_scores.items()},
            "notes": list(measured.notes),
            "items": [asdict(item) for item in measured.items],
            "quantization": dict(prepared.report),
            "calibration": prepared.calibration,
            "checkpoint_digest": prepared.digest,
            "calibration_digest": prepared.calibration and prepared.calibration["digest"],
            "error": None,
            "timing": timing,
        }

    def unscored(
        self, more: Mapping[str, Any], timing: Mapping[str, Any], error: Exception | None = None
    ) -> dict[str, Any]:
        """The content of a result without items: of a measurement of speed, or of an error."""
        described = error and {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
        return {
            **self._head("failed" if error else "finished"),
            "metric": self.task.settings.metric,
            "score": None,
            "n": 0,
            "items": [],
            "error": described,
            **more,
            "timing": timing,
        }

    def _kernels(self) -> str | None:
        """Kernels of packed layers and online rotations; None where there are neither."""
        if self.experiment.quant is None:
            return None
        packed = self.experiment.common.execution == "packed"
        return execution() if packed or self.experiment.method.online else None

    def _head(self, status: str) -> dict[str, Any]:
        """The part that all results share; times and memory stand under `timing`."""
        experiment, task = self.experiment, self.task
        overrides = asdict(experiment.decoding)
        overrides = {k: v for k, v in overrides.items() if k != "name" and v is not None}
        return {
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "cell": {
                "name": self.folder.name,
                "model": experiment.model.name,
                "embedded": experiment.model.embedded,
                "method": experiment.label,
                "quant": experiment.quant_name or None,
                "task": task.name,
                "label": task.label,
                "kind": task.kind,
                "seed": experiment.common.seed,
                "evaluation": experiment.evaluation.name,
                "decoding": experiment.decoding.name,
                "decoding_overrides": overrides,
                "settings_source": task.settings.source,
                **({} if experiment.same_as is None else {"same_as": experiment.same_as}),
            },
            "row": asdict(experiment.row),
            "config": self.config,
            "config_hash": self.hash,
            "versions": provenance.versions(),
            "source": provenance.source(),
            "hardware": provenance.hardware(check_device(experiment.common.device)),
        }


def _interval(measured: TaskResult) -> Estimate:
    """The score's interval; of a mean over members, which are strata, theirs together."""
    strata: dict[str, list[float]] = {}
    for item in measured.items:
        name = item.subtask if measured.average == "members" else ""
        strata.setdefault(name, []).append(item.score)
    intervals = [score_interval(scores) for scores in strata.values()]
    return intervals[0] if len(intervals) == 1 else average(intervals)


def cells_of(experiment: Experiment) -> list[Cell]:
    """The cells of a job, one per task."""
    return [Cell(experiment, task) for task in experiment.tasks]


def local_digest(experiment: Experiment, *, keep_going: bool) -> str | None:
    """Digest of a checkpoint on this disk, to notice changes; None where a hub would be asked.

    Args:
        keep_going: None as well where the checkpoint cannot be read (else CheckpointError): every
            cell will meet the same error and record it.
    """
    model = experiment.model
    if experiment.saved is not None:
        return experiment.saved.digest
    if not is_on_this_disk(model.checkpoint):
        return None
    try:
        return checkpoint_digest(resolve_checkpoint(model.checkpoint, model.revision))
    except CheckpointError:
        if keep_going:
            return None
        raise


def is_on_this_disk(checkpoint: str) -> bool:
    """Whether a checkpoint is an embedded one or a folder, so that no hub is asked for it."""
    return checkpoint.startswith("embedded:") or expanded(checkpoint).exists()


def changed_conditions(
    result: Mapping[str, Any], threads: int | None
) -> list[tuple[str, Any, Any]]:
    """Conditions of speed that have changed since a measurement: name, then, now."""
    here = provenance.hardware(torch.device("cpu"))
    now = {"cpu": here["cpu"], "threads": threads or here["threads"], **abilities()}
    then = {**result["hardware"], **result["speed"]["machine"]}
    return [(name, then.get(name), own) for name, own in now.items() if then.get(name) != own]


def timing(started_at: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """When, and how long each stage took, in seconds."""
    return {
        "started_at": started_at,
        "finished_at": provenance.now(),
        "wall_seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
