"""The frame of a call of Hydra: checks before it writes anything, table and exit status after.

A job tells its launcher nothing but its exit, and only some launchers run in this process. Each
job therefore leaves an `outcome.json` in its own Hydra folder, and the end of the call reads them.
"""

import functools
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from dllmquant_exp.errors import BAD_INPUT, FAILED, ConfigError, Refusal
from dllmquant_exp.store.progress import duration, within
from dllmquant_exp.store.results import write_json

logger = logging.getLogger(__name__)
OUTCOME_FILE = "outcome.json"
COMPOSED_FILE = "multirun.yaml"  # Hydra's copy of what is swept, written as the jobs begin
LOCAL = "local"  # the option of the group `launcher`
_checked: dict[tuple[str, ...], Any] = {}  # the experiment of a single run, between start and job


def run_job(config: DictConfig) -> None:
    """Hydra's task function: one job, whose outcome is written down and never raised.

    A single run stops at bad input before anything is written; a sweep records it and goes on.
    """
    from dllmquant_exp.run import job
    from dllmquant_exp.run.allocator import keep_freed_memory
    from dllmquant_exp.run.machine import explain_unwritten

    keep_freed_memory()  # of a worker process, too
    hydra = HydraConfig.get()
    folders, problem = [], None
    try:
        experiment = _checked.pop(tuple(hydra.overrides.task), None) or _check(config, hydra)
        keep_going = hydra.mode == RunMode.MULTIRUN
        with within(place_of(hydra)) if keep_going else nullcontext():
            outcomes = job.run(experiment, keep_going=keep_going)
        folders = [cell.folder.resolve() for cell in outcomes]
    except Refusal as error:
        problem = str(error)
    path = Path(hydra.runtime.output_dir)
    try:
        write_outcome(path, folders, problem)
    except OSError as error:
        logger.error("%s", explain_unwritten(path, error))


def place_of(hydra: Any) -> str:
    """A job's place in its sweep, and the time left for all of it at the pace of those before.

    Every job has its outcome's file from the beginning; those that are over have written it anew.
    """
    sweep, place = Path(hydra.sweep.dir), f"job {int(hydra.job.num) + 1}"
    with suppress(OSError):  # the call that submitted it may have ended, and tidied up
        began = (sweep / COMPOSED_FILE).stat().st_mtime
        files = [path / OUTCOME_FILE for path in sweep.iterdir() if path.name.isdigit()]
        over = sum(path.stat().st_mtime > began for path in files)
        place += f" of {len(files)}"
        if over:
            left = (time.time() - began) / over * (len(files) - over)
            place += f" (about {duration(left)} left for all)"
    return place


def write_outcome(job: Path, cells: Iterable[Path], error: str | None = None) -> None:
    """Write down a job's cells, and what ended it before its end."""
    write_json(job / OUTCOME_FILE, {"cells": [str(cell) for cell in cells], "error": error})


def _check(config: DictConfig, hydra: Any = None) -> Any:
    """The experiment of a job that can run here (ConfigError)."""
    from dllmquant_exp.run.machine import check_surroundings
    from dllmquant_exp.run.sweep.composition import experiment_of

    experiment = experiment_of(config, hydra)
    check_surroundings([experiment])
    return experiment


def _never_silent(method: Callable[..., None]) -> Callable[..., None]:
    """Hydra turns a callback's exception into a warning and goes on; this leaves instead."""

    @functools.wraps(method)
    def guarded(*arguments: Any, **keywords: Any) -> None:
        try:
            method(*arguments, **keywords)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(BAD_INPUT) from error
        except Exception as error:
            traceback.print_exc()
            raise SystemExit(FAILED) from error

    return guarded


class RunReport(Callback):
    """Checks first, table and exit status last; see the module docstring."""

    @_never_silent
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a configuration that cannot run, before Hydra makes a folder."""
        from dllmquant_exp.config.overrides import Overrides

        place = Overrides.read(list(config.hydra.overrides.task)).value("launcher")
        if place not in (None, LOCAL):
            raise ConfigError(
                f"launcher={place} places the jobs of a sweep, and this is one job, which runs "
                "here: add -m, or leave it out"
            )
        _checked.clear()
        _checked[tuple(config.hydra.overrides.task)] = _check(config)

    @_never_silent
    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        finish([Path(config.hydra.runtime.output_dir)])

    @_never_silent
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
        finish(jobs)
        _tidy(folder, COMPOSED_FILE)  # kept after a failure


def finish(jobs: Sequence[Path]) -> None:
    """Print the table of the jobs' cells, and leave with a status unless every cell is there.

    Raises:
        SystemExit: 2 for bad input in a single run, 1 where a cell or a job of a sweep failed.
    """
    from dllmquant_exp.reporting.commands import print_report
    from dllmquant_exp.reporting.frame import read_cells
    from dllmquant_exp.reporting.reports import sweep_report
    from dllmquant_exp.store.results import RESULT_FILE
    from dllmquant_exp.store.unfinished import unfinished

    outcomes = [_read_outcome(job) for job in jobs]
    errors = list(dict.fromkeys(outcome["error"] for outcome in outcomes if outcome["error"]))
    folders = dict.fromkeys(Path(cell) for outcome in outcomes for cell in outcome["cells"])
    made = [folder for folder in folders if (folder / RESULT_FILE).exists()]
    missing = [unfinished(folder) for folder in folders if folder not in made]
    cells, problems = read_cells(made)
    print_report(sweep_report(cells, problems), Console())
    for line in [*(f"unfinished: {line}" for line in missing), *(f"error: {e}" for e in errors)]:
        print(line, file=sys.stderr)
    for job in jobs:
        _tidy(job, OUTCOME_FILE)
    if errors or problems or missing or (cells["status"] == "failed").any():
        raise SystemExit(BAD_INPUT if errors and len(jobs) == 1 else FAILED)


def _tidy(folder: Path, file: str) -> None:
    """Remove what only this call needed, and the folders made for it that are empty now."""
    with suppress(OSError):
        (folder / file).unlink()
        folder.rmdir()
        if folder.parent.name == ".hydra":
            folder.parent.rmdir()
            folder.parent.parent.rmdir()  # the sweep's, empty when bad input stopped a first run


def _read_outcome(job: Path) -> dict[str, Any]:
    path = job / OUTCOME_FILE
    try:
        outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"cells": [], "error": f"job {job.name} ended without an outcome ({path})"}
    return outcome
