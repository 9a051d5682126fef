"""The figures of catalog.yaml, and their pictures: PNG and PDF from recordings and result files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from matplotlib.figure import Figure

from dllmquant_exp.reporting.comparable import ModelResults, model_results
from dllmquant_exp.reporting.figures.recordings import FigureData
from dllmquant_exp.reporting.figures.style import styled, write_pictures
from dllmquant_exp.reporting.frame import read_sweep
from dllmquant_exp.store.results import FIGURES_FOLDER, ResultError
from dllmquant_exp.store.whole_files import whole_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FigureKind:
    """An entry of catalog.yaml, which explains the fields. Functions are named, not imported."""

    caption: str
    draw: str
    tabulate: str = ""
    measure: str = ""
    models: str = ""
    reads: Sequence[str] = ()
    table: str = ""
    bits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def picture(self, source: FigureData | ModelResults) -> Figure | None:
        """Draw a recording, or a model's results; None where these lack the rows."""
        drawing: Callable[[FigureData | ModelResults], Figure | None] = resolve_name(self.draw)
        with styled():
            return drawing(source)


@cache
def catalog() -> dict[str, FigureKind]:
    """Every figure by its name, such as `figure2`."""
    text = files(__package__).joinpath("catalog.yaml").read_text(encoding="utf-8")
    return {name: FigureKind(**entry) for name, entry in yaml.safe_load(text).items()}


def draw(data: FigureData) -> list[Path]:
    """Draw a recording into its folder; returns paths: the PNG's, the PDF's, a table's if any."""
    kind = catalog()[data.figure]
    figure = kind.picture(data)
    assert figure is not None  # only results can lack something
    paths = write_pictures(figure, data.folder, data.figure)
    return paths + ([write_table(kind, data)] if kind.tabulate else [])


def write_table(kind: FigureKind, data: FigureData) -> Path:
    """Write a recording's numbers as a Markdown table beside its pictures; returns its path."""
    path = data.folder / f"{data.figure}.md"
    frame = resolve_name(kind.tabulate)(data)
    with whole_file(path) as partial:
        text = frame.to_markdown(index=False, floatfmt=".3g", missingval="-")
        partial.write_text(f"{text}\n\n{data.footnote}\n", encoding="utf-8")
    return path


def draw_results(name: str, runs_dir: Path, sweep: str, model: str) -> tuple[list[Path], str]:
    """Draw a figure of results into <runs_dir>/figures/<figure>-<model>-<sweep>.

    Returns:
        The pictures' paths, and what is missing where there are none.
    """
    kind = catalog()[name]
    try:
        cells, problems = read_sweep(runs_dir, sweep)
    except ResultError as error:
        return [], f"{error}; run table={kind.table} first"
    for problem in problems:
        logger.warning("unreadable: %s", problem)
    found = next((results for results in model_results(cells) if results.model == model), None)
    figure = None if found is None else kind.picture(found)
    if figure is None:
        return [], f"{sweep} has no rows of {model} on all nine tasks; run table={kind.table} first"
    folder = runs_dir / FIGURES_FOLDER / f"{name}-{model}-{sweep}"
    return write_pictures(figure, folder, name), ""
