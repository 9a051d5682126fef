"""Figures 1, 2 and 6: values over the steps of a decode, and over channels."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dllmquant_exp.reporting.figure_data import FigureData
from dllmquant_exp.reporting.figure_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    block_boundaries,
    canvas,
    letter,
)

ROW_NAMES = {
    "rtn": "RTN",
    "quarot": "QuaRot",
    "quarot*": "QuaRot* (softmax-V unquantized)",
    "dllmquant_plusplus": "DLLMQuant++",
}
_ROW_COLOURS = {"rtn": ORANGE, "quarot": BLUE, "quarot*": SKY, "dllmquant_plusplus": RED}
_BIT_LINES = {"INT8": (0, (3, 1.2)), "INT4": "solid"}
ROUNDS = 500
Array = NDArray[np.float64]


def draw_ranges(data: FigureData) -> Figure:
    """Figure 1: medians over prompts; the bands of minimum and maximum hold 90% of the prompts."""
    found = data.arrays["quantiles"]  # [prompts, steps, 7]
    steps = found.shape[1]
    x = np.arange(1, steps + 1)
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
    block_boundaries(axes, steps, data.labels["blocks"])
    _steps_axis(axes, steps)
    axes.set_ylabel("first block's output\n(median of prompts)")
    figure.legend(loc="outside upper center", ncol=3)
    return figure


def draw_errors(data: FigureData) -> Figure:
    """Figure 2: sums over steps above (the paper's quantity), single steps below."""
    figure = canvas(4.2, f"{data.footnote}; bands: 95% intervals")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    titles = ("both on the full-\nprecision model's states", "each model on\nits own states")
    for column, (name, title) in enumerate(zip(("same_states", "own_states"), titles, strict=True)):
        errors = data.arrays[name]  # [variants, prompts, steps]
        letter(panels[0, column], f"({'ab'[column]}) {title}")
        _error_lines(panels[0, column], errors.cumsum(axis=2), data)
        _error_lines(panels[1, column], errors, data)
        panels[1, column].set_xlabel("decoding step")
    panels[0, 0].set_ylabel("accumulated squared error\nof the logits")
    panels[1, 0].set_ylabel("mean squared error\nof the logits, per step")
    rows = [Line2D([], [], color=_ROW_COLOURS[r], label=ROW_NAMES[r]) for r in data.labels["rows"]]
    bits = [
        Line2D([], [], color=GREY, linestyle=_BIT_LINES[b], label=b) for b in data.labels["bits"]
    ]
    figure.legend(handles=[*rows, *bits], loc="outside upper center", ncol=2)
    return figure


def _error_lines(axes: Axes, values: Array, data: FigureData) -> None:
    """Means over prompts on a logarithmic scale, with 95% intervals that stay above 0: percentile
    bootstrap over prompts."""
    _, prompts, steps = values.shape
    x = np.arange(1, steps + 1)
    variants = [(bits, row) for bits in data.labels["bits"] for row in data.labels["rows"]]
    for (bits, row), curve in zip(variants, values, strict=True):
        mean = curve.mean(0)
        axes.plot(x, mean, color=_ROW_COLOURS[row], linestyle=_BIT_LINES[bits])
        if prompts > 1:
            chosen = np.random.default_rng(0).integers(0, prompts, (ROUNDS, prompts))
            band = np.quantile(curve[chosen].mean(1), (0.025, 0.975), axis=0)
            axes.fill_between(x, *band, color=_ROW_COLOURS[row], alpha=0.15, linewidth=0)
    if (values.mean(1) > 0).any():
        axes.set_yscale("log")
    block_boundaries(axes, steps, data.labels["blocks"])
    _steps_axis(axes, steps, label=False)


def draw_channels(data: FigureData) -> Figure:
    """Figure 6: each channel's distribution over tokens, at three iterations."""
    found = data.arrays["channels"]  # [3, channels, 7]
    x = np.arange(found.shape[1])
    figure = canvas(3.9, data.footnote)
    panels = figure.subplots(len(found), 1, sharex=True, sharey=True)
    names = ("first", "middle", "last")
    for place, (axes, channels) in enumerate(zip(panels, found, strict=True)):
        low, lower, first, middle, third, upper, high = channels.T
        bands = (
            (low, high, SKY, "all"),
            (lower, upper, BLUE, "1% to 99%"),
            (first, third, ORANGE, "25% to 75%"),
        )
        for bottom, top, colour, label in bands:
            axes.fill_between(x, bottom, top, step="mid", color=colour, linewidth=0, label=label)
        axes.step(x, middle, where="mid", color="black", linewidth=0.4, label="median")
        step = int(data.arrays["steps"][place]) + 1
        letter(axes, f"({'abc'[place]}) {names[place]} iteration (step {step})")
        axes.set_xlim(-0.5, len(x) - 0.5)
    panels[1].set_ylabel("output of the first block's feed-forward network")
    panels[-1].set_xlabel("channel")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=4)
    return figure


def _steps_axis(axes: Axes, steps: int, *, label: bool = True) -> None:
    axes.set_xlim(0.5, steps + 0.5)
    axes.locator_params(axis="x", integer=True)
    if label:
        axes.set_xlabel("decoding step")
