"""Tables as text: on a terminal, and as Markdown, LaTeX and CSV files.

A document has a section per model, a section has grids and the notes below them, and a grid is a
frame of texts with a line per row. All files of a document stand in one folder, and a file is
replaced whole. The LaTeX says which packages it needs.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dllmquant_exp.store.names import markdown_text, spreadsheet_text
from dllmquant_exp.store.results import ResultError, write_whole

NAME_WIDTH = 14  # letters of a row's name in a terminal
PROSE = 34  # letters; longer texts are sentences
LOPSIDED = 1.0  # points by which ± may misplace an end of an interval


@dataclass(frozen=True, eq=False)
class Grid:
    """One part of a table: scores, changes from full precision, or the paper's own numbers.

    Attributes:
        texts: a line per row under its name, on whose further lines its settings stand.
        footer: how many of the last lines stand below the others.
        best: the marked places, as (line, column).
    """

    title: str
    texts: pd.DataFrame
    footer: int = 0
    best: frozenset[tuple[int, int]] = frozenset()

    @cached_property
    def prose(self) -> list[bool]:
        """Whether a column holds sentences rather than numbers."""
        columns = zip(*self.texts.itertuples(index=False, name=None), strict=True)
        return [any(len(text) > PROSE for text in column) for column in columns]

    def cleaned(self, clean: Callable[[str], str], best: str) -> pd.DataFrame:
        """The texts, each escaped for a format, the best ones put into its template."""
        texts = self.texts.map(clean)
        for i, j in self.best:
            texts.iat[i, j] = best.format(texts.iat[i, j])
        names = [clean(in_line(name)) for name in texts.index]
        return texts.set_axis(names, axis=0).set_axis(list(map(clean, texts.columns)), axis=1)


def grid(
    title: str, columns: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]], **parts: Any
) -> Grid:
    """A grid of rows with their names."""
    named = list(rows)
    texts = [list(texts) for _, texts in named]
    index = pd.Index([name for name, _ in named], dtype=object)
    return Grid(title, pd.DataFrame(texts, index, list(columns), dtype=object), **parts)


@dataclass(frozen=True, eq=False)
class Section:
    """One heading with its grids by name and the notes below them.

    Attributes:
        lines: the numbers behind the grids, in long form.
        faults: what is missing or failed, a line each.
    """

    title: str
    grids: Mapping[str, Grid]
    notes: tuple[str, ...] = ()
    lines: pd.DataFrame = field(default_factory=pd.DataFrame)
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Document:
    """The content of one file, whatever its format.

    Attributes:
        name: of the files, and of the label in LaTeX.
        long: whether the CSV holds the numbers in long form, not the printed texts.
        columns: of the long form, where there is no section.
    """

    name: str
    title: str
    caption: str
    sections: tuple[Section, ...]
    long: bool = False
    columns: Sequence[str] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """The content of the CSV."""
        return self.lines.set_index(self.lines.columns[0]) if self.long else self.page

    @property
    def lines(self) -> pd.DataFrame:
        """The numbers of all sections, in long form."""
        parts = [of.lines for of in self.sections]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=self.columns)

    @property
    def page(self) -> pd.DataFrame:
        """The printed texts by (model, part, row); empty where a part lacks another's column."""
        parts = {
            (of.title, part): grid.texts.rename(in_line)
            for of in self.sections
            for part, grid in of.grids.items()
        }
        names = ["model", "part", "row"]
        if not parts:
            return pd.DataFrame(index=pd.MultiIndex.from_arrays([[]] * 3, names=names))
        return pd.concat(parts, names=names).fillna("")


def in_line(name: str) -> str:
    return name.replace("\n", " ")


