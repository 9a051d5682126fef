"""Tables and claims as files: Markdown, LaTeX, HTML and CSV, and Parquet for single cells.

The LaTeX says which packages it needs. All files stand beside each other in one folder, and a file
is replaced whole.
"""

import html
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.grids import PROSE, Grid
from dllmquant_exp.store.results import ResultError, write_whole

_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
}
_CSS = (
    "body{font-family:sans-serif;margin:2em} table{border-collapse:collapse} "
    "td,th{padding:.2em .6em;text-align:right;vertical-align:top} tbody th{text-align:left}"
)


@dataclass(frozen=True)
class Section:
    """One heading with its grids and the notes below them."""

    title: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """What one file says, whatever its format."""

    name: str  # of the files, and of the label in LaTeX
    title: str
    caption: str
    sections: tuple[Section, ...]
    frame: pd.DataFrame  # the CSV


def to_csv(document: Document) -> str:
    """The document's frame, index included."""
    return str(document.frame.to_csv())


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
    return "\n".join(lines)


def to_latex(document: Document) -> str:
    """A `table*` per section, as wide as the page at most, its grids one below the other and its
    notes in the caption; a section with sentences goes on over pages."""
    parts = [f"% {document.title}: needs \\usepackage{{booktabs,adjustbox,longtable}}"]
    for number, section in enumerate(document.sections, 1):
        label = f"tab:{document.name}-{number}"
        long = any(_has_sentences(grid) for grid in section.grids)
        parts += (_pages if long else _float)(document, section, label)
    return "\n".join(parts)


def _float(document: Document, section: Section, label: str) -> list[str]:
    caption = " ".join([f"{section.title}.", document.caption, *section.notes])
    parts = [r"\begin{table*}", r"\centering", f"\\caption{{{_latex(caption)}}}"]
    parts += [f"\\label{{{label}}}", r"\scriptsize"]
    parts += [r"\setlength{\tabcolsep}{3pt}"]  # ten columns with intervals on one page
    for grid in section.grids:
        parts += [rf"\par\medskip\emph{{{_latex(grid.title)}}}\par\smallskip"]
        parts += [r"\begin{adjustbox}{max width=\textwidth}", _tabular(grid), r"\end{adjustbox}"]
    return [*parts, r"\end{table*}", ""]


def _pages(document: Document, section: Section, label: str) -> list[str]:
    """longtable's, which repeat their captions: what is long stands before and behind them."""
    parts = ["% in a document of two columns: \\onecolumn before it", r"\begingroup\scriptsize"]
    parts += [r"\setlength{\tabcolsep}{3pt}", rf"\par {_latex(document.caption)}"]
    for place, grid in enumerate(section.grids):
        caption = f"{section.title}: {grid.title}."
        own = label if place == 0 else f"{label}-{place + 1}"
        parts += [_tabular(grid, longtable=True, caption=_latex(caption), label=own)]
    parts += [rf"\par {_latex(note)}" for note in section.notes]
    return [*parts, r"\par\endgroup", ""]


def _tabular(grid: Grid, **more: Any) -> str:
    frame = _frame(grid, _latex, r"\textbf{{{}}}")
    return str(frame.to_latex(escape=False, column_format=_layout(grid), **more).rstrip())


def _has_sentences(grid: Grid) -> bool:
    return _is_sentence(grid) or any(grid.is_prose(j) for j in range(len(grid.columns)))


def _is_sentence(grid: Grid) -> bool:
    """Whether rows have sentences as names, and not names with a setting in a line of its own."""
    return any(len(line) > PROSE for name, _ in grid.lines for line in name.split("\n"))


def _layout(grid: Grid) -> str:
    """LaTeX's column types: numbers to the right, sentences as paragraphs."""
    paragraph = r"p{0.3\linewidth}"
    name = paragraph if _is_sentence(grid) else "l"
    return name + "".join(paragraph if grid.is_prose(j) else "r" for j in range(len(grid.columns)))


def _latex(text: str) -> str:
    """Escaped, a missing cell as a dash, and a number's hyphen as the minus sign that it means."""
    if text == "-":
        return "--"
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w.])-(?=[\d.])", "$-$", escaped)


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
    """The grid's texts, each made fit for a format, the best ones put into its template."""
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
    "csv": (".csv", to_csv),
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
    """Write a long-form frame as CSV and as Parquet, and return the files.

    Raises:
        ResultError: the folder cannot be written to.
    """
    return [
        write_file(folder / f"{name}.csv", frame.to_csv(index=False)),
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
