"""Figures 3, 4, 5 and 9: maps over tokens, channels, steps and layers."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from dllmquant_exp.reporting.figures.recordings import FigureData
from dllmquant_exp.reporting.figures.style import BLUE, ORANGE, RED, canvas, letter
from dllmquant_exp.reporting.statistics import mean_interval

MASKED, NEW, KEPT = 0, 1, 2
MOST_TOKENS = 40  # whose texts fit below the grid
LEAST_SHOWN = 1e-4  # of a query's attention
_STATUS = (
    (MASKED, "masked", "Blues"),
    (NEW, "newly decoded", "Greens"),
    (KEPT, "kept", "Oranges"),
)
BELOW: dict[str, Any] = {"location": "bottom", "shrink": 0.6, "aspect": 30}  # a colour bar
_GROUP_COLOURS = (RED, BLUE, ORANGE)
Array = NDArray[Any]


def draw_softmax_and_values(data: FigureData) -> Figure:
    """Figure 3: one head's softmax map above, the values of all heads below."""
    figure = canvas(4.6, data.note)  # of one prompt
    upper, lower = figure.subplots(2, 1)
    prompt = int(data.arrays["prompt_length"])
    shown = _softmax_map(upper, data.arrays["softmax"], prompt)
    upper.set_xlabel("key token")
    upper.set_ylabel("query token")
    figure.colorbar(shown, ax=upper, label="attention", extend="min")
    values = data.arrays["values"]
    # Linear up to the median magnitude, logarithmic above: outliers would hide all other channels.
    largest, usual = float(np.abs(values).max()), float(np.median(np.abs(values)))
    linear = max(usual, 1e-3 * largest, 1e-12)
    norm = SymLogNorm(linear, vmin=-largest, vmax=largest)
    drawn = lower.imshow(values, cmap="PuOr", norm=norm, aspect="auto", interpolation="nearest")
    lower.axhline(prompt - 0.5, color="black", linewidth=0.5, linestyle=(0, (2, 2)))
    lower.set_xlabel("value channel (all heads)")
    lower.set_ylabel("token")
    figure.colorbar(drawn, ax=lower, label="value", ticks=_decades(linear, largest))
    layer, head = data.labels["layer"] + 1, data.labels["head"] + 1
    letter(upper, f"(a) softmax output, block {layer}, head {head}")
    letter(lower, f"(b) values, block {layer}")
    return figure


def _decades(smallest: float, largest: float) -> list[float]:
    """0 and the powers of ten of either sign, none so near to 0 that its text would touch 0's."""
    least, most = np.ceil(np.log10(smallest)), np.log10(max(largest, smallest))
    powers = [float(10.0**k) for k in np.arange(least, most + 1e-9)]
    return [-power for power in reversed(powers)] + [0.0, *powers]


