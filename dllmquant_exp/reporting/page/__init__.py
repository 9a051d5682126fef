"""A report as one HTML page that needs no network: tables, verdicts, figures, sources of numbers.

It reads the report's sections and the long frame of cells. A number opens to the runs behind it,
missing and failed cells are marked as such, and verdicts can be filtered.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from dllmquant_exp.reporting.claims.verdicts import LIMITS
from dllmquant_exp.reporting.figures.catalog import catalog
from dllmquant_exp.reporting.figures.recordings import all_deciding, recorded_figures
from dllmquant_exp.reporting.figures.style import styled
from dllmquant_exp.reporting.frame import Cell, lines_of
from dllmquant_exp.reporting.render import Document, Grid, Section, in_line, points
from dllmquant_exp.reporting.reports import Report, Sweep
from dllmquant_exp.store.results import RESULT_FILE

STEPS = (0.5, 2, 5, 15)  # points of change from full precision, for four strengths of a colour
NAMED_ITEMS = 12  # of those that flipped
WIDTH, MARGIN = 120, 6  # of a drawn interval, in pixels


@dataclass(frozen=True)
class Run:
    """One cell behind a number; `lost` and `gained` are items against full precision's run."""

    cell: Cell
    file: str
    lost: Sequence[str] | None
    gained: Sequence[str] | None


@dataclass(frozen=True)
class Number:
    """A cell of a table: value, interval and change as texts, and the runs behind them."""

    label: str
    value: str
    interval: str
    change: Sequence[str]  # and its interval
    tone: str  # a class of the style sheet: worse1 to better4
    state: str
    best: bool
    runs: Sequence[Run]


