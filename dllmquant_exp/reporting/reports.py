"""From a sweep's files to the documents of a report: one way for the commands and for notebooks.

Nothing is printed or written here. A file that cannot be read does not stop a report: it is named.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
class Sweep:
    """A sweep's results, read when they are first asked for.

    Attributes:
        models: of these alone; of all that the sweep holds, or should hold, where none is named.
        folders: the configuration that describes tables, rows and models.

    Raises:
        ResultError: of what is read: no such sweep, or a model without results in it.
    """

    runs_dir: Path
    name: str = TABLES_SWEEP
    models: Sequence[str] = ()
    folders: Sequence[Path] = field(default_factory=lambda: (config_folder(),))

    @cached_property
    def presets(self) -> Presets:
        return read_presets(*self.folders).narrowed(self.models)

    @cached_property
    def _read(self) -> tuple[pd.DataFrame, list[str]]:
        return read_sweep(self.runs_dir, self.name)

    @cached_property
    def cells(self) -> pd.DataFrame:
        return of_models(self._read[0], self.models)

    @property
    def unreadable(self) -> list[str]:
        return self._read[1]

    @property
    def unfinished(self) -> list[str]:
        found = unfinished_cells(self.runs_dir, self.name, self.models)
        return [f"unfinished: {line}" for line in found]

    def results(self) -> list[ModelResults]:
        """Comparable results by model, in the order of the presets."""
        found = model_results(self.cells, self.presets.samples)
        return sorted(found, key=lambda of: self.presets.place(of.model))

    @property
    def remark(self) -> str:
        """On results that only the sweep's own report shows; empty for none."""
        listed = self.cells["row"].isin(self.presets.labels) | (self.cells["kind"] == SPEED)
        count, text = int((~listed).sum()), "results are of no row of the paper's tables"
        return f"{count} {text}; report sweep={self.name} shows them." if count else ""


@dataclass(frozen=True)
class Report:
    """The documents of a report, and what could not be said.

    Attributes:
        faults: missing, failed and unfinished results, a line each.
        unreadable: files that cannot be read, and why.
        cells: the numbers behind the documents in long form, by the name of their file.
        remark: on results that are shown elsewhere; empty for none.
    """

    documents: Sequence[Document]
    faults: Sequence[str] = ()
    unreadable: Sequence[str] = ()
    cells: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    remark: str = ""


def tables_report(name: str, sweep: Sweep) -> Report:
    """One table, or all of them.

    Args:
        name: an option of conf/table, or all.

    Raises:
        ResultError: no such table; see also Sweep.
    """
    presets = sweep.presets
    chosen = list(presets.tables.values()) if name == "all" else [presets.table(name, "all")]
    results = sweep.results()
    scored = [preset_document(of, results, presets) for of in chosen if not of.speed]
    timed = [_speed_document(of, sweep) for of in chosen if of.speed]
    documents = sorted([*scored, *timed], key=lambda of: of.name)
    faults = [f"missing: {of.title}: no results" for of in documents if not of.sections]
    faults += [fault for of in (*scored, *timed) for part in of.sections for fault in part.faults]
    faults = list(dict.fromkeys(faults))  # Tables 2 and 5 have the same cells
    cells = {f"{of.name}_cells": of.lines for of in (timed if name == "all" else documents)}
    if name == "all":
        cells["cells"] = pd.concat([of.lines for of in scored if of.sections], ignore_index=True)
    faults += sweep.unfinished
    return Report(documents, faults, sweep.unreadable, cells, sweep.remark)


def _speed_document(preset: TablePreset, sweep: Sweep) -> Document:
    cells, presets = sweep.cells, sweep.presets
    present = dict(zip(cells["model"], cells["embedded"], strict=True))
    expected = presets.expected(preset.models, present)
    return speed_document(speed_sections(lines_of(cells), expected, presets.place))


