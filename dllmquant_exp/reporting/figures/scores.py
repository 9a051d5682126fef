"""Figures 7 and 8: a sweep's rows by their nine-task averages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dllmquant_exp.reporting.comparable import ModelResults, bits_text
from dllmquant_exp.reporting.figures.catalog import catalog
from dllmquant_exp.reporting.figures.recordings import model_note
from dllmquant_exp.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, RED, canvas, letter
from dllmquant_exp.reporting.paper import CHAINS, paper_cell, paper_model, paper_rows
from dllmquant_exp.reporting.samples import Sample, average, difference
from dllmquant_exp.reporting.statistics import Estimate, SeededAverage
from dllmquant_exp.reporting.tables import PAPER_COLUMNS, REFERENCE

PAPER_MODELS = {"llada_8b": BLUE, "llada_1_5": ORANGE, "dream_7b": GREEN}
ABLATION, MAIN = 2, 1  # tables of the paper


@dataclass(frozen=True)
class Point:
    """A row's number in percent or points, with its interval."""

    row: str
    estimate: Estimate


def ablation_points(results: ModelResults) -> list[Point]:
    """Nine-task averages of Table 2's rows, in its order; rows that are incomplete are left out."""
    rows = paper_rows(ABLATION)
    return _points(rows, [average(_samples(results, row)) for row in rows])


def gain_points(results: ModelResults) -> list[Point]:
    """Paired changes of Table 2's rows from the row that their components are added to."""
    pairs = [(row, base) for base, *rows in CHAINS for row in rows]
    gains = [difference(_samples(results, row), _samples(results, base)) for row, base in pairs]
    return _points([row for row, _ in pairs], gains)


def drop_points(results: ModelResults) -> list[Point]:
    """Paired changes of Table 1's quantized rows from the model's own full precision."""
    plain = _samples(results, REFERENCE)
    rows = [row for row in paper_rows(MAIN) if row != REFERENCE]
    return _points(rows, [difference(_samples(results, row), plain) for row in rows])


def full_precision(results: ModelResults) -> Estimate | None:
    """Its nine-task average in percent, where it was run on all nine tasks."""
    points = _points([REFERENCE], [average(_samples(results, REFERENCE))])
    return points[0].estimate if points else None


def paper_drops(model: str) -> list[tuple[str, float]]:
    """The paper's change from full precision per quantized row of Table 1, in points.

    Averages are taken over the nine printed scores: one printed average contradicts its row.
    """

    def printed(row: str) -> float:
        cells = [paper_cell(MAIN, model, row, label) for label in PAPER_COLUMNS]
        return fmean(float(cell.value) for cell in cells if cell is not None)

    rows = [row for row in paper_rows(MAIN) if row != REFERENCE]
    return [(row, printed(row) - printed(REFERENCE)) for row in rows]


def draw_ablation(results: ModelResults) -> Figure | None:
    """Figure 7; None where no row has all nine tasks."""
    points, gains, reference = (
        ablation_points(results), gain_points(results), full_precision(results)
    )  # fmt: skip
    if not points:
        return None
    parts = [points, gains] if gains else [points]
    more = "" if reference is None else "; grey: full precision and its interval"
    heights = [len(part) for part in parts]
    figure = canvas(0.9 * len(parts) + 0.2 * sum(heights), _note(results, more))
    upper, *below = figure.subplots(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, part in zip((upper, *below), parts, strict=True):
        for place, point in enumerate(part):
            _interval(axes, place, point.estimate, RED if point.row in CHAINS[0] else BLUE)
        _rows_axis(axes, [point.row for point in part])
    if reference is not None:
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
    points = drop_points(results)
    if not points:
        return None
    theirs = [model for model in PAPER_MODELS if results.embedded or model == results.model]
    rows = [row for row in paper_rows(MAIN) if row != REFERENCE]
    figure = canvas(4.2, _note(results))
    upper, lower = figure.subplots(2, 1)
    for i, model in enumerate(theirs):
        aside = 0.22 * (i - (len(theirs) - 1) / 2)
        drops = dict(paper_drops(model))
        places = [rows.index(row) + aside for row in drops]
        colour, name = PAPER_MODELS[model], paper_model(model)
        upper.plot(list(drops.values()), places, "s", markersize=3.5, color=colour, label=name)
    upper.legend(loc="best")
    for point in points:
        _interval(lower, rows.index(point.row), point.estimate, "black")
    for axes in (upper, lower):
        _rows_axis(axes, rows)
        axes.axvline(0, color=GREY, linewidth=0.6)
    upper.set_xlabel("change from full precision, printed (points)")
    lower.set_xlabel("change from our full precision (points),\n95% interval")
    tasks = "stand-in, micro-world tasks" if results.embedded else "the paper's tasks"
    letter(upper, "(a) the paper, its models and tasks")
    letter(lower, f"(b) our runs: {results.model},\n{tasks}")
    return figure


def _samples(results: ModelResults, row: str) -> list[Sample | None]:
    variant = results.variant(row)
    return [variant.entry(label).sample for label in PAPER_COLUMNS]


def _points(rows: Iterable[str], found: Iterable[SeededAverage | None]) -> list[Point]:
    """Fractions as percent or points; rows without a number are left out."""
    return [
        Point(
            row,
            Estimate(*(100 * x for x in (of.estimate.value, of.estimate.low, of.estimate.high))),
        )
        for row, of in zip(rows, found, strict=True)
        if of is not None
    ]


def _interval(axes: Axes, place: float, estimate: Estimate, colour: str) -> None:
    bars = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
    axes.errorbar(
        [estimate.value], [place], xerr=bars,
        color=colour, fmt="o", markersize=3.5, capsize=2, elinewidth=0.8,
    )  # fmt: skip


def _rows_axis(axes: Axes, rows: Sequence[str]) -> None:
    """One row per line, the first on top."""
    labels = catalog()["figure7"].rows
    axes.set_yticks(range(len(rows)), [labels[row]["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _note(results: ModelResults, more: str = "") -> str:
    """The model, and in a second line how many items and seeds."""
    bits = f", {bits_text(results.bits)}" if results.bits else ""
    cells = [c for v in results.rows.values() for e in v[0].entries.values() for c in e.cells]
    outliers = any(cell.config["model"].get("outliers") is not None for cell in cells)
    name = model_note(results.model + bits, embedded=results.embedded, outliers=outliers)
    items = sorted({len(cell.items) for cell in cells})
    seeds = sorted({cell.seed for cell in cells})
    each = " to ".join(f"{n:,}" for n in dict.fromkeys((items[0], items[-1])))
    listed = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"{name}\n{each} items a task, {listed}{more}"
