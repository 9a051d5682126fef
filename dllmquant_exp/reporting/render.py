"""Tables as text: on a terminal, and as Markdown, LaTeX, HTML, CSV and Parquet files.

A document has a section per model, a section has grids and the notes below them, and a grid has a
line of texts per row. All files of a document stand in one folder, and a file is replaced whole.
The LaTeX says which packages it needs.
"""

import html
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dllmquant_exp.store.names import markdown_text, spreadsheet_text
from dllmquant_exp.store.results import ResultError, write_whole

AVERAGE = "Avg."
NAME_WIDTH = 14  # letters of a row's name in a terminal
PROSE = 34  # letters; longer texts are sentences
LOPSIDED = 1.0  # points by which ± may misplace an end of an interval
Line = tuple[str, tuple[str, ...]]  # a row's name and its texts, one per column


@dataclass(frozen=True)
class Grid:
    """One part of a table: scores, changes from full precision, or the paper's own numbers."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    footer: tuple[Line, ...] = ()
    best: frozenset[tuple[int, int]] = field(default_factory=frozenset)  # (line, column)

    def is_prose(self, column: int) -> bool:
        """Whether a column holds sentences rather than numbers."""
        return any(len(texts[column]) > PROSE for _, texts in self.lines)


@dataclass(frozen=True)
class Section:
    """One heading with its grids and the notes below them."""

    title: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """The content of one file, whatever its format."""

    name: str  # of the files, and of the label in LaTeX
    title: str
    caption: str
    sections: tuple[Section, ...]
    frame: pd.DataFrame  # the CSV


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
    """`+1.3`, `-0.4`, and `0.0` for every value that rounds to it."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def show(
    grids: Iterable[Grid], notes: Iterable[str], console: Console, name_width: int = NAME_WIDTH
) -> None:
    """Print the parts of one table in turn, then its notes."""
    for grid in grids:
        console.print(Text(grid.title, style="bold"))
        _print_whole(_to_rich(grid, name_width), console)
    for note in notes:
        console.print(Text(note, style="yellow"))


def show_document(document: Document, console: Console, name_width: int) -> None:
    console.print(Text(f"{document.title}. {document.caption}", style="bold"))
    console.print()
    for section in document.sections:
        console.print(Text(section.title, style="bold underline"))
        show(section.grids, section.notes, console, name_width)
        console.print()


def _to_rich(grid: Grid, name_width: int) -> RichTable:
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
    """A number over its interval; sentences on lines of their own."""
    if len(text) > PROSE:
        return _wrapped(text, PROSE)
    return re.sub(r" (?=[±(])|(?<=[\d*]) (?=[-+]\d)", "\n", text)


def _wrapped(text: str, width: int) -> str:
    lines = [textwrap.wrap(line, width, break_long_words=False) for line in text.split("\n")]
    return "\n".join(part for line in lines for part in line)


def _print_whole(part: RichTable, console: Console) -> None:
    """A line that the terminal wraps is better than a number cut short."""
    before = console.width
    unbounded = console.options.update(max_width=10_000)
    console.width = max(before, console.measure(part, options=unbounded).maximum)
    try:
        console.print(part, crop=False)
    finally:
        console.width = before


def to_markdown(document: Document) -> str:
    """Headings, a table per grid with the best cells in bold, and the notes as a list."""
    lines = [f"# {document.title}", "", document.caption, ""]
    for section in document.sections:
        lines += [f"## {section.title}", ""]
        for grid in section.grids:
            frame = _frame(grid, lambda text: text.replace("|", r"\|"), "**{}**")
            sides = ("left" if grid.is_prose(j) else "right" for j in range(len(grid.columns)))
            table = frame.reset_index(names="").to_markdown(
                index=False, disable_numparse=True, colalign=["left", *sides]
            )
            lines += [f"{grid.title}:", "", str(table), ""]
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
        for grid in section.grids:
            frame = _frame(grid, _latex, r"\textbf{{{}}}")
            tabular = str(frame.to_latex(escape=False, column_format=_layout(grid)).rstrip())
            parts += [rf"\par\medskip\emph{{{_latex(grid.title)}}}\par\smallskip"]
            parts += [r"\begin{adjustbox}{max width=\textwidth, max totalheight=.9\textheight}"]
            parts += [tabular, r"\end{adjustbox}"]
        parts += [r"\end{table*}", ""]
    return "\n".join(parts)