def points(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """A percentage `88.7 ±0.9`, or points `-1.3* ±0.4`, starred where the interval excludes 0;
    `-` for NaN.

    Both distances are given where half of the interval would misplace one of its ends by more than
    a point, or put it beyond 0 or 100: `0.0 -0.0 +2.5`, `-90.0* -10.0 +31.4`.
    """
    if pd.isna(value):
        return "-"
    text = signed(value) if sign else f"{value:.1f}"
    star = "*" if sign and (low > 0 or high < 0) else ""
    half, below, above = (high - low) / 2, value - low, high - value
    least = -100 if sign else 0
    if abs(above - below) > 2 * LOPSIDED or not least + half <= value <= 100 - half:
        return f"{text}{star} -{below:.1f} +{above:.1f}"
    return f"{text}{star} ±{half:.1f}"


def signed(value: float, digits: int = 1) -> str:
    """`+1.3`, `-0.4`, `0.0` for every value that rounds to it, and `-` for NaN."""
    if pd.isna(value):
        return "-"
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def show(document: Document, console: Console, name_width: int = NAME_WIDTH) -> None:
    """Print a document: each section's grids in turn, then its notes.

    name_width: letters after which a row's name goes on in the next line.
    """
    if document.title:
        console.print(Text(f"{document.title}. {document.caption}", style="bold"))
        console.print()
    for section in document.sections:
        console.print(Text(section.title, style="bold underline"))
        for part in section.grids.values():
            console.print(Text(part.title, style="bold"))
            _print_whole(part, name_width, console)
        for note in section.notes:
            console.print(Text(note, style="yellow"))
        console.print()


def _to_rich(grid: Grid, name_width: int, padding: int = 1, tall: bool = False) -> Table:
    """Narrow enough for nine tasks and the average in 80 columns: ± stands under its value.

    tall: whether intervals and headings go on in the next line too.
    """

    def narrow(text: str) -> str:
        return re.sub(r" (?=to [-+\d])", "\n", text) if tall else text

    table = Table(box=SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for column, prose in zip(grid.texts.columns, grid.prose, strict=True):
        heading = column.replace(" ", "\n") if tall else column
        table.add_column(heading, justify="left" if prose else "right", no_wrap=True)
    first_below = len(grid.texts) - grid.footer
    for i, (name, *texts) in enumerate(grid.texts.itertuples(name=None)):
        if i == first_below:
            table.add_section()
        cells = [
            Text(narrow(_stacked(text)), style="bold underline" if (i, j) in grid.best else "")
            for j, text in enumerate(texts)
        ]
        named = Text(_wrapped(_breakable(name, name_width), name_width))
        table.add_row(named, *cells, style="dim" if i >= first_below else "")
    return table


def _stacked(text: str) -> str:
    """A number over its interval, whose last line has the star; sentences on lines of their own."""
    if len(text) > PROSE:
        return _wrapped(text, PROSE)
    last = re.sub(r"^(\S*\d)\* (.*[±+-][\d.]+)$", r"\1 \2*", text)
    return re.sub(r" (?=[±(])|(?<=\d) (?=[-+]\d)", "\n", last)


def _breakable(name: str, width: int) -> str:
    """Settings that are longer than a line may go on in the next one after their dots."""
    lines = name.split("\n")
    return "\n".join(
        re.sub(r"\.(?=[a-z])", ". ", line) if len(line) > width else line for line in lines
    )


def _wrapped(text: str, width: int) -> str:
    lines = [textwrap.wrap(line, width, break_long_words=False) for line in text.split("\n")]
    return "\n".join(part for line in lines for part in line)


def _print_whole(grid: Grid, name_width: int, console: Console) -> None:
    """Columns stand closer where the terminal is narrow, then intervals and names take more lines.
    A line that it wraps even so is better than a number cut short."""
    before = console.width
    unbounded = console.options.update(max_width=10_000)
    wanted = before + 1
    for padding, tall in ((1, False), (0, False), (0, True)):
        if wanted > before:
            table = _to_rich(grid, name_width, padding, tall=tall)
            wanted = console.measure(table, options=unbounded).maximum
    if wanted > before and name_width > NAME_WIDTH:
        table = _to_rich(grid, max(NAME_WIDTH, name_width - wanted + before), 0, tall=True)
        wanted = console.measure(table, options=unbounded).maximum
    console.width = max(before, wanted)
    try:
        console.print(table, crop=False)
    finally:
        console.width = before


def to_markdown(document: Document) -> str:
    """Headings, a table per grid with the best cells in bold, and the notes as a list."""
    lines = [f"# {document.title}", "", document.caption, ""]
    for section in document.sections:
        lines += [f"## {section.title}", ""]
        for part in section.grids.values():
            frame = part.cleaned(lambda text: text.replace("|", r"\|"), "**{}**")
            sides = ["left", *("left" if prose else "right" for prose in part.prose)]
            table = frame.reset_index(names="").to_markdown(
                index=False, disable_numparse=True, colalign=sides
            )
            lines += [f"{part.title}:", "", str(table), ""]
        lines += [f"- {note}" for note in section.notes]
        lines += [""] * bool(section.notes)
    return markdown_text("\n".join(lines))


def to_latex(document: Document) -> str:
    """A `table*` per section, at most as large as the page, its grids one below the other and its
    notes in the caption."""
    parts = [f"% {document.title}: needs \\usepackage{{booktabs,adjustbox}}"]
    for number, section in enumerate(document.sections, 1):
        caption = " ".join([f"{section.title}.", document.caption, *section.notes])
        parts += [r"\begin{table*}", r"\centering", f"\\caption{{{_latex(caption)}}}"]
        parts += [f"\\label{{tab:{document.name}-{number}}}", r"\scriptsize"]
        parts += [r"\setlength{\tabcolsep}{3pt}"]  # ten columns with intervals on one page
        for part in section.grids.values():
            frame = part.cleaned(_latex, r"\textbf{{{}}}")
            tabular = str(frame.to_latex(escape=False, column_format=_layout(part)).rstrip())
            parts += [rf"\par\medskip\emph{{{_latex(part.title)}}}\par\smallskip"]
            parts += [r"\begin{adjustbox}{max width=\textwidth, max totalheight=.9\textheight}"]
            parts += [tabular, r"\end{adjustbox}"]
        parts += [r"\end{table*}", ""]
    return "\n".join(parts)


def _layout(grid: Grid) -> str:
    """LaTeX's column types: numbers to the right, sentences as paragraphs."""
    paragraph = r"p{0.3\linewidth}"
    # A name may have settings on lines of their own, which make no sentence of it.
    long_name = any(len(line) > PROSE for name in grid.texts.index for line in name.split("\n"))
    columns = (paragraph if prose else "r" for prose in grid.prose)
    return (paragraph if long_name else "l") + "".join(columns)


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
}


def _latex(text: str) -> str:
    """Escaped, a missing cell as a dash, and a number's hyphen as the minus sign that it means."""
    if text == "-":
        return "--"
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w.])-(?=[\d.])", "$-$", escaped)


