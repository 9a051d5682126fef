"""Made-up figures, recorded as the probes record them, and faults of a drawn one."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from dllmquant_exp.probes.measurement import mean, ratio
from dllmquant_exp.probes.outliers import GROUPS, KINDS, STATISTICS
from dllmquant_exp.reporting.figures.maps import KEPT, MASKED, NEW
from dllmquant_exp.reporting.figures.recordings import (
    FIGURE_VERSION,
    FigureData,
    load_recording,
    save_recording,
)

STEPS, PROMPTS, TOKENS = 8, 5, 8
ROWS = ["rtn", "quarot", "quarot*", "dllmquant_plusplus"]
NUMBERS: dict[str, Any] = {  # flat or by variant; one prompt gives no interval
    "mean": mean(np.arange(PROMPTS)),
    "ratio": ratio(np.arange(PROMPTS), np.ones(PROMPTS)),  # unbounded above
    "own_states": {"INT4 rtn": {"last_over_first": ratio([2.5], [1.0])}},
}


def arrays_and_labels(figure: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random data in the shapes that the probes record."""
    r = np.random.default_rng(int(figure[-1]))
    softmax = r.dirichlet(np.full(12, 0.1), (2, 12))
    status = np.where(np.arange(STEPS)[:, None] < np.arange(TOKENS), MASKED, KEPT)
    np.fill_diagonal(status, NEW)
    made: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "figure1": (
            {"quantiles": np.sort(r.normal(size=(PROMPTS, STEPS, 7)), axis=2)},
            {"blocks": 2},
        ),
        "figure2": (
            {
                name: r.random((8, PROMPTS, STEPS))
                for name in ("same_states", "own_states", "tokens_differ")
            },
            {"bits": ["INT8", "INT4"], "rows": ROWS, "blocks": 2},
        ),
        "figure3": (
            {"softmax": softmax[0], "values": r.normal(size=(12, 16)), "prompt_length": 4},
            {"layer": 2, "head": 0, "step": 4},
        ),
        "figure4": (
            {
                "status": status.astype(np.int8),
                "scores": r.random((STEPS, TOKENS)),
                "logit_change": r.random((3, 3, PROMPTS)),
                "final_changed": r.random((3, 3, PROMPTS)),
                "layers": [0, 3, 5],
            },
            {
                "tokens": [f"w{i}" for i in range(TOKENS)],
                "blocks": 2,
                "noise": 0.5,
                "groups": ["high score", "low score", "unmasked"],
            },
        ),
        "figure5": (
            {
                "maps": softmax,
                "layers": [0, 3],
                "keys_for_mass": r.random((4, PROMPTS)),
                "prompt_length": 4,
            },
            {"head": 0, "mass": 0.9},
        ),
        "figure6": (
            {"channels": np.sort(r.normal(size=(3, 20, 7)), axis=2), "steps": [0, 4, 7]},
            {},
        ),
        "figure9": (
            {"divergence": r.random((4, 7, PROMPTS))},
            {"linears": [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]},
        ),
        "figure10": (
            {"statistics": r.random((2, len(KINDS), 6, len(STATISTICS)))},
            {"groups": list(GROUPS), "kinds": list(KINDS), "statistics": list(STATISTICS)},
        ),
    }
    return made[figure]


def recorded(folder: Path, figure: str) -> FigureData:
    """The figure <folder>/<figure>-x, as written and read back."""
    arrays, labels = arrays_and_labels(figure)
    model = {"name": "micro_llada", "embedded": True, "outliers": True}
    info = {
        "schema_version": 1,
        "figure_version": FIGURE_VERSION,
        "figure": figure,
        "model": model,
        "config": {"prompts": PROMPTS, "checkpoint_digest": None},
        "seed": 0,
        "changed": {},
        "labels": labels,
        "numbers": NUMBERS,
        "timing": {"started_at": "2026-01-01T00:00:00+00:00"},
    }
    save_recording(folder / f"{figure}-x", arrays, info)
    return load_recording(folder / f"{figure}-x")


def small_texts(figure: Figure) -> list[str]:
    """Texts of fewer than 5 points, which cannot be read in print."""
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and bool(artist.get_text()))
    return [t.get_text() for t in texts if t.get_fontsize() < 5]  # type: ignore[attr-defined]


def overlaps(figure: Figure) -> list[str]:
    """Texts outside of the axes (labels, panel letters, legends, the note) that lie over one, over
    each other or beyond the page. In pixels, with one to spare."""
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in [
            *figure.texts,
            *(t for axes in figure.axes for t in (axes.xaxis.label, axes.yaxis.label)),
            *(axes._left_title for axes in figure.axes),  # type: ignore[attr-defined]
            *(
                text
                for part in (figure, *figure.subfigs)
                for legend in part.legends
                for text in legend.get_texts()
            ),
        ]
        if text.get_text()
    ]
    width, height = figure.get_size_inches() * figure.dpi
    faults = [
        name
        for name, box in boxes
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]
    areas = [("axes", axes.get_window_extent().padded(-1)) for axes in figure.axes]
    for i, (name, box) in enumerate(boxes):
        others = [*areas, *boxes[i + 1 :]]
        faults += [f"{name} over {other}" for other, area in others if box.overlaps(area)]
    return faults