def _layout(grid: Grid) -> str:
    """LaTeX's column types: numbers to the right, sentences as paragraphs."""
    paragraph = r"p{0.3\linewidth}"
    # A name may have settings on lines of their own, which make no sentence of it.
    long_name = any(len(line) > PROSE for name, _ in grid.lines for line in name.split("\n"))
    return (paragraph if long_name else "l") + "".join(
        paragraph if grid.is_prose(j) else "r" for j in range(len(grid.columns))
    )


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


_CSS = (
    "body{font-family:sans-serif;margin:2em} table{border-collapse:collapse} "
    "td,th{padding:.2em .6em;text-align:right;vertical-align:top} tbody th{text-align:left}"
)


def to_html(document: Document) -> str:
    """A page of its own, without scripts or other files."""
    body = [f"<h1>{html.escape(document.title)}</h1>", f"<p>{html.escape(document.caption)}</p>"]
    for section in document.sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        for grid in section.grids:
            frame = _frame(grid, html.escape, "<b>{}</b>")
            body += [f"<p>{html.escape(grid.title)}:</p>", frame.to_html(escape=False, border=0)]
        items = "".join(f"<li>{html.escape(note)}</li>" for note in section.notes)
        body += [f"<ul>{items}</ul>"] * bool(items)
    head = f'<meta charset="utf-8"><title>{html.escape(document.title)}</title>'
    style = f"<style>{_CSS}</style>"
    start = f'<!doctype html>\n<html lang="en"><head>{head}{style}</head><body>'
    return "\n".join([start, *body, "</body></html>", ""])


def _frame(grid: Grid, clean: Callable[[str], str], best: str) -> pd.DataFrame:
    """The grid's texts, each escaped for a format, the best ones put into its template."""
    lines = (*grid.lines, *grid.footer)
    rows = [
        [
            best.format(clean(text)) if (i, j) in grid.best else clean(text)
            for j, text in enumerate(texts)
        ]
        for i, (_, texts) in enumerate(lines)
    ]
    names = [clean(name.replace("\n", " ")) for name, _ in lines]
    return pd.DataFrame(rows, index=names, columns=[clean(column) for column in grid.columns])


FORMATS: dict[str, tuple[str, Callable[[Document], str]]] = {
    "markdown": (".md", to_markdown),
    "latex": (".tex", to_latex),
    "html": (".html", to_html),
    "csv": (".csv", lambda document: document.frame.map(spreadsheet_text).to_csv()),
}


def check_formats(words: str) -> tuple[str, ...]:
    """`all`, or names of FORMATS separated by commas.

    Raises:
        ResultError: another word.
    """
    names = tuple(FORMATS) if words == "all" else tuple(words.split(","))
    for name in names:
        if name not in FORMATS:
            raise ResultError(f"format = {name!r} is not one of: {', '.join(FORMATS)}, all")
    return names


def write_document(document: Document, folder: Path, formats: Iterable[str]) -> list[Path]:
    """Write a document in each of these formats, and return the files.

    Raises:
        ResultError: the folder cannot be written to.
    """
    chosen = [FORMATS[name] for name in formats]
    return [
        write_file(folder / f"{document.name}{ending}", make(document)) for ending, make in chosen
    ]


def write_cells(frame: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write a long frame as CSV and as Parquet, and return the files.

    Raises:
        ResultError: the folder cannot be written to.
    """
    return [
        write_file(folder / f"{name}.csv", frame.map(spreadsheet_text).to_csv(index=False)),
        write_file(folder / f"{name}.parquet", frame.to_parquet(index=False)),
    ]


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all.

    Raises:
        ResultError: the folder cannot be written to.
    """
    try:
        return write_whole(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ResultError(f"{path} cannot be written ({error}); choose a folder=...") from error
