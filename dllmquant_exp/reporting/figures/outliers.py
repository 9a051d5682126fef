"""Figure 10: statistics of outliers by block and kind of tensor, as a picture and as a table."""

import pandas as pd
from matplotlib.figure import Figure

from dllmquant_exp.reporting.figures.recordings import FigureData
from dllmquant_exp.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, RED, SKY, canvas

_STYLES = ((BLUE, "-"), (SKY, "--"), (ORANGE, "-"), (RED, "-"), (GREEN, "--"), (GREY, "-"))
_LABELS = {
    "channel": "largest channel\nover median",
    "token": "largest over RMS\nin a token",
    "error": "energy lost\nto 4 bits",
    "median": "the same, of\nmedian token",
    "spread": "RMS of largest\nover median token",
}


def draw_outliers(data: FigureData) -> Figure:
    """One row of panels per statistic, one column per group of tokens, one line per kind."""
    groups, statistics = data.labels["groups"], data.labels["statistics"]
    figure = canvas(5.6, data.footnote)
    panels = figure.subplots(len(statistics), len(groups), sharex=True, sharey="row")
    for (i, j), axes in [((i, j), panels[i, j]) for i in range(len(panels)) for j in range(2)]:
        for kind, (colour, dashes), values in zip(
            data.labels["kinds"], _STYLES, data.arrays["statistics"][j, :, :, i], strict=True
        ):
            x = range(1, len(values) + 1)
            axes.plot(x, values, dashes, color=colour, marker=".", markersize=3, label=kind)
        axes.set_yscale("log")
        if i == 0:
            axes.set_title(f"{groups[j]} tokens", pad=3)
    for axes, name in zip(panels[:, 0], statistics, strict=True):
        axes.set_ylabel(_LABELS[name])
    for axes in panels[-1]:
        axes.set_xlabel("block")
        axes.locator_params(axis="x", integer=True)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=3)
    return figure


def outlier_table(data: FigureData) -> pd.DataFrame:
    """One row per kind of tensor and block, the statistics of each group of tokens beside it."""
    columns = [f"{name}, {group}" for group in data.labels["groups"] for name in
               data.labels["statistics"]]  # fmt: skip
    found = data.arrays["statistics"].transpose(1, 2, 0, 3)  # [kinds, layers, groups, statistics]
    rows = [
        {"tensor": kind, "block": layer + 1, **dict(zip(columns, values.flatten(), strict=True))}
        for kind, layers in zip(data.labels["kinds"], found, strict=True)
        for layer, values in enumerate(layers)
    ]
    return pd.DataFrame(rows)
