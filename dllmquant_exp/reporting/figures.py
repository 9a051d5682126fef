"""Figures 1-9 as PNG and PDF, from recorded data and result files alone.

Figures 1-6 are the paper's; 7 (ablation), 8 (paper and ours) and 9 (layer sensitivity) go beyond.
The probes record 1-6 and 9; 7 and 8 are drawn from the results of a sweep.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from dllmquant_exp.reporting.cells import read_sweep
from dllmquant_exp.reporting.figure_curves import draw_channels, draw_errors, draw_ranges
from dllmquant_exp.reporting.figure_data import FigureData
from dllmquant_exp.reporting.figure_maps import (
    draw_decode,
    draw_sensitivity,
    draw_softmax_and_values,
    draw_softmax_over_blocks,
)
from dllmquant_exp.reporting.figure_rows import draw_ablation, draw_drops
from dllmquant_exp.reporting.figure_style import styled, write_pictures
from dllmquant_exp.reporting.selection import ModelResults, model_results
from dllmquant_exp.store.results import FIGURES_FOLDER, ResultError

logger = logging.getLogger(__name__)
MEASURED: dict[str, Callable[[FigureData], Figure]] = {
    "figure1": draw_ranges,
    "figure2": draw_errors,
    "figure3": draw_softmax_and_values,
    "figure4": draw_decode,
    "figure5": draw_softmax_over_blocks,
    "figure6": draw_channels,
    "figure9": draw_sensitivity,
}
# Drawn from results, each from the rows of a table; None where they are not there.
FROM_RESULTS: dict[str, tuple[str, Callable[[ModelResults], Figure | None]]] = {
    "figure7": ("table2", draw_ablation),
    "figure8": ("table1", draw_drops),
}
FIGURES = tuple(sorted([*MEASURED, *FROM_RESULTS]))
CAPTIONS = {
    "figure1": "Range of the first block's output at every decoding step.",
    "figure2": "Error of quantized models over the decoding steps, against full precision.",
    "figure3": "Softmax output and values of one attention head in the middle of a decode.",
    "figure4": "One decode, and how far noise at one kind of position reaches.",
    "figure5": "Softmax output of one head in several blocks.",
    "figure6": "Each channel of the first block's feed-forward output at three iterations.",
    "figure7": "TMAS, CGQ and IA-AQ one after the other: averages, and gains on the same items.",
    "figure8": "Change from full precision: what the paper prints, and our runs.",
    "figure9": "Sensitivity of each linear to 4 bits, quantized alone.",
}


def draw(data: FigureData) -> list[Path]:
    """Draw a recorded figure into its folder; returns the PNG's path and the PDF's."""
    with styled():
        return write_pictures(MEASURED[data.figure](data), data.folder, data.figure)


def draw_results(name: str, runs_dir: Path, sweep: str, model: str) -> tuple[list[Path], str]:
    """Draw figure 7 or 8 from a sweep: the pictures' paths, and what is missing if there are none.

    Both go to <runs_dir>/figures/<figure>-<model>-<sweep>.
    """
    table, make = FROM_RESULTS[name]
    try:
        cells, problems = read_sweep(runs_dir, sweep)
    except ResultError as error:
        return [], f"{error}; run table={table} first"
    for problem in problems:
        logger.warning("unreadable: %s", problem)
    found = next((r for r in model_results(cells) if r.model == model), None)
    with styled():
        figure = None if found is None else make(found)
        if figure is None:
            return [], f"{sweep} has no rows of {model} on all nine tasks; run table={table} first"
        return write_pictures(
            figure, runs_dir / FIGURES_FOLDER / f"{name}-{model}-{sweep}", name
        ), ""
