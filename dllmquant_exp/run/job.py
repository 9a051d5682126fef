"""One job: a model, a method and a seed over the tasks of a suite. Composes the rooms.

    checkpoint -> model -> quantized model -> evaluation -> result.json

Each task is a cell with a folder of its own. A finished cell is skipped, a failed one is tried
again, and the model is loaded and quantized once, when the first unfinished cell needs it. A cell
that another job works on is left for last, and then waited for.
"""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.evaluation.diagnostics import diagnostic_warnings
from dllmquant_exp.evaluation.evaluate import evaluate_task
from dllmquant_exp.evaluation.shards import answer_shard
from dllmquant_exp.run.cell import Cell, cells_of, local_digest, timing
from dllmquant_exp.run.machine import FULL, check_device, explain_unwritten, torch_threads
from dllmquant_exp.run.prepare import Preparation, Prepared
from dllmquant_exp.run.requirements import check_jobs
from dllmquant_exp.run.save_model import save_model
from dllmquant_exp.run.speed_cell import measure_speed_cell
from dllmquant_exp.store import provenance, tracking
from dllmquant_exp.store.locks import Busy, locked
from dllmquant_exp.store.progress import around, within
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
    job = _Job(experiment, digest, keep_going, Preparation(experiment))
    cells = cells_of(experiment)
    waiting = [cell for cell in cells if not cell.is_finished(digest)]
    for cell in (cell for cell in cells if cell not in waiting):
        cell.restate()
    if not keep_going:
        check_jobs([experiment] if waiting else [])
    _announce(experiment, len(waiting))
    outcomes = {c.task.name: Outcome(c.folder, "skipped") for c in cells if c not in waiting}
    with torch_threads(common.threads):
        if common.save is not None and not common.shard:  # of shards, the first one saves
            save_model(experiment, digest, job.preparation.get)
        for wait in (False, True):
            for cell in [cell for cell in waiting if cell.task.name not in outcomes]:
                place = f"{cell.task.name} ({cells.index(cell) + 1} of {len(cells)})"
                with suppress(Busy), within(place):  # Busy in the first round only
                    outcomes[cell.task.name] = job.in_turn(cell, wait)
    for cell in cells:
        for warning in outcomes[cell.task.name].warnings:
            logger.warning("%s, %s: %s", experiment.model.name, cell.task.name, warning)
    return [outcomes[cell.task.name] for cell in cells]


