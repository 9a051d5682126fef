"""One job: a model, a method and a seed over the tasks of a suite. Composes the rooms.

    checkpoint -> model -> quantized model -> evaluation -> result.json

Each task is a cell with a folder of its own. A finished cell is skipped, a failed one is tried
again, and the model is loaded and quantized once, when the first unfinished cell needs it. A cell
that another job works on is left for last, and then waited for.
"""

import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.identity import method_label
from dllmquant_exp.config.task_config import Task
from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.evaluation import answer_shard, check_data_root, evaluate_task
from dllmquant_exp.evaluation.evaluate import diagnostic_warnings
from dllmquant_exp.evaluation.tasks import task_configs
from dllmquant_exp.run.finished import is_finished, local_digest
from dllmquant_exp.run.machine import check_device, explain_unwritten, torch_threads
from dllmquant_exp.run.prepare import Preparation, Prepared
from dllmquant_exp.run.records import failed_record, finished_record, speed_record, timing
from dllmquant_exp.run.save_model import save_model
from dllmquant_exp.run.speed_cell import measure_speed_cell
from dllmquant_exp.store import provenance, tracking
from dllmquant_exp.store.locks import Busy, locked
from dllmquant_exp.store.results import RESULT_FILE, write_json, write_result
from dllmquant_exp.store.unfinished import shard_file

LOCK_FILE = ".lock"  # in a cell's folder: held by the job that works on it
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one cell in this call."""

    folder: Path
    status: Literal["finished", "failed", "skipped", "partial"]  # partial: shards are missing
    warnings: tuple[str, ...] = ()  # about the outputs behind a finished cell's score


def run(experiment: Experiment, *, keep_going: bool) -> list[Outcome]:
    """Finish every cell of the job and return the outcome of each; save the model if asked.

    Args:
        keep_going: record bad input (a ValueError: wrong checkpoint, missing data file, ...) as a
            failed cell, as a sweep wants it, instead of raising it before anything is written.
            Any other exception is recorded in either case, and the next cell is tried.
    """
    common = experiment.common
    if common.shards > 1 and common.shard is None:
        raise ConfigError(
            f"shards = {common.shards} makes that many jobs of one, and this is one job: add -m, "
            f"or choose one with shard=0 to shard={common.shards - 1}"
        )
    digest = local_digest(experiment, keep_going=keep_going)
    waiting = [task for task in experiment.tasks if not is_finished(experiment, task, digest)]
    if not keep_going:
        _check_data(experiment, waiting)
    _announce(experiment, len(waiting))
    preparation = Preparation(experiment)
    outcomes = {
        task.name: Outcome(experiment.cell_folder(task), "skipped")
        for task in experiment.tasks
        if task not in waiting
    }
    with torch_threads(common.threads):
        if common.save is not None and not common.shard:  # of shards, the first one saves
            save_model(experiment, digest, preparation.get)
        for wait in (False, True):
            for task in [task for task in waiting if task.name not in outcomes]:
                try:
                    outcomes[task.name] = _in_turn(
                        experiment, task, preparation, digest, keep_going=keep_going, wait=wait
                    )
                except Busy:
                    logger.info("  %s: another job is at it, so it comes last", task.name)
                except OSError as error:  # of the cell's folder and its lock
                    folder = experiment.cell_folder(task)
                    logger.error("  %s failed: %s", task.name, explain_unwritten(folder, error))
                    outcomes[task.name] = Outcome(folder, "failed")
    for task in experiment.tasks:
        for warning in outcomes[task.name].warnings:
            logger.warning("%s, %s: %s", experiment.model.name, task.name, warning)
    return [outcomes[task.name] for task in experiment.tasks]


def _in_turn(
    experiment: Experiment,
    task: Task,
    preparation: Preparation,
    digest: str | None,
    *,
    keep_going: bool,
    wait: bool,
) -> Outcome:
    """Finish a cell or a shard of it, unless another job has; raise Busy where one works on it."""
    folder, part = experiment.cell_folder(task), experiment.common.part
    if part is not None:
        with locked(folder / f"{LOCK_FILE}-{part[0]}-of-{part[1]}", wait=wait):
            if is_finished(experiment, task, digest):
                return Outcome(folder, "skipped")
            outcome = _run_shard(experiment, task, folder, preparation, part)
        if outcome is not None:
            return outcome
    with locked(folder / LOCK_FILE, wait=wait or part is not None):
        if is_finished(experiment, task, digest):
            return Outcome(folder, "skipped")
        return _run_cell(experiment, task, folder, preparation, keep_going)


def _check_data(experiment: Experiment, tasks: Sequence[Task]) -> None:
    """Name every missing data file before hours go into the tasks that have theirs (DataError)."""
    if experiment.common.data_root is None:
        return
    scored = [task for task in tasks if task.speed is None]
    settings = [task.settings for task in scored]
    configs = [c for s in settings for c in task_configs(s.harness_task, s.include_path)]
    paths = dict.fromkeys(str(config.get("dataset_path")) for config in configs)
    check_data_root(Path(experiment.common.data_root).expanduser(), list(paths))


def _announce(experiment: Experiment, waiting: int) -> None:
    name = " ".join(filter(None, (method_label(experiment), experiment.quant_name)))
    done = len(experiment.tasks) - waiting
    logger.info(
        "%s, %s, seed %d: %d task%s%s",
        experiment.model.name, name, experiment.common.seed, len(experiment.tasks),
        "s" if len(experiment.tasks) > 1 else "",
        f", {done} already finished" if done else "",
    )  # fmt: skip


def _run_shard(
    experiment: Experiment,
    task: Task,
    folder: Path,
    preparation: Preparation,
    part: tuple[int, int],
) -> Outcome | None:
    """Answer one shard of a cell; None where it was the last missing one."""
    done, started_at = folder / shard_file(*part), provenance.now()
    done.unlink(missing_ok=True)  # it may be of another checkpoint
    try:
        prepared = preparation.get()
        complete = answer_shard(
            prepared.model,
            prepared.tokenizer,
            task.settings,
            shard=part,
            **_evaluation(experiment),
            cache_dir=folder,
        )
    except Exception as error:
        with locked(folder / LOCK_FILE):
            return _fail(experiment, task, folder, error, started_at)
    write_json(done, {"shard": part[0], "shards": part[1], "finished_at": provenance.now()})
    logger.info("  %s: shard %d of %d is done", task.name, *part)
    return None if complete else Outcome(folder, "partial")


def _run_cell(
    experiment: Experiment,
    task: Task,
    folder: Path,
    preparation: Preparation,
    keep_going: bool,
) -> Outcome:
    """One cell from start to result file; see `run` for what is raised."""
    fresh = all(path.name.startswith(LOCK_FILE) for path in folder.iterdir())
    started_at = provenance.now()
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
        if isinstance(error, Refusal) and not keep_going:
            if fresh:
                _remove(folder)
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
    return Outcome(folder, "finished", tuple(diagnostic_warnings(result["diagnostics"])))


def _remove(folder: Path) -> None:
    """Take a cell's folder away again, and the sweep's and the runs folder if they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
        folder.parent.parent.rmdir()