FORMATS: dict[str, tuple[str, Callable[[Document], str]]] = {
    "markdown": (".md", to_markdown),
    "latex": (".tex", to_latex),
    "csv": (".csv", lambda document: document.frame.map(spreadsheet_text).to_csv()),
}

PAGE = "html"  # of a whole report, see page/


def check_formats(words: str) -> tuple[str, ...]:
    """`all`, or names of FORMATS and the page's, separated by commas.

    Raises:
        ResultError: another word.
    """
    known = (*FORMATS, PAGE)
    names = known if words == "all" else tuple(words.split(","))
    for name in names:
        if name not in known:
            raise ResultError(f"format = {name!r} is not one of: {', '.join(known)}, all")
    return names


def write_document(document: Document, folder: Path, formats: Iterable[str]) -> list[Path]:
    """Write a document in each of these formats, and return the files.

    Raises:
        ResultError: the folder cannot be written to.
    """
    chosen = [FORMATS[name] for name in formats if name in FORMATS]
    return [write_file(folder / f"{document.name}{end}", make(document)) for end, make in chosen]


def write_file(path: Path, content: str) -> Path:
    """Write a file whole or not at all.

    Raises:
        ResultError: the folder cannot be written to.
    """
    try:
        return write_whole(path, content.encode())
    except OSError as error:
        raise ResultError(f"{path} cannot be written ({error}); choose a folder=...") from error
