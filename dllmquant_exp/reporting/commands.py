"""`report ...`: to the screen and to files.

Each returns an exit status: 0 where everything is there, 1 where something is missing, failed or
cannot be read, which is then said; the rest is reported all the same.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dllmquant_exp.reporting.paper.audit import audit_document
from dllmquant_exp.reporting.render import (
    FORMATS,
    NAME_WIDTH,
    check_formats,
    show,
    write_document,
    write_file,
)
from dllmquant_exp.reporting.reports import (
    Report,
    Sweep,
    claims_report,
    sweep_report,
    tables_report,
)
from dllmquant_exp.store.tracking import TrackingSettings, log_tables

SENTENCE_WIDTH = 30  # letters of a claim in a terminal


def report_sweep(sweep: Sweep, form: str) -> int:
    """Print the tables of a sweep; for form `csv` every number, and to stderr what is missing.

    Raises:
        ResultError: see reports.Sweep.
    """
    report = sweep_report(sweep.cells, sweep.unreadable, sweep.unfinished)
    if form == "csv":
        print(report.cells["cells"].to_csv(index=False), end="")
        for fault in _faults(report):
            print(fault, file=sys.stderr)
    else:
        print_report(report, Console())
    if sweep.cells.empty:
        print(f"no results in {sweep.runs_dir / sweep.name} yet", file=sys.stderr)
    return 1 if _faults(report) or sweep.cells.empty else 0


def report_tables(
    name: str, sweep: Sweep, folder: Path, formats: str, tracked: TrackingSettings
) -> int:
    """Print and write one table of the paper, or all of them, and log them to W&B if wanted.

    Args:
        name: an option of conf/table, or all.
        folder: where files go, beside the numbers of every cell as CSV.
        formats: see render.check_formats.
        tracked: W&B, off or where to; its record is kept in `folder`.

    Raises:
        ResultError: an unknown table, format, sweep or model, or a folder that cannot be written
            to.
        TrackingError: W&B could not start.
    """
    kinds = check_formats(formats)
    report = tables_report(name, sweep)
    status = _deliver(report, folder, kinds)
    pages = {document.name: document.frame for document in report.documents}
    log_tables(
        tracked, folder, name=f"report {name}", group=sweep.name, tables={**pages, **report.cells}
    )
    return status


def report_claims(sweep: Sweep, folder: Path, formats: str) -> int:
    """Print and write a verdict on each of the paper's claims, for each model of a sweep.

    Raises:
        ResultError: an unknown format, sweep or model, or a folder that cannot be written to.
    """
    kinds = check_formats(formats)
    return _deliver(claims_report(sweep), folder, kinds, SENTENCE_WIDTH)


def report_audit(folder: Path) -> int:
    """Print and write what in the paper's own numbers does not add up; needs no results.

    Raises:
        ResultError: a folder that cannot be written to.
    """
    return _deliver(Report([audit_document()]), folder, tuple(FORMATS), SENTENCE_WIDTH)


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
    for fault in _faults(report):
        console.print(Text(fault, style="red"), soft_wrap=True)
    return 1 if _faults(report) else 0


def _faults(report: Report) -> list[str]:
    return [*report.faults, *(f"unreadable: {problem}" for problem in report.unreadable)]
