"""Figures 7 and 8: a sweep's rows by their nine-task averages."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dllmquant_exp.reporting.comparable import ModelResults, bits_text
from dllmquant_exp.reporting.figures.catalog import catalog
from dllmquant_exp.reporting.figures.recordings import model_note
from dllmquant_exp.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, RED, canvas, letter
from dllmquant_exp.reporting.notes import listed
from dllmquant_exp.reporting.paper import CHAINS, paper_cell, paper_model, paper_rows
from dllmquant_exp.reporting.tables import PAPER_COLUMNS, REFERENCE
from dllmquant_exp.reporting.tables.lines import CHANGE, SCORE, table_lines
from dllmquant_exp.store.names import AVERAGE

PAPER_MODELS = {"llada_8b": BLUE, "llada_1_5": ORANGE, "dream_7b": GREEN}
ABLATION, MAIN = 2, 1  # tables of the paper


def averages(results: ModelResults, rows: Iterable[str], reference: str = "") -> pd.DataFrame:
    """Nine-task averages of rows, or their paired changes from a row, as value, low and high by
    row; rows that are incomplete are left out."""
    base = results.variant(reference) if reference else None
    variants = [results.variant(row) for row in rows]
    tasks = dict(zip(PAPER_COLUMNS, PAPER_COLUMNS, strict=True))
    lines = table_lines(variants, tasks, [AVERAGE], base, {}).set_index("row")
    found = lines[list(CHANGE if reference else SCORE)]
    return found.set_axis(["value", "low", "high"], axis=1).dropna()


def gains(results: ModelResults) -> pd.DataFrame:
    """Paired changes of Table 2's rows from the row that their components are added to."""
    return pd.concat([averages(results, rows, base) for base, *rows in CHAINS])


def drops(results: ModelResults) -> pd.DataFrame:
    """Paired changes of Table 1's quantized rows from the model's own full precision."""
    return averages(results, _quantized(), REFERENCE)


def paper_drops(model: str) -> dict[str, float]:
    """The paper's change from full precision per quantized row of Table 1, in points.

    Averages are taken over the nine printed scores: one printed average contradicts its row.
    """

    def printed(row: str) -> float:
        cells = [paper_cell(MAIN, model, row, label) for label in PAPER_COLUMNS]
        return fmean(float(cell.value) for cell in cells if cell is not None)

    return {row: printed(row) - printed(REFERENCE) for row in _quantized()}


def _quantized() -> list[str]:
    return [row for row in paper_rows(MAIN) if row != REFERENCE]


def draw_ablation(results: ModelResults) -> Figure | None:
    """Figure 7; None where no row has all nine tasks."""
    parts = [averages(results, paper_rows(ABLATION)), gains(results)]
    if parts[0].empty:
        return None
    parts = [part for part in parts if not part.empty]
    plain = averages(results, [REFERENCE])
    more = "" if plain.empty else "; grey: full precision and its interval"
    heights = [len(part) for part in parts]
    figure = canvas(0.9 * len(parts) + 0.2 * sum(heights), _note(results, more))
    upper, *below = figure.subplots(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, part in zip((upper, *below), parts, strict=True):
        _intervals(axes, part, [RED if row in CHAINS[0] else BLUE for row in part.index])
        _rows_axis(axes, part.index)
    for reference in plain.itertuples():
        upper.axvspan(reference.low, reference.high, color=GREY, alpha=0.3, linewidth=0)
        upper.axvline(reference.value, color=GREY, linewidth=0.8, label="full precision")
        figure.legend(loc="outside upper center")
    letter(upper, "(a) averages of nine tasks")
    upper.set_xlabel("score (%), 95% interval")
    for axes in below:
        axes.axvline(0, color=GREY, linewidth=0.6)
        letter(axes, "(b) gain over AWQ, or over QuaRot")
        axes.set_xlabel("points on the same items, 95% interval")
    return figure


def draw_drops(results: ModelResults) -> Figure | None:
    """Figure 8; None where no row can be compared with full precision on all nine tasks."""
    ours, rows = drops(results), _quantized()
    if ours.empty:
        return None
    theirs = [model for model in PAPER_MODELS if results.embedded or model == results.model]
    figure = canvas(4.2, _note(results))
    upper, lower = figure.subplots(2, 1)
    for i, model in enumerate(theirs):
        aside = 0.22 * (i - (len(theirs) - 1) / 2)
        printed = paper_drops(model)
        places = [rows.index(row) + aside for row in printed]
        colour, name = PAPER_MODELS[model], paper_model(model)
        upper.plot(list(printed.values()), places, "s", markersize=3.5, color=colour, label=name)
    upper.legend(loc="best")
    _intervals(lower, ours.reindex(rows), ["black"] * len(rows))
    for axes in (upper, lower):
        _rows_axis(axes, rows)
        axes.axvline(0, color=GREY, linewidth=0.6)
    upper.set_xlabel("change from full precision, printed (points)")
    lower.set_xlabel("change from our full precision (points),\n95% interval")
    tasks = "stand-in, micro-world tasks" if results.embedded else "the paper's tasks"
    letter(upper, "(a) the paper, its models and tasks")
    letter(lower, f"(b) our runs: {results.model},\n{tasks}")
    return figure


def _intervals(axes: Axes, found: pd.DataFrame, colours: Sequence[str]) -> None:
    """A line per row, at its place; none for a row without a number."""
    points: Any = enumerate(zip(found.itertuples(), colours, strict=True))
    for place, (of, colour) in points:
        if pd.notna(of.value):
            axes.errorbar(
                [of.value], [place], xerr=[[of.value - of.low], [of.high - of.value]],
                color=colour, fmt="o", markersize=3.5, capsize=2, elinewidth=0.8,
            )  # fmt: skip


def _rows_axis(axes: Axes, rows: Iterable[str]) -> None:
    """One row per line, the first on top."""
    labels = catalog()["figure7"].rows
    names = [labels[row]["label"] for row in rows]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _note(results: ModelResults, more: str = "") -> str:
    """The model, and in a second line how many items and seeds."""
    bits = f", {bits_text(results.bits)}" if results.bits else ""
    cells = [cell for variants in results.rows.values() for cell in variants[0].cells]
    outliers = any(cell.config["model"].get("outliers") is not None for cell in cells)
    name = model_note(results.model + bits, embedded=results.embedded, outliers=outliers)
    items = sorted({len(cell.items) for cell in cells})
    seeds = sorted({cell.seed for cell in cells})
    each = " to ".join(f"{n:,}" for n in dict.fromkeys((items[0], items[-1])))
    return f"{name}\n{each} items a task, seed{'s' * (len(seeds) > 1)} {listed(seeds)}{more}"