def draw_softmax_over_blocks(data: FigureData) -> Figure:
    """Figure 5: one head's softmax map in several blocks; dashed: where the response begins."""
    maps, layers = data.arrays["maps"], data.arrays["layers"]
    keys = data.arrays["keys_for_mass"].mean(1)  # [layers], over prompts
    rows = -(-len(maps) // 2)
    figure = canvas(1.1 + 1.7 * rows, f"{data.footnote}; maps: of one of them")
    grid = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for axes, softmax, layer in zip(panels, maps, layers, strict=False):
        shown = _softmax_map(axes, softmax, int(data.arrays["prompt_length"]))
        mass = f"{100 * data.labels['mass']:.0f}% of attention"
        letter(axes, f"block {layer + 1}: {100 * keys[layer]:.0f}% of keys\nhold {mass}")
    for axes in panels[len(maps) :]:  # an odd number of maps
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("query token")
    for axes in panels[-2:]:
        axes.set_xlabel("key token")
    figure.colorbar(shown, ax=panels, label="attention", extend="min", **BELOW)
    return figure


def _softmax_map(axes: Axes, softmax: Array, prompt: int) -> Any:
    norm = LogNorm(LEAST_SHOWN, 1)
    clipped = np.maximum(softmax, LEAST_SHOWN)
    shown = axes.imshow(clipped, cmap="viridis", norm=norm, interpolation="nearest")
    for line in (axes.axhline, axes.axvline):
        line(prompt - 0.5, color="white", linewidth=0.5, linestyle=(0, (2, 2)))
    return shown


def draw_decode(data: FigureData) -> Figure:
    """Figure 4: hue is a cell's status, lightness its score."""
    figure = canvas(5.3, f"{data.footnote}; (a) one of them; (b), (c) bars: 95% intervals")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.7, 1))[:, 0]
    grid = upper.subplots()
    grid.imshow(decode_image(data), aspect="auto", interpolation="nearest")
    steps, length = data.arrays["status"].shape
    for block in range(1, data.labels["blocks"]):
        grid.axvline(block * length / data.labels["blocks"] - 0.5, color="black", linewidth=0.6)
    grid.set_ylabel("decoding step")
    grid.set_yticks(range(0, steps, max(1, steps // 8)))
    grid.set_yticklabels([str(step + 1) for step in range(0, steps, max(1, steps // 8))])
    if length <= MOST_TOKENS:
        grid.set_xticks(range(length), data.labels["tokens"], rotation=90, fontsize=5)
        grid.set_xlabel("response token, as it is in the end")
    else:
        grid.set_xlabel("response token")
    letter(grid, "(a) one decode")
    handles = [Patch(color=matplotlib.colormaps[c](0.6), label=name) for _, name, c in _STATUS]
    upper.legend(handles=handles, loc="outside upper center", ncol=3)
    scale = ScalarMappable(Normalize(0, 1), "Greys")
    upper.colorbar(scale, ax=grid, label="score (probability)", **BELOW)
    logits, final = lower.subplots(1, 2)
    _reach(logits, data, "logit_change", "change of other\nmasked logits (relative)")
    _reach(final, data, "final_changed", "final tokens\nthat differ (%)", 100)
    letter(logits, f"(b) noise of {data.labels['noise']:g} RMS,\nsame step")
    letter(final, "(c) the same noise,\nend of the decode")
    marks, groups = logits.get_legend_handles_labels()
    lower.legend(marks, groups, title="noise at", loc="outside upper center", ncol=3)
    for axes in (logits, final):
        axes.set_xlabel("noise behind block")
    return figure


def decode_image(data: FigureData) -> Array:
    """[steps, gen_length, 4] RGBA: hue by status, lightness by score in [0, 1]."""
    status, scores = data.arrays["status"], data.arrays["scores"]
    image = np.zeros((*status.shape, 4))
    for value, _, name in _STATUS:
        image[status == value] = matplotlib.colormaps[name](0.08 + 0.72 * scores[status == value])
    return image


def _reach(axes: Axes, data: FigureData, name: str, label: str, scale: float = 1) -> None:
    """Means over prompts with 95% intervals, by block and kind of position."""
    found = data.arrays[name]  # [layers, groups, prompts]
    layers = data.arrays["layers"]
    for i, (group, colour) in enumerate(zip(data.labels["groups"], _GROUP_COLOURS, strict=True)):
        parts = [mean_interval((scale * row[i]).tolist(), (0, np.inf)) for row in found]
        middle = np.array([part.value for part in parts])
        limits = np.array([[part.low, part.high] for part in parts]).T
        bars = np.abs(limits - middle) if found.shape[2] > 1 else None
        axes.errorbar(
            np.arange(len(layers)) + 0.18 * (i - 1), middle, bars,
            color=colour, fmt="o", markersize=3.5, capsize=2, elinewidth=0.8, label=group,
        )  # fmt: skip
    axes.set_xticks(range(len(layers)), [str(layer + 1) for layer in layers])
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)


def draw_sensitivity(data: FigureData) -> Figure:
    """Figure 9: what each linear alone does to the predictions, by block and kind of linear."""
    found = data.arrays["divergence"].mean(2)  # [layers, linears]
    layers, linears = found.shape
    figure = canvas(max(1.9, 0.9 + 0.2 * layers), data.footnote)
    axes = figure.subplots()
    least = max(float(found.min()), float(found.max()) * 1e-4, 1e-12)
    norm = LogNorm(least, max(float(found.max()), least * 1.001))
    drawn = axes.imshow(np.maximum(found, least), cmap="cividis", norm=norm, aspect="auto")
    names = [name.removesuffix("_proj") for name in data.labels["linears"]]
    axes.set_xticks(range(linears), names)
    shown = range(0, layers, max(1, layers // 16))
    axes.set_yticks(list(shown), [str(layer + 1) for layer in shown])
    axes.set_xlabel("linear, quantized alone to W4A4")
    axes.set_ylabel("block")
    if layers <= 12:
        for (i, j), value in np.ndenumerate(found):
            dark = norm(max(value, least)) < 0.5
            colour = "white" if dark else "black"
            axes.text(j, i, f"{value:.2g}", ha="center", va="center", size=5, color=colour)
    figure.colorbar(drawn, ax=axes, label="KL divergence\n(nats per masked token)")
    return figure
