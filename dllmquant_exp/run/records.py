"""The content of a result file: everything needed to read, compare and repeat a cell."""

import traceback
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.identity import method_label
from dllmquant_exp.config.task_config import Task
from dllmquant_exp.evaluation import TaskResult
from dllmquant_exp.quantization.kernels import execution
from dllmquant_exp.reporting.statistics.intervals import Estimate, average, score_interval
from dllmquant_exp.run.machine import check_device
from dllmquant_exp.run.prepare import Prepared
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import SCHEMA_VERSION, config_hash


def finished_record(
    experiment: Experiment,
    task: Task,
    prepared: Prepared,
    measured: TaskResult,
    timing: dict[str, Any],
) -> dict[str, Any]:
    """Record of a measured cell; a repetition may change nothing but `timing`."""
    head = _head(experiment, task, "finished")
    head["hardware"] |= {"kernels": _kernels(experiment)}
    return {
        **head,
        **_measurements(measured),
        "quantization": dict(prepared.report),
        "calibration": prepared.calibration,
        "checkpoint_digest": prepared.digest,
        "calibration_digest": prepared.calibration and prepared.calibration["digest"],
        "error": None,
        "timing": timing,
    }


def _kernels(experiment: Experiment) -> str | None:
    """Kernels of packed layers and online rotations; None where there are neither."""
    if experiment.quant is None:
        return None
    packed = experiment.common.execution == "packed"
    return execution() if packed or experiment.method.online else None


def speed_record(
    experiment: Experiment, task: Task, found: Mapping[str, Any], timing: dict[str, Any]
) -> dict[str, Any]:
    """Record of a measurement of speed, see speed_cell.py."""
    return {**_head(experiment, task, "finished"), **found, "timing": timing}


def failed_record(
    experiment: Experiment, task: Task, error: Exception, started_at: str
) -> dict[str, Any]:
    """Record of a cell that could not be measured, with the traceback."""
    lines = traceback.format_exception(error)
    return {
        **_head(experiment, task, "failed"),
        "metric": task.settings.metric,
        "score": None,
        "n": 0,
        "items": [],
        "error": {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(lines),
        },
        "timing": timing(started_at, {}),
    }


def _measurements(measured: TaskResult) -> dict[str, Any]:
    interval = _interval(measured)
    return {
        "metric": measured.metric,
        "score": measured.score,
        "n": measured.n,
        "interval95": [interval.low, interval.high],
        "chance": measured.chance,
        "token_forwards": measured.token_forwards,
        "forwards": measured.forwards,
        "truncated": measured.truncated,
        "diagnostics": dict(measured.diagnostics),
        "other_scores": {name: list(scores) for name, scores in measured.other_scores.items()},
        "notes": list(measured.notes),
        "items": [asdict(item) for item in measured.items],
    }


def _interval(measured: TaskResult) -> Estimate:
    """The score's interval; of a mean over members, which are strata, theirs together."""
    members: dict[str, list[float]] = {}
    for item in measured.items:
        members.setdefault(item.subtask if measured.average == "members" else "", []).append(
            item.score
        )
    intervals = [score_interval(scores) for scores in members.values()]
    return intervals[0] if len(intervals) == 1 else average(intervals)


def _head(experiment: Experiment, task: Task, status: str) -> dict[str, Any]:
    """Part that finished and failed records share; times and memory stand under `timing`."""
    config = experiment.cell_config(task)
    overrides = {
        key: value
        for key, value in asdict(experiment.decoding).items()
        if key != "name" and value is not None
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "cell": {
            "name": experiment.cell_name(task),
            "model": experiment.model.name,
            "embedded": experiment.model.embedded,
            "method": method_label(experiment),
            "quant": experiment.quant_name or None,
            "task": task.name,
            "label": task.label,
            "kind": task.kind,
            "seed": experiment.common.seed,
            "evaluation": experiment.evaluation.name,
            "decoding": experiment.decoding.name,
            "decoding_overrides": overrides,
            "settings_source": task.settings.source,
        },
        "row": asdict(experiment.row),
        "config": config,
        "config_hash": config_hash(config),
        "versions": provenance.versions(),
        "source": provenance.source(),
        "hardware": provenance.hardware(check_device(experiment.common.device)),
    }


def timing(started_at: str, seconds: dict[str, float]) -> dict[str, Any]:
    """When, and how long each stage took, in seconds."""
    return {
        "started_at": started_at,
        "finished_at": provenance.now(),
        "wall_seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
