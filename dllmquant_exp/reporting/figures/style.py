"""Style of every figure: the width of a column, fonts, colours, files.

Figures are made without pyplot, which would keep them in the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dllmquant_exp.store.whole_files import whole_file

COLUMN, PAGE = 3.3, 6.9  # inches; every figure is a column wide, a page is for notebooks
# Okabe and Ito's colours, which stay apart for every common kind of colour blindness.
BLUE, ORANGE, GREEN, RED, SKY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9",
)  # fmt: skip
GREY = "#888888"
COLOURS = {"blue": BLUE, "orange": ORANGE, "green": GREEN, "red": RED, "sky": SKY}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "dllmquant-exp",
}
NOTE_HEIGHT, NOTE_LINE = 0.05, 0.08  # inches below the axes, and per line of the note
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # the same bytes each time


@contextmanager
def styled() -> Iterator[None]:
    """Apply the house style to whatever makes or draws a figure."""
    with matplotlib.rc_context(STYLE):
        yield


def canvas(height: float, note: str) -> Figure:
    """An empty figure, `height` inches high, with a note at the bottom: model, prompts, bands."""
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    share = (NOTE_HEIGHT + NOTE_LINE * len(note.splitlines())) / height
    engine.set(rect=(0, share, 1, 1 - share))  # type: ignore[call-arg]
    figure.text(0.995, 0.01, note, ha="right", va="bottom", size=5, color="#555555")
    return figure


def write_pictures(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write PNG (300 dpi) and PDF, each whole or not at all; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in _METADATA.items():
        path = folder / f"{name}.{kind}"
        with styled(), whole_file(path) as partial:
            figure.savefig(partial, format=kind, dpi=300, metadata=metadata)
        paths.append(path)
    return paths


def letter(axes: Axes, text: str) -> None:
    """Put `(a)` and the panel's title above its left corner."""
    axes.set_title(text, loc="left", pad=3)


def block_boundaries(axes: Axes, steps: int, blocks: int) -> None:
    """Draw thin lines between the blocks of a decode, on an axis of steps from 1."""
    for block in range(1, blocks):
        axes.axvline(block * steps / blocks + 0.5, color=GREY, linewidth=0.6, linestyle=(0, (2, 2)))