def _fail(
    experiment: Experiment, task: Task, folder: Path, error: Exception, started_at: str
) -> Outcome:
    """Record a failed cell; where even that cannot be written, say so, and the others go on."""
    where = f"traceback in {folder / RESULT_FILE}"
    try:
        write_result(folder, failed_record(experiment, task, error, started_at))
    except OSError as unwritten:
        where = f"and {explain_unwritten(folder, unwritten)}"
    logger.error("  %s failed: %s: %s (%s)", task.name, type(error).__name__, error, where)
    return Outcome(folder, "failed")


def _measure(
    experiment: Experiment, task: Task, folder: Path, prepared: Prepared, started_at: str
) -> dict[str, Any]:
    """Evaluate one task and describe the result with everything needed to repeat it."""
    device = check_device(experiment.common.device)
    provenance.restart_peak_memory(device)
    start = time.perf_counter()
    measured = evaluate_task(
        prepared.model,
        prepared.tokenizer,
        task.name,
        task.spec,
        task.settings,
        **_evaluation(experiment),
        cache_dir=folder,
    )
    evaluate = measured.seconds_before + time.perf_counter() - start
    seconds = {**prepared.seconds, "evaluate": evaluate}
    peak = provenance.peak_memory(device)
    peak["peak_memory_bytes"] = max(peak["peak_memory_bytes"] or 0, prepared.peak_memory_bytes)
    spent = timing(started_at, seconds) | peak
    return finished_record(experiment, task, prepared, measured, spent)


def _evaluation(experiment: Experiment) -> dict[str, Any]:
    """The arguments that a whole evaluation and a shard of one share."""
    common = experiment.common
    return {
        "data_root": Path(common.data_root).expanduser() if common.data_root else None,
        "limit": common.limit,
        "seed": common.seed,
        "batch_size": common.batch_size,
    }


def _measure_speed(experiment: Experiment, task: Task, started_at: str) -> dict[str, Any]:
    """The cell of a speed task; see speed_cell.py."""
    start = time.perf_counter()
    found = measure_speed_cell(experiment, task)
    spent = timing(started_at, {"measure": time.perf_counter() - start})
    return speed_record(experiment, task, found, spent)
