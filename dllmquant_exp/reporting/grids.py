"""Parts of a table as text, and how a terminal shows them."""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dllmquant_exp.reporting.statistics import Estimate

AVERAGE = "Avg."
NAME_WIDTH = 14  # letters of a row's name in a terminal
PROSE = 34  # letters; longer texts are sentences
LOPSIDED = 0.01  # how far ± may put an end of an interval off
Line = tuple[str, tuple[str, ...]]  # a row's name and its texts, one per column


@dataclass(frozen=True)
class Grid:
    """One part of a table: scores, changes from full precision, or what the paper prints."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    footer: tuple[Line, ...] = ()
    best: frozenset[tuple[int, int]] = field(default_factory=frozenset)  # (line, column)

    def only(self, columns: Iterable[str]) -> "Grid":
        """The same with these columns, in this order."""
        kept = tuple(columns)
        places = [self.columns.index(column) for column in kept]

        def cut(lines: Iterable[Line]) -> tuple[Line, ...]:
            return tuple((name, tuple(texts[place] for place in places)) for name, texts in lines)

        best = {(i, places.index(j)) for i, j in self.best if j in places}
        return Grid(self.title, kept, cut(self.lines), cut(self.footer), frozenset(best))

    def is_prose(self, column: int) -> bool:
        """Whether a column holds sentences rather than numbers."""
        return any(len(texts[column]) > PROSE for _, texts in self.lines)


def points(estimate: Estimate | None, *, sign: bool = False) -> str:
    """`88.7 ±0.9` in percent, or `-1.3* ±0.4` in points, starred where the interval excludes 0.

    Where half of the interval would put one of its ends off by more than a point, or beyond 0 or
    100, both distances are given: `0.0 -0.0 +2.5`, `-90.0* -10.0 +31.4`.
    """
    if estimate is None:
        return "-"
    value = signed(100 * estimate.value) if sign else f"{100 * estimate.value:.1f}"
    star = "*" if sign and estimate.excludes_zero else ""
    half = estimate.half_width
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    lowest = -1 if sign else 0
    if abs(above - below) > 2 * LOPSIDED or not lowest + half <= estimate.value <= 1 - half:
        return f"{value}{star} -{100 * below:.1f} +{100 * above:.1f}"
    return f"{value}{star} ±{100 * half:.1f}"


def signed(value: float, digits: int = 1) -> str:
    """`+1.3`, `-0.4`, and `0.0` for what rounds to it."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def to_rich(grid: Grid, name_width: int = NAME_WIDTH) -> RichTable:
    """Narrow enough for nine tasks and the average in 80 columns: ± stands under its value.

    name_width: letters after which a row's name goes on in the next line.
    """
    table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for j, column in enumerate(grid.columns):
        table.add_column(column, justify="left" if grid.is_prose(j) else "right", no_wrap=True)
    for i, (name, texts) in enumerate(grid.lines):
        cells = [
            Text(_stacked(text), style="bold underline" if (i, j) in grid.best else "")
            for j, text in enumerate(texts)
        ]
        table.add_row(Text(_wrapped(name, name_width)), *cells)
    table.add_section()
    for name, texts in grid.footer:
        table.add_row(Text(name), *texts, style="dim")
    return table


def _stacked(text: str) -> str:
    """A number over its interval; prose in lines of its own."""
    if len(text) > PROSE:
        return _wrapped(text, PROSE)
    return re.sub(r" (?=[±(])|(?<=[\d*]) (?=[-+]\d)", "\n", text)


def _wrapped(text: str, width: int) -> str:
    lines = [textwrap.wrap(line, width, break_long_words=False) for line in text.split("\n")]
    return "\n".join(part for line in lines for part in line)


def show(
    grids: Iterable[Grid],
    notes: Iterable[str],
    console: Console,
    name_width: int = NAME_WIDTH,
) -> None:
    """Print the parts of one table in turn, then its notes."""
    for grid in grids:
        console.print(Text(grid.title, style="bold"))
        print_whole(to_rich(grid, name_width), console)
    for note in notes:
        console.print(Text(note, style="yellow"))


def print_whole(part: RichTable, console: Console) -> None:
    """Rather a line that the terminal wraps than a number cut short."""
    before = console.width
    unbounded = console.options.update(max_width=10_000)
    console.width = max(before, console.measure(part, options=unbounded).maximum)
    try:
        console.print(part, crop=False)
    finally:
        console.width = before
