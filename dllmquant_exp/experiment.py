"""One job: a model, a method and a seed over the tasks of a suite. Composes the rooms.

    checkpoint -> model -> quantized model -> evaluation -> result.json

Each task is a cell with a folder of its own. A finished cell is skipped, a failed one is tried
again, and the model is loaded and quantized once, when the first unfinished cell needs it.
"""

import logging
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dllmquant_exp import provenance, tracking
from dllmquant_exp.config import Experiment, Task
from dllmquant_exp.evaluation import TaskResult, check_data_root, evaluate_task
from dllmquant_exp.evaluation.tasks import task_configs
from dllmquant_exp.models.checkpoints import (
    CheckpointError,
    checkpoint_digest,
    resolve_checkpoint,
)
from dllmquant_exp.preparation import Preparation, Prepared
from dllmquant_exp.reporting.results import (
    RESULT_FILE,
    SCHEMA_VERSION,
    config_hash,
    finished_result,
    write_result,
)
from dllmquant_exp.reporting.statistics import score_interval
from dllmquant_exp.saving import save_model
from dllmquant_exp.speed_cell import measure_speed_cell
from dllmquant_exp.surroundings import check_device, explain_unwritten

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one cell in this call."""

    folder: Path
    status: Literal["finished", "failed", "skipped"]


def run(experiment: Experiment, *, keep_going: bool) -> list[Outcome]:
    """Bring every cell of the job to an end and say what became of each; save the model if asked.

    Args:
        keep_going: record bad input (a ValueError: wrong checkpoint, missing data file, ...) as a
            failed cell, as a sweep wants it, instead of raising it before anything is written.
            Any other exception is recorded in either case, and the next cell is tried.
    """
    digest = _local_digest(experiment, keep_going)
    waiting = [task for task in experiment.tasks if not _is_finished(experiment, task, digest)]
    if not keep_going:
        _check_data(experiment, waiting)
    _announce(experiment, len(waiting))
    preparation = Preparation(experiment)
    outcomes = []
    with _threads(experiment.common.threads):
        if experiment.common.save is not None:
            save_model(experiment, digest, preparation.get)
        for task in experiment.tasks:
            folder = experiment.sweep_folder / experiment.cell_name(task)
            if task not in waiting:
                outcomes.append(Outcome(folder, "skipped"))
            else:
                outcomes.append(_run_cell(experiment, task, folder, preparation, keep_going))
    return outcomes


def _local_digest(experiment: Experiment, keep_going: bool) -> str | None:
    """Of a checkpoint on this disk, to notice that it changed; None where a hub would be asked."""
    if experiment.saved is not None:
        return experiment.saved.digest
    checkpoint = experiment.model.checkpoint
    if not checkpoint.startswith("embedded:") and not Path(checkpoint).expanduser().exists():
        return None
    try:
        return checkpoint_digest(resolve_checkpoint(checkpoint, experiment.model.revision))
    except CheckpointError:
        if keep_going:  # every cell will meet the same error and record it
            return None
        raise


def _check_data(experiment: Experiment, tasks: Sequence[Task]) -> None:
    """Name every missing data file before hours go into the tasks that have theirs (DataError)."""
    if experiment.common.data_root is None:
        return
    scored = [task for task in tasks if task.speed is None]
    configs = [config for t in scored for config in task_configs(t.settings.harness_task)]
    paths = dict.fromkeys(str(config.get("dataset_path")) for config in configs)
    check_data_root(Path(experiment.common.data_root).expanduser(), list(paths))


def _is_finished(experiment: Experiment, task: Task, digest: str | None) -> bool:
    folder = experiment.sweep_folder / experiment.cell_name(task)
    result = finished_result(folder, config_hash(experiment.cell_config(task)))
    if result is None:
        return False
    if digest is not None and result["checkpoint_digest"] != digest:
        logger.info("%s: the checkpoint has changed since, so it runs again", folder.name)
        return False
    return True


def _announce(experiment: Experiment, waiting: int) -> None:
    name = " ".join(filter(None, (experiment.row, experiment.quant_name)))
    done = len(experiment.tasks) - waiting
    logger.info(
        "%s, %s, seed %d: %d task%s%s",
        experiment.model.name, name, experiment.common.seed, len(experiment.tasks),
        "s" if len(experiment.tasks) > 1 else "",
        f", {done} already finished" if done else "",
    )  # fmt: skip


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_cell(
    experiment: Experiment,
    task: Task,
    folder: Path,
    preparation: Preparation,
    keep_going: bool,
) -> Outcome:
    """One cell from start to result file; see `run` for what is raised."""
    fresh, started_at = not folder.exists(), provenance.now()
    try:
        prepared = None if task.speed is not None else preparation.get()
        with tracking.start(
            experiment.tracking,
            folder,
            name=folder.name,
            group=experiment.common.sweep,
            config=experiment.cell_config(task),
        ) as tracker:
            if prepared is None:
                result = _measure_speed(experiment, task, started_at)
            else:
                result = _measure(experiment, task, folder, prepared, started_at)
            write_result(folder, result)
            tracker.log_result(result)
    except Exception as error:
        if isinstance(error, ValueError) and not keep_going and _is_ours(error):
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return _fail(experiment, task, folder, error, started_at)
    if task.speed is not None:
        logger.info("  %s: %s", task.name, result["summary"])
        return Outcome(folder, "finished")
    low, high = result["interval95"]
    logger.info(
        "  %s: %.1f%% [%.1f, %.1f], %d items, %.0f s",
        task.name, 100 * result["score"], 100 * low, 100 * high, result["n"],
        result["timing"]["wall_seconds"]["evaluate"],
    )  # fmt: skip
    return Outcome(folder, "finished")


def _fail(
    experiment: Experiment, task: Task, folder: Path, error: Exception, started_at: str
) -> Outcome:
    """Record a failed cell; where even that cannot be written, say so, and the others go on."""
    where = f"traceback in {folder / RESULT_FILE}"
    try:
        write_result(folder, _failed(experiment, task, error, started_at))
    except OSError as unwritten:
        where = f"and {explain_unwritten(folder, unwritten)}"
    logger.error("  %s failed: %s: %s (%s)", task.name, type(error).__name__, error, where)
    return Outcome(folder, "failed")


def _is_ours(error: ValueError) -> bool:
    """Whether a room of this package refused its input, as against a ValueError from anywhere."""
    return type(error).__module__.partition(".")[0] == __package__


def _measure(
    experiment: Experiment, task: Task, folder: Path, prepared: Prepared, started_at: str
) -> dict[str, Any]:
    """Evaluate one task and describe the result with everything needed to repeat it."""
    common = experiment.common
    device = check_device(common.device)
    provenance.restart_peak_memory(device)
    start = time.perf_counter()
    measured = evaluate_task(
        prepared.model,
        prepared.tokenizer,
        task.name,
        task.spec,
        task.settings,
        data_root=Path(common.data_root).expanduser() if common.data_root else None,
        limit=common.limit,
        seed=common.seed,
        batch_size=common.batch_size,
        cache_dir=folder,
    )
    seconds = {**prepared.seconds, "evaluate": time.perf_counter() - start}
    peak = provenance.peak_memory(device)
    peak["peak_memory_bytes"] = max(peak["peak_memory_bytes"] or 0, prepared.peak_memory_bytes)
    return {
        **_head(experiment, task, "finished"),
        **_measurements(measured),
        "quantization": dict(prepared.report),
        "calibration": prepared.calibration,
        "checkpoint_digest": prepared.digest,
        "calibration_digest": prepared.calibration and prepared.calibration["digest"],
        "error": None,
        "timing": _timing(started_at, seconds) | peak,
    }


def _measure_speed(experiment: Experiment, task: Task, started_at: str) -> dict[str, Any]:
    """The cell of a speed task; see speed_cell.py."""
    start = time.perf_counter()
    found = measure_speed_cell(experiment, task)
    seconds = {"measure": time.perf_counter() - start}
    head = _head(experiment, task, "finished")
    return {**head, **found, "timing": _timing(started_at, seconds)}


def _measurements(measured: TaskResult) -> dict[str, Any]:
    interval = score_interval([item.score for item in measured.items])
    return {
        "metric": measured.metric,
        "score": measured.score,
        "n": measured.n,
        "interval95": [interval.low, interval.high],
        "chance": measured.chance,
        "token_forwards": measured.token_forwards,
        "forwards": measured.forwards,
        "truncated": measured.truncated,
        "notes": list(measured.notes),
        "items": [asdict(item) for item in measured.items],
    }


def _failed(
    experiment: Experiment, task: Task, error: Exception, started_at: str
) -> dict[str, Any]:
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
        "timing": _timing(started_at, {}),
    }


def _head(experiment: Experiment, task: Task, status: str) -> dict[str, Any]:
    """What finished and failed results share. Times and memory are kept apart, under `timing`."""
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
            "method": experiment.row,
            "quant": experiment.quant_name or None,
            "task": task.name,
            "label": task.label,
            "kind": task.kind,
            "seed": experiment.common.seed,
            "decoding": experiment.decoding.name,
            "decoding_overrides": overrides,
            "settings_source": task.settings.source,
        },
        "config": config,
        "config_hash": config_hash(config),
        "versions": provenance.versions(),
        "source": provenance.source(),
        "hardware": provenance.hardware(check_device(experiment.common.device)),
    }


def _timing(started_at: str, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "started_at": started_at,
        "finished_at": provenance.now(),
        "wall_seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
