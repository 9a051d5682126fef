"""`report table=...`, `report claims` and `report audit`: to the screen and to files.

Each returns an exit status: 0 where everything is there, 1 where something is missing, failed or
cannot be read, which is then said; the rest is reported all the same.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dllmquant_exp.reporting.render import (
    NAME_WIDTH,
    check_formats,
    show_document,
    write_cells,
    write_document,
    write_file,
)
from dllmquant_exp.reporting.reports import Report, claims_report, tables_report
from dllmquant_exp.reporting.tables.presets import Presets
from dllmquant_exp.store.tracking import TrackingSettings, log_tables

SENTENCE_WIDTH = 30


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
        folder: where files go, beside the numbers of every cell as CSV and Parquet.
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
    status = _deliver(report, sweep, folder, kinds, NAME_WIDTH)
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
    return _deliver(report, sweep, folder, kinds, SENTENCE_WIDTH)


def _deliver(
    report: Report, sweep: str, folder: Path, kinds: Sequence[str], name_width: int
) -> int:
    """Print a report, write its files, and return the exit status."""
    console = Console()
    for document in report.documents:
        show_document(document, console, name_width)
    written = [p for document in report.documents for p in write_document(document, folder, kinds)]
    written += [p for name, frame in report.cells.items() for p in write_cells(frame, folder, name)]
    if report.of_no_row:
        text = f"{report.of_no_row} results are of no row of the paper's tables; "
        console.print(Text(f"{text}report sweep={sweep} shows them.", style="dim"))
    _say_written(written, console)
    faults = [*report.faults, *(f"unreadable: {problem}" for problem in report.unreadable)]
    for fault in faults:
        console.print(Text(fault, style="red"), soft_wrap=True)
    return 1 if faults else 0


def report_audit(folder: Path) -> int:
    """Print and write what in the paper's own numbers does not add up; needs no results.

    Raises:
        ResultError: a folder that cannot be written to.
    """
    # Reports of results do not wait for these.
    from dllmquant_exp.reporting.paper.audit import HEADINGS, audit, audit_frame, audit_markdown

    findings = audit()
    console = Console()
    for severity, heading in HEADINGS.items():
        found = [finding for finding in findings if finding.severity == severity]
        console.print(Text(f"{heading} ({len(found)})", style="bold"))
        for finding in found:
            console.print(Text(finding.where, style="cyan"))
            stated = f"{finding.stated}. " if finding.stated else ""
            console.print(Text(f"  {stated}{finding.sentence}"))
        console.print()
    written = [
        write_file(folder / "audit.md", audit_markdown(findings)),
        write_file(folder / "audit.csv", audit_frame(findings).to_csv(index=False)),
    ]
    _say_written(written, console)
    return 0


def _say_written(written: Sequence[Path], console: Console) -> None:
    names = ", ".join(path.name for path in written)
    console.print(Text(f"written to {written[0].parent}: {names}"), soft_wrap=True)
