"""`report ...`: to the screen and to files.

Each returns an exit status: 0 where everything is there, 1 where something is missing, failed or
cannot be read, which is then said; the rest is reported all the same.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dllmquant_exp.reporting.frame import of_models, read_sweep
from dllmquant_exp.reporting.paper.audit import audit_document
from dllmquant_exp.reporting.render import (
    FORMATS,
    NAME_WIDTH,
    check_formats,
    show,
    write_document,
    write_file,
)
from dllmquant_exp.reporting.reports import Report, claims_report, sweep_report, tables_report
from dllmquant_exp.reporting.tables.presets import Presets
from dllmquant_exp.store.tracking import TrackingSettings, log_tables
from dllmquant_exp.store.unfinished import unfinished_cells

SENTENCE_WIDTH = 30  # letters of a claim in a terminal


def report_sweep(runs_dir: Path, sweep: str, form: str, models: Sequence[str] = ()) -> int:
    """Print the tables of a sweep; for form `csv` every number, and to stderr what is missing.

    Raises:
        ResultError: an unknown sweep or model.
    """
    cells, unreadable = read_sweep(runs_dir, sweep)
    cells = of_models(cells, models)
    report = sweep_report(cells, unreadable, unfinished_cells(runs_dir, sweep, models))
    if form == "csv":
        print(report.cells["cells"].to_csv(index=False), end="")
        for line in (*report.faults, *(f"unreadable: {problem}" for problem in unreadable)):
            print(line, file=sys.stderr)
    else:
        print_report(report, Console())
    if cells.empty:
        print(f"no results in {runs_dir / sweep} yet", file=sys.stderr)
    return 1 if report.faults or unreadable or cells.empty else 0


def report_tables(
    name: str,
    runs_dir: Path,
    sweep: str,
    folder: Path,
    formats: str,
    presets: Presets,
    tracked: TrackingSettings,
    models: Sequence[str] = (),
) -> int:
    """Print and write one table of the paper, or all of them, and log them to W&B if wanted.

    Args:
        name: an option of conf/table, or all.
        folder: where files go, beside the numbers of every cell as CSV.
        formats: see render.check_formats.
        tracked: W&B, off or where to; its record is kept in `folder`.
        models: of these alone; of all where none is named.

    Raises:
        ResultError: an unknown table, format, sweep or model, or a folder that cannot be written
            to.
        TrackingError: W&B could not start.
    """
    kinds = check_formats(formats)
    report = tables_report(name, runs_dir, sweep, presets, models)
    status = _deliver(report, folder, kinds)
    pages = {document.name: document.frame for document in report.documents}
    frames = {**pages, **report.cells}
    log_tables(tracked, folder, name=f"report {name}", group=sweep, tables=frames)
    return status


def report_claims(
    runs_dir: Path,
    sweep: str,
    folder: Path,
    formats: str,
    presets: Presets,
    models: Sequence[str] = (),
) -> int:
    """Print and write a verdict on each of the paper's claims, for each model of a sweep.

    Raises:
        ResultError: an unknown format, sweep or model, or a folder that cannot be written to.
    """
    kinds = check_formats(formats)
    report = claims_report(runs_dir, sweep, presets, models)
    return _deliver(report, folder, kinds, SENTENCE_WIDTH)


def report_audit(folder: Path) -> int:
    """Print and write what in the paper's own numbers does not add up; needs no results.

    Raises:
        ResultError: a folder that cannot be written to.
    """
    return _deliver(Report((audit_document(),)), folder, tuple(FORMATS), SENTENCE_WIDTH)


def _deliver(
    report: Report, folder: Path, kinds: Sequence[str], name_width: int = NAME_WIDTH
) -> int:
    """Print a report, write its files, and return the exit status."""
    console = Console()
    written = [p for document in report.documents for p in write_document(document, folder, kinds)]
    for name, frame in report.cells.items():
        written.append(write_file(folder / f"{name}.csv", frame.to_csv(index=False)))
    status = print_report(report, console, name_width)
    names = ", ".join(path.name for path in written)
    console.print(Text(f"written to {folder}: {names}"), soft_wrap=True)
    return status


def print_report(report: Report, console: Console, name_width: int = NAME_WIDTH) -> int:
    """Print documents and faults, and return the exit status."""
    for document in report.documents:
        show(document, console, name_width)
    if report.remark:
        console.print(Text(report.remark, style="dim"))
    faults = [*report.faults, *(f"unreadable: {problem}" for problem in report.unreadable)]
    for fault in faults:
        console.print(Text(fault, style="red"), soft_wrap=True)
    return 1 if faults else 0
