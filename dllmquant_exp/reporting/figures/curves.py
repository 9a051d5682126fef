"""Figures 1, 2 and 6: values over the steps of a decode, and over channels."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dllmquant_exp.reporting.figures.catalog import catalog
from dllmquant_exp.reporting.figures.recordings import FigureData
from dllmquant_exp.reporting.figures.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    block_boundaries,
    canvas,
    letter,
)

ROUNDS = 500  # of the bootstrap
Array = NDArray[np.float64]


def draw_ranges(data: FigureData) -> Figure:
    """Figure 1: medians over prompts; the bands of minimum and maximum hold 90% of the prompts."""
    found = data.arrays["quantiles"]  # [prompts, steps, 7]
    x = np.arange(1, found.shape[1] + 1)
    figure = canvas(2.5, f"{data.footnote}; bands of minimum and maximum: 90% of them")
    axes = figure.subplots()
    low, lower, first, middle, third, upper, high = np.median(found, axis=0).T
    for i, colour, name, line in ((-1, RED, "maximum", high), (0, BLUE, "minimum", low)):
        band = np.quantile(found[:, :, i], (0.05, 0.95), axis=0)
        axes.fill_between(x, *band, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, line, color=colour, label=name)
    axes.fill_between(x, lower, upper, color=GREEN, alpha=0.25, linewidth=0, label="1% to 99%")
    axes.fill_between(x, first, third, color=GREEN, alpha=0.6, linewidth=0, label="25% to 75%")
    axes.plot(x, middle, color="black", linewidth=0.8, label="median")
    _steps_axis(axes, data, len(x))
    axes.set_xlabel("decoding step")
    axes.set_ylabel("first block's output\n(median of prompts)")
    figure.legend(loc="outside upper center", ncol=3)
    return figure


def draw_errors(data: FigureData) -> Figure:
    """Figure 2: sums over steps above (the paper's quantity), single steps below."""
    kind = catalog()["figure2"]
    figure = canvas(4.2, f"{data.footnote}; bands: 95% intervals")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    titles = {
        "same_states": "(a) both on the full-\nprecision model's states",
        "own_states": "(b) each model on\nits own states",
    }
    for (upper, lower), (name, title) in zip(panels.T, titles.items(), strict=True):
        errors = data.arrays[name]  # [variants, prompts, steps]
        letter(upper, title)
        _error_lines(upper, errors.cumsum(axis=2), data)
        _error_lines(lower, errors, data)
        lower.set_xlabel("decoding step")
    panels[0, 0].set_ylabel("accumulated squared error\nof the logits")
    panels[1, 0].set_ylabel("mean squared error\nof the logits, per step")
    rows = [
        Line2D([], [], color=COLOURS[row["colour"]], label=row["label"])
        for row in (kind.rows[name] for name in data.labels["rows"])
    ]
    bits = [
        Line2D([], [], color=GREY, linestyle=_dashes(name), label=name)
        for name in data.labels["bits"]
    ]
    figure.legend(handles=[*rows, *bits], loc="outside upper center", ncol=2)
    return figure


def _dashes(bits: str) -> tuple[int, tuple[float, float]] | str:
    """The style of a line, as matplotlib takes it."""
    line = catalog()["figure2"].bits[bits]["line"]
    return line if isinstance(line, str) else (line[0], tuple(line[1]))


def _error_lines(axes: Axes, values: Array, data: FigureData) -> None:
    """Means over prompts on a logarithmic scale, with percentile-bootstrap 95% intervals, which
    stay above 0.

    values: [variants, prompts, steps].
    """
    _, prompts, steps = values.shape
    x = np.arange(1, steps + 1)
    variants = [(bits, row) for bits in data.labels["bits"] for row in data.labels["rows"]]
    for (bits, row), curve in zip(variants, values, strict=True):
        colour = COLOURS[catalog()["figure2"].rows[row]["colour"]]
        axes.plot(x, curve.mean(0), color=colour, linestyle=_dashes(bits))
        if prompts > 1:
            chosen = np.random.default_rng(0).integers(0, prompts, (ROUNDS, prompts))
            band = np.quantile(curve[chosen].mean(1), (0.025, 0.975), axis=0)
            axes.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
    if (values.mean(1) > 0).any():
        axes.set_yscale("log")
    _steps_axis(axes, data, steps)


def draw_channels(data: FigureData) -> Figure:
    """Figure 6: each channel's distribution over tokens, at three iterations."""
    found = data.arrays["channels"]  # [3, channels, 7]
    x = np.arange(found.shape[1])
    figure = canvas(3.9, data.footnote)
    panels = figure.subplots(len(found), 1, sharex=True, sharey=True)
    names = ("(a) first", "(b) middle", "(c) last")
    for axes, channels, name, step in zip(panels, found, names, data.arrays["steps"], strict=True):
        low, lower, first, middle, third, upper, high = channels.T
        bands = (
            (low, high, SKY, "all"),
            (lower, upper, BLUE, "1% to 99%"),
            (first, third, ORANGE, "25% to 75%"),
        )
        for bottom, top, colour, label in bands:
            axes.fill_between(x, bottom, top, step="mid", color=colour, linewidth=0, label=label)
        axes.step(x, middle, where="mid", color="black", linewidth=0.4, label="median")
        letter(axes, f"{name} iteration (step {int(step) + 1})")
        axes.set_xlim(-0.5, len(x) - 0.5)
    panels[1].set_ylabel("output of the first block's feed-forward network")
    panels[-1].set_xlabel("channel")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=4)
    return figure


def _steps_axis(axes: Axes, data: FigureData, steps: int) -> None:
    block_boundaries(axes, steps, data.labels["blocks"])
    axes.set_xlim(0.5, steps + 0.5)
    axes.locator_params(axis="x", integer=True)
