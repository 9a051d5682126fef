"""How every figure looks: the width of a column, fonts, colours, files.

No pyplot: figures are objects of their own, and nothing is left behind in the process.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.9  # inches; every figure is a column wide, a page is for notebooks
# Okabe and Ito's colours, which stay apart for every common kind of colour blindness.
BLUE, ORANGE, GREEN, RED, SKY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9",
)  # fmt: skip
GREY = "#888888"
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
NOTE_HEIGHT, NOTE_LINE = 0.05, 0.08  # inches below the axes, and of each line of the note
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # the same bytes each time


@contextmanager
def styled() -> Iterator[None]:
    """The house style, for everything that makes or draws a figure."""
    with matplotlib.rc_context(STYLE):
        yield


def canvas(height: float, note: str) -> Figure:
    """An empty figure, `height` inches, with lines at the bottom that say what it rests on."""
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    share = (NOTE_HEIGHT + NOTE_LINE * len(note.splitlines())) / height
    engine.set(rect=(0, share, 1, 1 - share))  # type: ignore[call-arg]
    figure.text(0.995, 0.01, note, ha="right", va="bottom", size=5, color="#555555")
    return figure


def write_pictures(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write PNG (300 dpi) and PDF, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in _METADATA.items():
        path = folder / f"{name}.{kind}"
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                figure.savefig(file, format=kind, dpi=300, metadata=metadata)
            os.chmod(partial, 0o644)  # mkstemp makes files that only their owner can read
            os.replace(partial, path)
        finally:
            Path(partial).unlink(missing_ok=True)
        paths.append(path)
    return paths


def letter(axes: Axes, text: str) -> None:
    """`(a)` and what the panel shows, above its left corner."""
    axes.set_title(text, loc="left", pad=3)


def block_boundaries(axes: Axes, steps: int, blocks: int) -> None:
    """Thin lines between the blocks of a decode, on an axis of steps from 1."""
    for block in range(1, blocks):
        axes.axvline(block * steps / blocks + 0.5, color=GREY, linewidth=0.6, linestyle=(0, (2, 2)))
