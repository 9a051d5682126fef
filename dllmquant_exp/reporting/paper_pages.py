"""A table of the paper as text and as data frames, for the screen, files and notebooks."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.grids import AVERAGE, Grid, signed
from dllmquant_exp.reporting.long_form import CHANGE, SCORE, behind, numbers
from dllmquant_exp.reporting.paper import paper_model
from dllmquant_exp.reporting.paper_tables import Block, Gap, PaperTable
from dllmquant_exp.reporting.tables import change_grid, score_grid
from dllmquant_exp.reporting.writers import Document, Section

COLUMNS = (  # of `long_frame`
    "table", "model", "embedded", "row", "name", "variant", "task", "column", "state", "n", "seeds",
    "score", "low", "high", "change", "change_low", "change_high", "covers", "best", "best_p",
    "paper", "paper_difference", "config_hash", "commit",
)  # fmt: skip
STATES = ("failed", "missing", "partial", "finished")  # the worst first


def grids(block: Block) -> dict[str, Grid]:
    """A block's parts: score, change (from full precision), and paper, difference (from the paper).

    The last two are there for the paper's models alone, the last where they were run as such.
    """
    marked = {(row, block.shown.index(column)) for column, (row, _) in block.best.items()}
    parts = {"score": replace(score_grid(block.table).only(block.shown), best=frozenset(marked))}
    changes = change_grid(block.table)
    if changes is not None:
        parts["change"] = changes.only(block.shown)
    if any(block.printed):
        parts |= _paper_grids(block)
    return parts


def _paper_grids(block: Block) -> dict[str, Grid]:
    printed, differences = [], []
    for i, row in enumerate(block.table.rows):
        cells = block.printed[i]
        if cells:
            printed.append((row.name, tuple(cells[c].printed for c in block.shown)))
            gaps = [_paper_difference(block, i, column) for column in block.shown]
            texts = tuple("-" if gap is None else signed(gap) for gap in gaps)
            differences.append((row.name, texts))
    name = paper_model(block.model)
    heading = f"what the paper prints for {name}, in %"
    parts = {"paper": Grid(heading, block.shown, tuple(printed))}
    if not block.unlike:
        title = "ours - the paper's, in points"
        parts["difference"] = Grid(title, block.shown, tuple(differences))
    return parts


def _paper_difference(block: Block, row: int, column: str) -> float | None:
    """In points; None where the paper or we have no number, or ours is no number of its row."""
    cell, ours = block.printed[row].get(column), block.value(row, column)
    if cell is None or ours is None or block.unlike:
        return None
    return 100 * ours.estimate.value - float(cell.value)


def page(table: PaperTable) -> pd.DataFrame:
    """The table as it is printed: text by (model, part, row) and the paper's columns.

    For the parts see `grids`: percent in `score` and `paper`, points in `change` and `difference`.
    """
    lines = [
        (block.table.title, part, name.replace("\n", " "), *texts)
        for block in table.blocks
        for part, grid in grids(block).items()
        for name, texts in (*grid.lines, *grid.footer)
    ]
    shown = table.blocks[0].shown if table.blocks else ()
    frame = pd.DataFrame(lines, columns=["model", "part", "row", *shown])
    return frame.set_index(["model", "part", "row"])


def long_frame(tables: Iterable[PaperTable]) -> pd.DataFrame:
    """One line per table, model, row and column, with everything that stands behind the number.

    Scores and their limits are in percent, changes and differences in points. For `n`, `seeds`,
    `config_hash` and `commit` see `long_form.behind`. `state` is partial where seeds are missing
    or failed, and that of the worst task for an average. `task` is empty where nothing was run on
    a column.
    """
    lines = [
        _line(table, block, row, column)
        for table in tables
        for block in table.blocks
        for row in range(len(block.variants))
        for column in block.shown
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(table: PaperTable, block: Block, row: int, column: str) -> dict[str, Any]:
    variant, entries = block.variants[row], block.entries(row, column)
    states = block.states(row, column)
    score, change = block.value(row, column), block.change(row, column)
    best_row, best_p = block.best.get(column, (None, None))
    cell = block.printed[row].get(column)
    tasks = {label: task for task, label in block.table.columns} | {AVERAGE: "average"}
    return {
        "table": table.number,
        "model": block.model,
        "embedded": block.embedded,
        "row": variant.row,
        "name": block.table.rows[row].name.partition("\n")[0],
        "variant": variant.difference,
        "task": "" if tasks[column] == column else tasks[column],
        "column": column,
        "state": next(s for s in STATES if s in states),
        **behind(entries, score),
        **numbers(SCORE, score),
        **numbers(CHANGE, change),
        "covers": score.covers if score else "",
        "best": best_row == row,
        "best_p": best_p if best_row == row else None,
        "paper": float(cell.value) if cell else None,
        "paper_difference": _paper_difference(block, row, column),
    }


def gap_lines(tables: Iterable[PaperTable]) -> list[str]:
    """What is missing and what failed, a line per row, or one for a model without any result."""
    lines: list[str] = []
    for table, block in ((of, block) for of in tables for block in of.blocks):
        if _is_empty(block):
            lines.append(f"missing: {block.model}: every cell of {table.name}")
        else:
            lines += [f"{state}: {block.model}, {text}" for state, text in _gap_texts(block)]
    return list(dict.fromkeys(lines))


def _is_empty(block: Block) -> bool:
    rows = {variant.row for variant in block.variants}
    everything = len(block.gaps) == len(rows) * len(block.table.columns)
    return everything and not any(variant.entries for variant in block.variants)


def _gap_texts(block: Block) -> list[tuple[str, str]]:
    """The state of a gap, and its row, tasks and reason; one per row, state and reason."""
    grouped: dict[tuple[str, str, str], list[Gap]] = {}
    for gap in block.gaps:
        grouped.setdefault((gap.state, gap.row, gap.reason), []).append(gap)
    texts = []
    for (state, row, reason), gaps in grouped.items():
        everywhere = len(gaps) == len(block.table.columns)
        where = "every task" if everywhere else ", ".join(gap.label for gap in gaps)
        texts.append((state, f"{row}: {where}{f': {reason}' if reason else ''}"))
    return texts


def _notes(block: Block) -> tuple[str, ...]:
    """The block's notes, and in one more what of it is missing or failed."""
    gaps = "; ".join(f"{state}: {text}" for state, text in _gap_texts(block))
    return (
        *block.table.notes,
        *([f"incomplete: {gaps}."] if gaps and not _is_empty(block) else []),
    )


def table_document(table: PaperTable) -> Document:
    """What the files of `report table=...` say."""
    sections = [
        Section(block.table.title, tuple(grids(block).values()), _notes(block))
        for block in table.blocks
    ]
    return Document(f"table{table.number}", table.name, table.caption, tuple(sections), page(table))
