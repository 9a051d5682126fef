"""From a sweep's files to the documents of a report: one way for the commands and for notebooks.

Nothing is printed or written here. A file that cannot be read does not stop a report: it is named.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.claims.pages import claims_document
from dllmquant_exp.reporting.claims.verdicts import UNMEASURED, Verdict, speed_verdicts, verdicts
from dllmquant_exp.reporting.comparable import ModelResults, model_results
from dllmquant_exp.reporting.figures.recordings import all_deciding, of_model, recorded_figures
from dllmquant_exp.reporting.frame import SPEED, lines_of, of_models, read_sweep
from dllmquant_exp.reporting.notes import source_notes
from dllmquant_exp.reporting.render import Document
from dllmquant_exp.reporting.speed.pages import speed_document
from dllmquant_exp.reporting.speed.results import speed_blocks, speed_frame, speed_gaps
from dllmquant_exp.reporting.tables.preset_table import (
    document,
    gap_lines,
    long_frame,
    preset_tables,
)
from dllmquant_exp.reporting.tables.presets import Presets, read_presets
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.results import TABLES_SWEEP
from dllmquant_exp.store.unfinished import unfinished_cells


@dataclass(frozen=True)
class Report:
    """The documents of a report, and what could not be said.

    Attributes:
        cells: the numbers behind the documents in long form, by the name of their file.
        faults: missing, failed and unfinished results, a line each.
        unreadable: files that cannot be read, and why.
        of_no_row: number of results that belong to no row of the tables.
    """

    documents: tuple[Document, ...]
    faults: tuple[str, ...]
    unreadable: tuple[str, ...]
    of_no_row: int
    cells: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def tables_report(
    name: str, runs_dir: Path, sweep: str, presets: Presets, models: Sequence[str] = ()
) -> Report:
    """One table, or all of them.

    Args:
        name: an option of conf/table, or all.
        models: of these alone; of all that the sweep holds, or should hold, where none is named.

    Raises:
        ResultError: no such table or sweep, or a model without results in it.
    """
    chosen = list(presets.tables.values()) if name == "all" else [presets.table(name, "all")]
    frame, unreadable = read_sweep(runs_dir, sweep)
    frame, presets = of_models(frame, models), presets.narrowed(models)
    results = sorted(model_results(frame, presets.samples), key=lambda of: presets.place(of.model))
    scored = {of.name: preset_tables(of, results, presets) for of in chosen if not of.speed}
    documents = [document(presets.tables[of], parts) for of, parts in scored.items()]
    gaps = [gap for of, parts in scored.items() for gap in gap_lines(presets.tables[of], parts)]
    gaps = list(dict.fromkeys(gaps))  # Tables 2 and 5 have the same cells
    lines = long_frame([part for parts in scored.values() for part in parts])
    cells = {"cells" if name == "all" else f"{name}_cells": lines} if scored else {}
    for preset in (preset for preset in chosen if preset.speed):
        present = dict(zip(frame["model"], frame["embedded"], strict=True))
        blocks = speed_blocks(lines_of(frame), presets.expected(preset.models, present))
        blocks.sort(key=lambda block: presets.place(block.model))
        documents.append(speed_document(blocks))
        gaps += speed_gaps(blocks)
        cells[f"{preset.name}_cells"] = speed_frame(blocks)
    documents.sort(key=lambda of: of.name)
    empty = [f"missing: {of.title}: no results" for of in documents if not of.sections]
    faults = (*empty, *gaps, *_unfinished(runs_dir, sweep, models))
    return Report(tuple(documents), faults, tuple(unreadable), _of_no_row(frame, presets), cells)


def claims_report(
    runs_dir: Path, sweep: str, presets: Presets, models: Sequence[str] = ()
) -> Report:
    """A verdict on each of the paper's claims, for each model of a sweep.

    Figures recorded in the runs folder decide what a model's results cannot. A shape of which only
    Table 4 was measured has the claims about speed and memory.

    Raises:
        ResultError: no such sweep, or a model without results in it.
    """
    frame, unreadable = read_sweep(runs_dir, sweep)
    frame, presets = of_models(frame, models), presets.narrowed(models)
    results = _with_missing(model_results(frame, presets.samples), presets)
    figures, broken = recorded_figures(runs_dir)
    speed = {block.model: block for block in speed_blocks(lines_of(frame))}
    found: dict[str, list[Verdict]] = {}
    notes: dict[str, list[str]] = {}
    for of in results:
        recorded = of_model(figures, of.model, of.checkpoints)
        found[of.title] = verdicts(of, recorded, speed.pop(of.model, None))
        made = source_notes(of.cells) + source_notes(all_deciding(recorded), "figures")
        notes[of.title] = [*of.notes, *made]
    others = sorted(speed.values(), key=lambda block: presets.place(block.model))
    found |= {block.title: speed_verdicts(block) for block in others if block.cells}
    faults = [line for title, decided in found.items() for line in _lacking(title, decided)]
    faults += [] if found else ["missing: no results of any row of the paper's tables"]
    failed = frame.loc[frame["status"] == "failed", "folder"]
    faults += [f"failed: {folder.name}" for folder in failed]
    faults += _unfinished(runs_dir, sweep, models)
    page = claims_document(found, notes)
    return Report((page,), tuple(faults), (*unreadable, *broken), _of_no_row(frame, presets))


def _lacking(title: str, decided: Sequence[Verdict]) -> list[str]:
    """Rows, controls and figures that the claims without a measurement need; each once."""
    needs = [line["needs"] for line in decided if line["verdict"] == UNMEASURED]
    if not needs:
        return []
    single = dict.fromkeys(part for text in needs for part in text.split("; "))
    return [f"not measured: {title}: {len(needs)} claims, which need {'; '.join(single)}"]


def _with_missing(results: Sequence[ModelResults], presets: Presets) -> list[ModelResults]:
    """Add an option's (conf/models) models that have no results; in the order of the option."""
    present = {found.model: found.embedded for found in results}
    expected = presets.expected("${models.all}", present)
    missing = [ModelResults(name, expected[name]) for name in expected if name not in present]
    return sorted([*results, *missing], key=lambda of: presets.place(of.model))


