"""A sweep's results, its tables and the verdicts on claims, as frames of numbers."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dllmquant_exp.reporting import reports
from dllmquant_exp.reporting.frame import of_models
from dllmquant_exp.reporting.statistics import score_interval
from dllmquant_exp.store.results import TABLES_SWEEP

Folder = str | Path
# Columns of `results` beside the score and its interval.
_COLUMNS = [
    "model", "method", "quant", "row", "task", "label", "kind", "seed", "status", "chance", "n",
    "checkpoint", "config_hash", "commit", "finished_at", "error", "folder",
]  # fmt: skip


def results(sweep: str = "default", *, runs_dir: Folder = "runs") -> pd.DataFrame:
    """The cells of a sweep, a line each: a model's row on a task with a seed.

    Files that cannot be read are warned of.

    Returns:
        `score` and `chance` in percent, the score's 95% interval `low` to `high`, items `n`,
        `status` (finished, failed), and where the cell comes from: seed, hash, commit, folder.

    Raises:
        ResultError: no such sweep.

    >>> from dllmquant_exp import evaluate, load, results
    >>> _ = evaluate(load("micro_llada", threads=1), "micro_piqa", limit=4)
    >>> results()[["model", "method", "task", "seed", "n"]].values.tolist()[0]
    ['micro_llada', 'fp', 'micro_piqa', 0, 4]
    """
    cells = reports.results(runs_dir, sweep)
    limits = [score_interval(list(scores)) if len(scores) else None for scores in cells["scores"]]
    found = cells[_COLUMNS].copy()
    found.insert(9, "score", 100 * cells["score"].astype(float))
    found.insert(10, "low", [100 * of.low if of else None for of in limits])
    found.insert(11, "high", [100 * of.high if of else None for of in limits])
    found["chance"] = 100 * cells["chance"].astype(float)
    found["folder"] = found["folder"].map(str)
    return found


def table(
    name: str | None = None,
    *,
    sweep: str | None = None,
    runs_dir: Folder = "runs",
    models: Sequence[str] = (),
) -> pd.DataFrame:
    """The numbers of a sweep's own table, or of one of the paper's tables made of its cells.

    Args:
        name: table1 to table6; None for the sweep's own table.
        sweep: by default "tables" for the paper's tables, else "default".
        models: of these alone.

    Returns:
        As `evaluate`; the paper's tables have rows that are missing too, and their own columns.

    Raises:
        ResultError: no such sweep or table, or a model without results in it.

    >>> from dllmquant_exp import evaluate, load, table
    >>> _ = evaluate(load("micro_llada", threads=1), "micro_piqa", limit=4)
    >>> table()[["row", "task", "n"]].values.tolist()[0]
    ['fp', 'micro_piqa', 4]
    """
    if name is not None:
        return reports.table_cells(name, runs_dir, sweep or TABLES_SWEEP, models)
    return scores(of_models(reports.results(runs_dir, sweep or "default"), models))


def verdicts(
    sweep: str = TABLES_SWEEP, *, runs_dir: Folder = "runs", models: Sequence[str] = ()
) -> pd.DataFrame:
    """A verdict on each of the paper's claims, a line per model and claim.

    Returns:
        `verdict` (holds, does not hold, undecided, at chance, no event, not measured), `effect`
        with its 95% interval `low` to `high` in `unit`, p by Holm's correction, items `n`, what a
        claim `needs` that was not measured.

    Raises:
        ResultError: no such sweep, or a model without results in it.

    >>> from dllmquant_exp import evaluate, load, verdicts
    >>> _ = evaluate(load("micro_llada", threads=1), "micro_piqa", limit=4)
    >>> found = verdicts("default", models=["micro_llada"])
    >>> set(found["verdict"])
    {'not measured'}
    """
    return reports.claim_verdicts(runs_dir, sweep, models)


def scores(cells: pd.DataFrame, unreadable: Sequence[str] = ()) -> pd.DataFrame:
    """Lines of the tables that cells make, with the tables' notes."""
    report = reports.sweep_report(cells, unreadable)
    found = report.cells["cells"]
    sections = [section for document in report.documents for section in document.sections]
    found.attrs["notes"] = [f"{of.title}: {note}" for of in sections for note in of.notes]
    return found