def _announce(experiment: Experiment, waiting: int) -> None:
    name = " ".join(filter(None, (experiment.label, experiment.quant_name)))
    count = len(experiment.tasks)
    logger.info(
        "%s%s, %s, seed %d: %d task%s%s",
        "".join(f"{title}: " for title in around()),
        experiment.model.name, name, experiment.common.seed, count, "s" if count > 1 else "",
        f", {count - waiting} already finished" if count > waiting else "",
    )  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """A running job: see `run`, and `local_digest`."""

    experiment: Experiment
    digest: str | None
    keep_going: bool
    preparation: Preparation

    def in_turn(self, cell: Cell, wait: bool) -> Outcome:
        """Finish a cell or a shard of it, unless another job has (Busy: one works on it)."""
        try:
            part = self.experiment.common.part
            if part is None:
                return self._alone(cell, LOCK_FILE, wait, self._finish)
            lock = f"{LOCK_FILE}-{part[0]}-of-{part[1]}"
            outcome = self._alone(cell, lock, wait, self._answer_shard)
            if outcome.status != "finished":
                return outcome
            return self._alone(cell, LOCK_FILE, True, self._finish)
        except Busy:
            logger.info("  %s: another job is at it, so it comes last", cell.task.name)
            raise
        except OSError as error:  # of the cell's folder and its lock
            logger.error("  %s failed: %s", cell.task.name, explain_unwritten(cell.folder, error))
            return Outcome(cell.folder, "failed")

    def _alone(self, cell: Cell, lock: str, wait: bool, work: Callable[[Cell], Outcome]) -> Outcome:
        with locked(cell.folder / lock, wait=wait):
            finished = cell.is_finished(self.digest)
            return Outcome(cell.folder, "skipped") if finished else work(cell)

    def _answer_shard(self, cell: Cell) -> Outcome:
        """Answer one shard of a cell: `finished` where it was the last missing one."""
        part = self.experiment.common.part
        assert part is not None
        done, started_at = cell.folder / shard_file(*part), provenance.now()
        done.unlink(missing_ok=True)  # it may be of another checkpoint
        try:
            prepared = self.preparation.get()
            complete = answer_shard(
                prepared.model,
                prepared.tokenizer,
                cell.task.settings,
                shard=part,
                **_evaluation(cell),
            )
        except Exception as error:
            with locked(cell.folder / LOCK_FILE):
                return _fail(cell, error, started_at)
        write_json(done, {"shard": part[0], "shards": part[1], "finished_at": provenance.now()})
        logger.info("  %s: shard %d of %d is done", cell.task.name, *part)
        return Outcome(cell.folder, "finished" if complete else "partial")

    def _finish(self, cell: Cell) -> Outcome:
        """One cell from start to result file; see `run` for what is raised."""
        fresh = all(path.name.startswith(LOCK_FILE) for path in cell.folder.iterdir())
        started_at = provenance.now()
        try:
            if cell.task.speed is None:
                measure = partial(_evaluate, cell, self.preparation.get())
            else:
                measure = partial(measure_speed_cell, cell)
            with tracking.start(
                self.experiment.tracking,
                cell.folder,
                name=cell.folder.name,
                group=self.experiment.common.sweep,
                config=cell.config,
            ) as tracker:
                result = measure(started_at)
                write_result(cell.folder, result)
                tracker.log_result(result)
        except Exception as error:
            if isinstance(error, Refusal) and not self.keep_going:
                if fresh:
                    _remove(cell.folder)
                raise
            return _fail(cell, error, started_at)
        logger.info("  %s: %s", cell.task.name, result.get("summary") or _summary(result))
        warnings = diagnostic_warnings(result.get("diagnostics", {}))  # a speed task has none
        return Outcome(cell.folder, "finished", tuple(warnings))


def _evaluate(cell: Cell, prepared: Prepared, started_at: str) -> dict[str, Any]:
    """Evaluate one task and describe the result with everything needed to repeat it."""
    device = check_device(cell.experiment.common.device)
    provenance.restart_peak_memory(device)
    start = time.perf_counter()
    measured = evaluate_task(
        prepared.model,
        prepared.tokenizer,
        cell.task.name,
        cell.task.spec,
        cell.task.settings,
        **_evaluation(cell),
    )
    evaluate = measured.seconds_before + time.perf_counter() - start
    peak = provenance.peak_memory(device)
    peak["peak_memory_bytes"] = max(peak["peak_memory_bytes"] or 0, prepared.peak_memory_bytes)
    times = timing(started_at, {**prepared.seconds, "evaluate": evaluate})
    return cell.scored(prepared, measured, times | peak)


def _evaluation(cell: Cell) -> dict[str, Any]:
    """The arguments that a whole evaluation and a shard of one share."""
    common = cell.experiment.common
    names = ("limit", "seed", "batch_size")
    shared = {name: getattr(common, name) for name in names}
    return {**shared, "data_root": common.data_folder, "cache_dir": cell.folder}


def _summary(result: dict[str, Any]) -> str:
    low, high = result["interval95"]
    return (
        f"{100 * result['score']:.1f}% [{100 * low:.1f}, {100 * high:.1f}], {result['n']} items, "
        f"{result['timing']['wall_seconds']['evaluate']:.0f} s"
    )


def _fail(cell: Cell, error: Exception, started_at: str) -> Outcome:
    """Record a failed cell; where even that cannot be written, say so, and the others go on."""
    where = f"traceback in {cell.folder / RESULT_FILE}"
    if isinstance(error, OSError) and error.errno in FULL and error.filename:
        where = explain_unwritten(Path(error.filename), error)
    try:
        write_result(cell.folder, cell.unscored({}, timing(started_at, {}), error))
    except OSError as unwritten:
        where = f"and {explain_unwritten(cell.folder, unwritten)}"
    logger.error("  %s failed: %s: %s (%s)", cell.task.name, type(error).__name__, error, where)
    return Outcome(cell.folder, "failed")


def _remove(folder: Path) -> None:
    """Take a cell's folder away again, and the sweep's and the runs folder if they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
        folder.parent.parent.rmdir()