def _of_no_row(frame: pd.DataFrame, presets: Presets) -> int:
    return int((~frame["row"].isin(presets.labels) & (frame["kind"] != SPEED)).sum())


def _unfinished(runs_dir: Path, sweep: str, models: Sequence[str]) -> list[str]:
    return [f"unfinished: {line}" for line in unfinished_cells(runs_dir, sweep, models)]


def results(runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP) -> pd.DataFrame:
    """The results of a sweep, a line per cell; `frame.Cell` says its columns.

    Files that cannot be read are warned of, here and below.

    Raises:
        ResultError: no such sweep.
    """
    frame, unreadable = read_sweep(expanded(runs_dir), sweep)
    _warn(unreadable)
    return frame


def table(
    name: str, runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """A table as text, as `report table=...` prints it; a row or model that is missing has `-`.

    Args and Raises: as `tables_report`, for a single table.
    """
    return _one_table(name, runs_dir, sweep, models).documents[0].frame


def table_cells(
    name: str, runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """The numbers behind `table`, one line each; see preset_table.long_frame and speed_frame."""
    return _one_table(name, runs_dir, sweep, models).cells[f"{name}_cells"]


def _one_table(name: str, runs_dir: str | Path, sweep: str, models: Sequence[str]) -> Report:
    presets = read_presets(config_folder())
    report = tables_report(presets.table(name).name, expanded(runs_dir), sweep, presets, models)
    _warn(report.unreadable, level=4)
    return report


def claim_verdicts(
    runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """The paper's claims, a line per model and claim; see claims.verdicts and `claims_report`."""
    report = claims_report(expanded(runs_dir), sweep, read_presets(config_folder()), models)
    _warn(report.unreadable)
    return report.documents[0].frame.reset_index()


def _warn(unreadable: Sequence[str], level: int = 3) -> None:
    for problem in unreadable:
        warnings.warn(f"unreadable: {problem}", stacklevel=level)
