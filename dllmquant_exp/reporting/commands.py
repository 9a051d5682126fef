"""`report table=...`, `report claims` and `report audit`: to the screen and to files.

Each returns an exit status: 0 where everything is there, 1 where something is missing, failed or
cannot be read, which is then said; the rest is reported all the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dllmquant_exp.reporting.audit import HEADINGS, audit, audit_frame, audit_markdown
from dllmquant_exp.reporting.claim_pages import claims_document
from dllmquant_exp.reporting.claims import speed_verdicts, verdicts
from dllmquant_exp.reporting.figure_claims import of_model
from dllmquant_exp.reporting.figure_data import recorded_figures
from dllmquant_exp.reporting.grids import show
from dllmquant_exp.reporting.paper_pages import gap_lines, grids, long_frame, table_document
from dllmquant_exp.reporting.paper_tables import TABLES, PaperTable, paper_table, table_number
from dllmquant_exp.reporting.results import CellResult, read_sweep, unfinished_cells
from dllmquant_exp.reporting.selection import model_results, of_no_row
from dllmquant_exp.reporting.speed_pages import TITLE, print_speed, speed_document
from dllmquant_exp.reporting.speed_results import SpeedBlock, row_name, speed_blocks, speed_frame
from dllmquant_exp.reporting.writers import (
    Document,
    check_formats,
    write_cells,
    write_document,
    write_file,
)
from dllmquant_exp.tracking import TrackingSettings, log_tables

SENTENCE_WIDTH = 30
SPEED_TABLE = "table4"  # the only table without scores
Presets = Iterable[Mapping[str, Sequence[str]]]


def report_tables(
    name: str,
    runs_dir: Path,
    sweep: str,
    folder: Path,
    formats: str,
    presets: Presets,
    tracked: TrackingSettings,
) -> int:
    """Print and write one table of the paper, or all of them, and log them to W&B if wanted.

    Args:
        name: table1, ..., or all.
        folder: where files go, beside the numbers of every cell as CSV and Parquet.
        formats: see writers.check_formats.
        presets: which models belong together, see paper_tables.paper_table.
        tracked: W&B, off or where to; its record is kept in `folder`.

    Raises:
        ResultError: an unknown table, format or sweep, or a folder that cannot be written to.
        TrackingError: W&B could not start.
    """
    if name == SPEED_TABLE:
        return _report_speed(runs_dir, sweep, folder, formats, tracked)
    chosen = list(TABLES.values()) if name == "all" else [table_number(name)]
    kinds = check_formats(formats)
    cells, problems = read_sweep(runs_dir, sweep)
    results, presets = model_results(cells), list(presets)
    tables = [paper_table(number, results, presets) for number in chosen]
    console = Console()
    for table in tables:
        _show_table(table, console)
    documents, numbers = [table_document(table) for table in tables], long_frame(tables)
    speed = speed_blocks(cells) if name == "all" else []
    written = [
        *(path for document in documents for path in write_document(document, folder, kinds)),
        *write_cells(numbers, folder, "cells" if name == "all" else f"{name}_cells"),
    ]
    frames = {document.name: document.frame for document in documents} | {"cells": numbers}
    frames |= {SPEED_TABLE: speed_frame(speed)} if speed else {}
    log_tables(tracked, folder, name=f"report {name}", group=sweep, tables=frames)
    if speed:
        written += _write_speed(speed, folder, kinds, console)
    _say_rest(cells, sweep, written, console)
    gaps = [*(f"missing: {t.name}: no results" for t in tables if not t.blocks), *gap_lines(tables)]
    gaps += _speed_faults(speed)
    unfinished = [f"unfinished: {line}" for line in unfinished_cells(runs_dir, sweep)]
    unreadable = [f"unreadable: {problem}" for problem in problems]
    return _say_faults([*gaps, *unfinished, *unreadable], console)


def _report_speed(
    runs_dir: Path, sweep: str, folder: Path, formats: str, tracked: TrackingSettings
) -> int:
    """Table 4, from the cells of speed tasks."""
    kinds, console = check_formats(formats), Console()
    cells, problems = read_sweep(runs_dir, sweep)
    blocks = speed_blocks(cells)
    if blocks:
        written = _write_speed(blocks, folder, kinds, console)
        frames = {SPEED_TABLE: speed_frame(blocks)}
        log_tables(tracked, folder, name=f"report {SPEED_TABLE}", group=sweep, tables=frames)
        _say_written(written, console)
    gaps = _speed_faults(blocks) if blocks else [f"missing: {TITLE}: no results"]
    return _say_faults([*gaps, *(f"unreadable: {problem}" for problem in problems)], console)


def _write_speed(
    blocks: Sequence[SpeedBlock], folder: Path, kinds: Sequence[str], console: Console
) -> list[Path]:
    document = speed_document(blocks)
    console.print(Text(f"{document.title}. {document.caption}", style="bold"))
    console.print()
    print_speed(blocks, console)
    written = write_document(document, folder, kinds)
    return [*written, *write_cells(speed_frame(blocks), folder, f"{SPEED_TABLE}_cells")]


def _speed_faults(blocks: Iterable[SpeedBlock]) -> list[str]:
    return [
        f"failed: {block.model}, {row_name(cell)}: {cell.error}"
        for block in blocks
        for cell in block.failed
    ]


def _show_table(table: PaperTable, console: Console) -> None:
    console.print(Text(f"{table.name}. {table.caption}", style="bold"))
    console.print()
    for block in table.blocks:
        console.print(Text(block.table.title, style="bold underline"))
        show(grids(block).values(), block.table.notes, console)
        console.print()


def report_claims(runs_dir: Path, sweep: str, folder: Path, formats: str) -> int:
    """Print and write a verdict on each of the paper's claims, for each model of a sweep.

    Figures recorded in the runs folder decide what a model's results cannot. A shape of which only
    Table 4 was measured has the claims about speed and memory.

    Raises:
        ResultError: an unknown format or sweep, or a folder that cannot be written to.
    """
    kinds = check_formats(formats)
    cells, problems = read_sweep(runs_dir, sweep)
    results = model_results(cells)
    figures, broken = recorded_figures(runs_dir)
    speed = {block.model: block for block in speed_blocks(cells)}
    found = {
        of.title: verdicts(
            of, of_model(figures, of.model, of.checkpoints), speed.pop(of.model, None)
        )
        for of in results
    }
    found |= {block.title: speed_verdicts(block) for block in speed.values() if block.cells}
    document = claims_document(found, {of.title: of.notes for of in results})
    console = Console()
    _show_document(document, console)
    _say_rest(cells, sweep, write_document(document, folder, kinds), console)
    lacking = [
        f"not measured: {title}: {sum(bool(v.needs) and v.in_tables for v in decided)} claims"
        for title, decided in found.items()
        if any(v.needs and v.in_tables for v in decided)
    ]
    lacking += [] if found else ["missing: no results of any row of the paper's tables"]
    failed = [f"failed: {cell.folder.name}" for cell in cells if cell.status == "failed"]
    unread = [f"unreadable: {problem}" for problem in (*problems, *broken)]
    faults = [*lacking, *failed, *unread]
    return _say_faults(faults, console)


def _show_document(document: Document, console: Console) -> None:
    console.print(Text(document.caption))
    console.print()
    for section in document.sections:
        console.print(Text(section.title, style="bold underline"))
        show(section.grids, section.notes, console, SENTENCE_WIDTH)
        console.print()


def report_audit(folder: Path) -> int:
    """Print and write what in the paper's own numbers does not add up; needs no results.

    Raises:
        ResultError: a folder that cannot be written to.
    """
    findings = audit()
    console = Console()
    for severity, heading in HEADINGS.items():
        found = [finding for finding in findings if finding.severity == severity]
        console.print(Text(f"{heading} ({len(found)})", style="bold"))
        for finding in found:
            console.print(Text(finding.where, style="cyan"))
            expected = f", expected {finding.expected}" if finding.expected else ""
            console.print(Text(f"  printed {finding.printed}{expected}. {finding.sentence}"))
        console.print()
    written = [
        write_file(folder / "audit.md", audit_markdown(findings)),
        write_file(folder / "audit.csv", audit_frame(findings).to_csv(index=False)),
    ]
    _say_written(written, console)
    return 0


def _say_rest(
    cells: Iterable[CellResult], sweep: str, written: Sequence[Path], console: Console
) -> None:
    others = of_no_row(cells)
    if others:
        text = f"{len(others)} results are of no row of the paper's tables; report sweep={sweep} "
        console.print(Text(f"{text}shows them.", style="dim"))
    _say_written(written, console)


def _say_written(written: Sequence[Path], console: Console) -> None:
    names = ", ".join(path.name for path in written)
    console.print(Text(f"written to {written[0].parent}: {names}"), soft_wrap=True)


def _say_faults(faults: Sequence[str], console: Console) -> int:
    for fault in faults:
        console.print(Text(fault, style="red"), soft_wrap=True)
    return 1 if faults else 0