def sweep_report(
    cells: pd.DataFrame, unreadable: Sequence[str], unfinished: Sequence[str] = ()
) -> Report:
    """The tables of any results, whatever rows they are of.

    Args:
        unreadable, unfinished: lines about files and cells beside these results.
    """
    speed, scores = speed_sections(lines_of(cells)), sweep_sections(cells)
    faults = [fault for part in (*speed, *scores) for fault in part.faults]
    document = Document("sweep", "", "", (*speed, *scores))
    long = Document("cells", "", "", tuple(scores), columns=COLUMNS).lines
    return Report([document], [*faults, *unfinished], unreadable, {"cells": long})


def claims_report(sweep: Sweep) -> Report:
    """A verdict on each of the paper's claims, for each model of a sweep.

    Figures recorded in the runs folder decide what a model's results cannot. A shape of which only
    Table 4 was measured has the claims about speed and memory.
    """
    figures, broken = recorded_figures(sweep.runs_dir)
    speed = speed_cells(lines_of(sweep.cells))
    sections = []
    for of in _with_missing(sweep.results(), sweep.presets):
        recorded = of_model(figures, of.model, of.checkpoints)
        evidence = {"scores": of, "figures": recorded, "speed": speed.pop(of.model, ())}
        notes = [*of.notes, *source_notes(cell.commit for cell in of.cells)]
        notes += source_notes((one.commit for one in all_deciding(recorded)), "figures")
        sections.append(claims_section(of.title, evidence, notes))
    for model in sorted(speed, key=sweep.presets.place):
        if any(cell.status == "finished" for cell in speed[model]):
            title = speed_title(model, speed[model][-1].embedded)
            sections.append(claims_section(title, {"speed": speed[model]}, ()))
    faults = [fault for section in sections for fault in section.faults]
    faults += [] if sections else ["missing: no results of any row of the paper's tables"]
    failed = sweep.cells.loc[sweep.cells["status"] == "failed", "folder"]
    faults += [*(f"failed: {folder.name}" for folder in failed), *sweep.unfinished]
    unreadable = [*sweep.unreadable, *broken]
    return Report([claims_document(sections)], faults, unreadable, remark=sweep.remark)


def _with_missing(results: Sequence[ModelResults], presets: Presets) -> list[ModelResults]:
    """Add an option's (conf/models) models that have no results; in the order of the option."""
    present = {found.model: found.embedded for found in results}
    expected = presets.expected("${models.all}", present)
    missing = [ModelResults(name, expected[name]) for name in expected if name not in present]
    return sorted([*results, *missing], key=lambda of: presets.place(of.model))


def results(runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP) -> pd.DataFrame:
    """The results of a sweep, a line per cell; `frame.Cell` says its columns.

    Files that cannot be read are warned of, here and below.

    Raises:
        ResultError: no such sweep.
    """
    found = Sweep(Path(runs_dir), sweep)
    _warn(found.unreadable)
    return found.cells


def table(
    name: str, runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """A table as text, as `report table=...` prints it; a row or model that is missing has `-`.

    Args and Raises: as `tables_report`, for a single table.
    """
    return _one_table(name, Sweep(Path(runs_dir), sweep, models)).page


def table_cells(
    name: str, runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """The numbers behind `table`, one line each; see preset_table.py and speed.py."""
    return _one_table(name, Sweep(Path(runs_dir), sweep, models)).lines


def _one_table(name: str, sweep: Sweep) -> Document:
    report = tables_report(sweep.presets.table(name).name, sweep)
    _warn(report.unreadable, level=4)
    return report.documents[0]


def claim_verdicts(
    runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """The paper's claims, a line per model and claim; see claims.verdicts and `claims_report`."""
    report = claims_report(Sweep(Path(runs_dir), sweep, models))
    _warn(report.unreadable)
    return report.documents[0].lines


def _warn(unreadable: Sequence[str], level: int = 3) -> None:
    for problem in unreadable:
        warnings.warn(f"unreadable: {problem}", stacklevel=level)
