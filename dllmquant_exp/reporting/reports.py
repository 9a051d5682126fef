"""From a sweep's files to the documents of a report: one way for the commands and for notebooks.

Nothing is printed or written here. A file that cannot be read does not stop a report: it is named.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.claims.verdicts import claims_document, claims_section
from dllmquant_exp.reporting.comparable import ModelResults, model_results
from dllmquant_exp.reporting.figures.recordings import all_deciding, of_model, recorded_figures
from dllmquant_exp.reporting.frame import SPEED, lines_of, of_models, read_sweep
from dllmquant_exp.reporting.notes import source_notes
from dllmquant_exp.reporting.render import Document
from dllmquant_exp.reporting.speed import (
    speed_cells,
    speed_document,
    speed_sections,
    speed_title,
)
from dllmquant_exp.reporting.tables.preset_table import preset_document
from dllmquant_exp.reporting.tables.presets import Presets, TablePreset, read_presets
from dllmquant_exp.reporting.tables.sweep_table import COLUMNS, sweep_sections
from dllmquant_exp.store.results import TABLES_SWEEP
from dllmquant_exp.store.unfinished import unfinished_cells


@dataclass(frozen=True)
class Report:
    """The documents of a report, and what could not be said.

    Attributes:
        faults: missing, failed and unfinished results, a line each.
        unreadable: files that cannot be read, and why.
        cells: the numbers behind the documents in long form, by the name of their file.
        remark: on results that are shown elsewhere; empty for none.
    """

    documents: tuple[Document, ...]
    faults: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    cells: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    remark: str = ""


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
    scored = [preset_document(of, results, presets) for of in chosen if not of.speed]
    timed = [_speed_document(frame, of, presets) for of in chosen if of.speed]
    documents = sorted([*scored, *timed], key=lambda of: of.name)
    faults = [f"missing: {of.title}: no results" for of in documents if not of.sections]
    faults += [fault for of in (*scored, *timed) for part in of.sections for fault in part.faults]
    faults += _unfinished(runs_dir, sweep, models)
    cells = {f"{of.name}_cells": of.lines for of in (timed if name == "all" else documents)}
    if name == "all":
        cells["cells"] = pd.concat([of.lines for of in scored if of.sections], ignore_index=True)
    unique = tuple(dict.fromkeys(faults))  # Tables 2 and 5 have the same cells
    remark = _remark(frame, presets, sweep)
    return Report(tuple(documents), unique, tuple(unreadable), cells, remark)


def _speed_document(frame: pd.DataFrame, preset: TablePreset, presets: Presets) -> Document:
    present = dict(zip(frame["model"], frame["embedded"], strict=True))
    expected = presets.expected(preset.models, present)
    return speed_document(speed_sections(lines_of(frame), expected, presets.place))


def sweep_report(
    frame: pd.DataFrame, unreadable: Sequence[str], unfinished: Sequence[str] = ()
) -> Report:
    """The tables of any results, whatever rows they are of.

    Args:
        unreadable, unfinished: lines about files and cells beside these results.
    """
    speed, scores = speed_sections(lines_of(frame)), sweep_sections(frame)
    faults = [fault for part in (*speed, *scores) for fault in part.faults]
    faults += [f"unfinished: {line}" for line in unfinished]
    document = Document("sweep", "", "", (*speed, *scores))
    cells = {"cells": Document("cells", "", "", tuple(scores), columns=COLUMNS).lines}
    return Report((document,), tuple(faults), tuple(unreadable), cells)


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
    speed = speed_cells(lines_of(frame))
    sections = []
    for of in results:
        recorded = of_model(figures, of.model, of.checkpoints)
        evidence = {"scores": of, "figures": recorded, "speed": speed.pop(of.model, ())}
        notes = [*of.notes, *source_notes(cell.commit for cell in of.cells)]
        notes += source_notes((one.commit for one in all_deciding(recorded)), "figures")
        sections.append(claims_section(of.title, evidence, notes))
    for model in sorted(speed, key=presets.place):
        cells = [cell for cell in speed[model] if cell.status == "finished"]
        if cells:
            title = speed_title(model, cells[-1].embedded)
            sections.append(claims_section(title, {"speed": cells}, ()))
    faults = [fault for section in sections for fault in section.faults]
    faults += [] if sections else ["missing: no results of any row of the paper's tables"]
    failed = frame.loc[frame["status"] == "failed", "folder"]
    faults += [f"failed: {folder.name}" for folder in failed]
    faults += _unfinished(runs_dir, sweep, models)
    page = claims_document(sections)
    remark = _remark(frame, presets, sweep)
    return Report((page,), tuple(faults), (*unreadable, *broken), remark=remark)


def _with_missing(results: Sequence[ModelResults], presets: Presets) -> list[ModelResults]:
    """Add an option's (conf/models) models that have no results; in the order of the option."""
    present = {found.model: found.embedded for found in results}
    expected = presets.expected("${models.all}", present)
    missing = [ModelResults(name, expected[name]) for name in expected if name not in present]
    return sorted([*results, *missing], key=lambda of: presets.place(of.model))


def _remark(frame: pd.DataFrame, presets: Presets, sweep: str) -> str:
    others = (~frame["row"].isin(presets.labels) & (frame["kind"] != SPEED)).sum()
    text = f"{others} results are of no row of the paper's tables; report sweep={sweep} shows them."
    return text if others else ""


def _unfinished(runs_dir: Path, sweep: str, models: Sequence[str]) -> list[str]:
    return [f"unfinished: {line}" for line in unfinished_cells(runs_dir, sweep, models)]


def results(runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP) -> pd.DataFrame:
    """The results of a sweep, a line per cell; `frame.Cell` says its columns.

    Files that cannot be read are warned of, here and below.

    Raises:
        ResultError: no such sweep.
    """
    frame, unreadable = read_sweep(Path(runs_dir), sweep)
    _warn(unreadable)
    return frame


def table(
    name: str, runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """A table as text, as `report table=...` prints it; a row or model that is missing has `-`.

    Args and Raises: as `tables_report`, for a single table.
    """
    return _one_table(name, runs_dir, sweep, models).page


def table_cells(
    name: str, runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """The numbers behind `table`, one line each; see preset_table.py and speed.py."""
    return _one_table(name, runs_dir, sweep, models).lines


def _one_table(name: str, runs_dir: str | Path, sweep: str, models: Sequence[str]) -> Document:
    presets = read_presets(config_folder())
    report = tables_report(presets.table(name).name, Path(runs_dir), sweep, presets, models)
    _warn(report.unreadable, level=4)
    return report.documents[0]


def claim_verdicts(
    runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """The paper's claims, a line per model and claim; see claims.verdicts and `claims_report`."""
    report = claims_report(Path(runs_dir), sweep, read_presets(config_folder()), models)
    _warn(report.unreadable)
    return report.documents[0].lines


def _warn(unreadable: Sequence[str], level: int = 3) -> None:
    for problem in unreadable:
        warnings.warn(f"unreadable: {problem}", stacklevel=level)