def html_page(report: Report, sweep: Sweep, folder: Path) -> str:
    """The page of a report.

    Args:
        folder: where it will lie; paths to result files begin there.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sources = _Sources(lines_of(sweep.cells), folder)
    documents = [
        {
            "name": of.name,
            "title": of.title or f"Sweep {sweep.name}",
            "caption": of.caption,
            "parts": [_part(section, sources) for section in of.sections],
            "figures": list(_figures(of, sweep)),
        }
        for of in report.documents
    ]
    return environment.get_template("page.html").render(
        title=documents[0]["title"] if len(documents) == 1 else "Tables",
        documents=documents,
        faults=[_split(fault) for fault in report.faults],
        unreadable=report.unreadable,
        remark=report.remark,
        source=f"{sweep.runs_dir / sweep.name}",
        named=NAMED_ITEMS,
        width=WIDTH,
    )


def _split(fault: str) -> tuple[str, str]:
    """State and text of a fault."""
    state, _, text = fault.partition(": ")
    return state, text


def _part(section: Section, sources: "_Sources") -> dict[str, Any]:
    """A section: numbers with their sources, verdicts, and the grids that are neither."""
    lines, grids = section.lines, dict(section.grids)
    table: list[tuple[str, list[Number]]] = []
    claims: list[dict[str, Any]] = []
    if "state" in lines and "score" in grids:
        table = list(_table(grids.pop("score"), lines, sources))
        grids.pop("change", None)
    elif "verdict" in lines:
        claims = list(_claims(lines, grids))
        grids = {}
    return {
        "title": section.title,
        "table": table,
        "footer": _footer(section.grids["score"]) if table else [],
        "claims": claims,
        "grids": [_texts(grid) for grid in grids.values()],
        "notes": section.notes,
    }


class _Sources:
    """The cells behind numbers, by the hashes of their configurations."""

    def __init__(self, cells: Sequence[Cell], folder: Path) -> None:
        self._folder = folder
        self._by_hash = {cell.config_hash: cell for cell in cells}
        plain = (cell for cell in cells if cell.bits is None and cell.status == "finished")
        self._plain = {(of.comparable, of.task, of.seed): of for of in plain}

    def runs(self, hashes: str) -> list[Run]:
        """The runs of a line of a table; none for an average over tasks."""
        return [self._run(self._by_hash[key]) for key in hashes.split() if key in self._by_hash]

    def _run(self, cell: Cell) -> Run:
        file = os.path.relpath(cell.folder / RESULT_FILE, self._folder)
        plain = self._plain.get((cell.comparable, cell.task, cell.seed))
        if plain is None or plain is cell or plain.items != cell.items:
            return Run(cell, file, None, None)
        change = cell.scores - plain.scores
        named = [" ".join(dict.fromkeys(item)) for item in cell.items]
        lost = [name for name, by in zip(named, change, strict=True) if by < 0]
        gained = [name for name, by in zip(named, change, strict=True) if by > 0]
        return Run(cell, file, lost, gained)


def _table(
    scores: Grid, lines: pd.DataFrame, sources: _Sources
) -> Iterator[tuple[str, list[Number]]]:
    """Rows by name, each with a number per column."""
    columns, rows = list(scores.texts.columns), len(scores.texts) - scores.footer
    listed = list(lines.itertuples())
    for i, name in enumerate(scores.texts.index[:rows]):
        own = listed[i * len(columns) : (i + 1) * len(columns)]
        best = [(i, j) in scores.best for j in range(len(columns))]
        made = zip(columns, own, best, strict=True)
        yield name, [_number(label, line, mark, sources) for label, line, mark in made]


def _number(label: str, line: Any, best: bool, sources: _Sources) -> Number:
    there = pd.notna(line.score)
    value, _, interval = points(line.score, line.low, line.high).partition(" ")
    change = points(line.change, line.change_low, line.change_high, sign=True)
    return Number(
        label=label,
        value=value if there else line.state,
        interval=interval,
        change=change.split(" ", 1) if pd.notna(line.change) else (),
        tone=_tone(line.change, line.change_low <= 0 <= line.change_high),
        state=line.state,
        best=best,
        runs=sources.runs(line.config_hash),
    )


def _tone(change: float, uncertain: bool) -> str:
    """The colour of a change, faint where its interval holds 0; empty where it is small."""
    strength = sum(abs(change) >= step for step in STEPS)
    shown = min(strength, 1) if uncertain else strength
    return f"{'worse' if change < 0 else 'better'}{shown}" if shown else ""


def _footer(scores: Grid) -> list[tuple[str, list[tuple[str, str]]]]:
    below = scores.texts.iloc[len(scores.texts) - scores.footer :]
    return _texts(Grid("", below))["rows"]


def _texts(grid: Grid) -> dict[str, Any]:
    """A grid of texts: its title, columns, and rows with labelled texts."""
    columns = list(grid.texts.columns)
    rows = [
        (in_line(name), list(zip(columns, texts, strict=True)))
        for name, *texts in grid.texts.itertuples(name=None)
    ]
    return {"title": grid.title, "columns": columns, "rows": rows, "prose": grid.prose}


def _claims(lines: pd.DataFrame, grids: Mapping[str, Grid]) -> Iterator[dict[str, Any]]:
    """Verdicts in the order of the claims, with the numbers as texts and a drawn interval."""
    texts = {name: iter(grid.texts.itertuples(index=False)) for name, grid in grids.items()}
    for line in lines.to_dict("records"):
        decided = not line["needs"]
        _, *parts = next(texts["decided" if decided else "others"])
        names = ("effect", "p", "n", "seeds", "detectable")
        yield {
            **line,
            "texts": dict(zip(names, parts, strict=True)) if decided else {},
            "drawn": _drawn(line) if decided else None,
        }


def _drawn(line: Mapping[str, Any]) -> dict[str, float] | None:
    """Places of an effect, its interval and the threshold, in pixels; None where one is missing."""
    value, low, high = (float(line[name]) for name in LIMITS)
    threshold = float(line["threshold"])
    ends = [value, low, high, threshold]
    if any(pd.isna(end) or abs(end) == float("inf") for end in ends):
        return None
    least, most = min(ends), max(ends)
    scale = (WIDTH - 2 * MARGIN) / (most - least or 1)
    places = dict(zip(("value", "low", "high", "threshold"), ends, strict=True))
    return {name: round(MARGIN + (end - least) * scale, 1) for name, end in places.items()}


def _figures(document: Document, sweep: Sweep) -> Iterator[dict[str, str]]:
    """Pictures that belong to a document: of its results, or the recorded ones behind claims."""
    if document.name == "claims":
        recorded, _ = recorded_figures(sweep.runs_dir)
        models = {of.model: of.title for of in sweep.results()}
        for data in all_deciding(recorded):
            if data.info["model"]["name"] in models:
                kind = catalog()[data.figure]
                yield _figure(data.figure, kind.picture(data), f"{kind.caption} {data.note}")
        return
    for name, kind in catalog().items():
        for results in sweep.results() if kind.table == document.name else ():
            picture = kind.picture(results)
            if picture is not None:
                yield _figure(name, picture, f"{results.title}. {kind.caption}")


def _figure(name: str, picture: Figure | None, caption: str) -> dict[str, str]:
    """A picture as SVG, its letters as text."""
    assert picture is not None
    file = io.StringIO()
    with styled(), rc_context({"svg.fonttype": "none", "svg.hashsalt": caption}):
        picture.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    found = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    svg = found[found.index("<svg") :]
    return {"name": name.replace("figure", "Figure "), "svg": svg, "caption": caption}
