"""From a sweep's files to what a report says of them: one way for the commands and for frames.

Nothing is printed or written here, and nothing stops at a file that cannot be read: it is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dllmquant_exp.reporting.cells import of_models, read_sweep
from dllmquant_exp.reporting.claim_pages import claims_document
from dllmquant_exp.reporting.claims import UNMEASURED, Verdict, speed_verdicts, verdicts
from dllmquant_exp.reporting.figures.recordings import all_deciding, of_model, recorded_figures
from dllmquant_exp.reporting.paper_pages import gap_lines, long_frame, table_document
from dllmquant_exp.reporting.paper_tables import TABLES, paper_table
from dllmquant_exp.reporting.presets import Presets, expected_models, narrowed, place
from dllmquant_exp.reporting.remarks import source_notes
from dllmquant_exp.reporting.rows import SPEED_TABLE
from dllmquant_exp.reporting.selection import ModelResults, model_results, of_no_row
from dllmquant_exp.reporting.speed.pages import speed_document
from dllmquant_exp.reporting.speed.results import is_speed, speed_blocks, speed_frame, speed_gaps
from dllmquant_exp.reporting.writers import Document
from dllmquant_exp.store.results import ResultError
from dllmquant_exp.store.unfinished import unfinished_cells

TABLE_NAMES = tuple(sorted([*TABLES, SPEED_TABLE]))


@dataclass(frozen=True)
class Report:
    """What is said, and what could not be.

    Attributes:
        cells: the numbers behind the documents in long form, by the name of their file.
        faults: what is missing, failed or unfinished, a line each.
        unreadable: files that cannot be read, and why.
        of_no_row: how many results are of no row of the paper's tables.
    """

    documents: tuple[Document, ...]
    faults: tuple[str, ...]
    unreadable: tuple[str, ...]
    of_no_row: int
    cells: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def tables_report(
    name: str, runs_dir: Path, sweep: str, presets: Presets, models: Sequence[str] = ()
) -> Report:
    """One table of the paper, or all of them.

    Args:
        name: one of TABLE_NAMES, or all.
        presets: which models belong together, see presets.expected_models.
        models: of these alone; of all that the sweep holds, or should hold, where none is named.

    Raises:
        ResultError: no such table or sweep, or a model without results in it.
    """
    if name not in (*TABLE_NAMES, "all"):
        raise ResultError(f"table = {name!r} is not one of: {', '.join(TABLE_NAMES)}, all")
    found, unreadable = read_sweep(runs_dir, sweep)
    found, presets = of_models(found, models), narrowed(presets, models)
    results = sorted(model_results(found), key=lambda of: place(presets, of.model))
    documents: list[Document] = []
    gaps: list[str] = []
    cells: dict[str, pd.DataFrame] = {}
    scored = [paper_table(TABLES[n], results, presets) for n in TABLES if name in (n, "all")]
    if scored:
        documents += map(table_document, scored)
        gaps += gap_lines(scored)
        cells["cells" if name == "all" else f"{name}_cells"] = long_frame(scored)
    if name in (SPEED_TABLE, "all"):
        present = {of.model: of.embedded for of in results}
        present |= {cell.model: cell.embedded for cell in found if is_speed(cell)}
        expected = expected_models(presets, "all", present)
        blocks = speed_blocks(found, expected)
        blocks.sort(key=lambda block: place(presets, block.model))
        documents.append(speed_document(blocks))
        gaps += speed_gaps(blocks)
        cells[f"{SPEED_TABLE}_cells"] = speed_frame(blocks)
    documents.sort(key=lambda document: document.name)
    empty = [f"missing: {of.title}: no results" for of in documents if not of.sections]
    return Report(
        tuple(documents),
        (*empty, *gaps, *_unfinished(runs_dir, sweep, models)),
        tuple(unreadable),
        len(of_no_row(found)),
        cells,
    )


def claims_report(
    runs_dir: Path, sweep: str, presets: Presets, models: Sequence[str] = ()
) -> Report:
    """A verdict on each of the paper's claims, for each model of a sweep.

    Figures recorded in the runs folder decide what a model's results cannot. A shape of which only
    Table 4 was measured has the claims about speed and memory.

    Raises:
        ResultError: no such sweep, or a model without results in it.
    """
    cells, unreadable = read_sweep(runs_dir, sweep)
    cells, presets = of_models(cells, models), narrowed(presets, models)
    results = _with_missing(model_results(cells), presets)
    figures, broken = recorded_figures(runs_dir)
    speed = {block.model: block for block in speed_blocks(cells)}
    recorded = {of.title: of_model(figures, of.model, of.checkpoints) for of in results}
    found = {
        of.title: verdicts(of, recorded[of.title], speed.pop(of.model, None)) for of in results
    }
    others = sorted(speed.values(), key=lambda block: place(presets, block.model))
    found |= {block.title: speed_verdicts(block) for block in others if block.cells}
    notes = {
        of.title: (
            *of.notes,
            *source_notes(of.cells),
            *source_notes(all_deciding(recorded[of.title]), "figures"),
        )
        for of in results
    }
    document = claims_document(found, notes)
    faults = [line for title, decided in found.items() for line in _lacking(title, decided)]
    faults += [] if found else ["missing: no results of any row of the paper's tables"]
    faults += [f"failed: {cell.folder.name}" for cell in cells if cell.status == "failed"]
    faults += _unfinished(runs_dir, sweep, models)
    return Report((document,), tuple(faults), (*unreadable, *broken), len(of_no_row(cells)))


def _lacking(title: str, decided: Sequence[Verdict]) -> list[str]:
    """What the claims that were not measured need: rows, controls, figures; each once."""
    needs = [verdict.needs for verdict in decided if verdict.verdict == UNMEASURED]
    if not needs:
        return []
    single = dict.fromkeys(part for text in needs for part in text.split("; "))
    return [f"not measured: {title}: {len(needs)} claims, which need {'; '.join(single)}"]


def _with_missing(results: Sequence[ModelResults], presets: Presets) -> list[ModelResults]:
    """With the models of a preset that have no results, in the presets' order."""
    present = {found.model: found.embedded for found in results}
    expected = expected_models(presets, "all", present)
    missing = [model for model in expected if model not in present]
    every = [*results, *(ModelResults(model, expected[model]) for model in missing)]
    return sorted(every, key=lambda of: place(presets, of.model))


def _unfinished(runs_dir: Path, sweep: str, models: Sequence[str]) -> list[str]:
    return [f"unfinished: {line}" for line in unfinished_cells(runs_dir, sweep, models)]
