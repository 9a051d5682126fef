"""The tables of a run or sweep on a terminal, and as lines of text with every number."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pandas as pd
from rich.console import Console
from rich.text import Text

from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.entries import Entry
from dllmquant_exp.reporting.grids import show
from dllmquant_exp.reporting.long_form import CHANGE, SCORE, behind, numbers
from dllmquant_exp.reporting.tables import Row, Table, change_grid, score_grid

COLUMNS = (
    "table", "row", "task", "state", "n", "seeds", *SCORE, *CHANGE, "config_hash", "commit",
)  # fmt: skip
_Column = tuple[str, str, Sequence[Entry], SeededAverage | None, SeededAverage | None]


def print_tables(tables: Iterable[Table], problems: Iterable[str], console: Console) -> None:
    """Print every table, then what is missing of it and the result files that cannot be read."""
    for table in tables:
        scores = score_grid(table)
        named = replace(scores, title=f"{table.title}: {scores.title}")
        grids = [grid for grid in (named, change_grid(table)) if grid is not None]
        if len(table.columns) == 1:  # an average would say it twice
            grids = [grid.only(grid.columns[:1]) for grid in grids]
        show(grids, table.notes, console)
        console.print()
        for gap in table.gaps:
            console.print(Text(f"missing: {gap}", style="red"))
    for problem in problems:
        console.print(Text(f"unreadable: {problem}", style="red"))


def to_csv(tables: Iterable[Table]) -> str:
    """Every number with its limits, in percent or points; one line per table, row and column."""
    lines = [
        {
            "table": table.title,
            "row": row.name.replace("\n", " "),
            "task": task,
            "state": state,
            **behind(entries, score),
            **numbers(SCORE, score),
            **numbers(CHANGE, change),
        }
        for table in tables
        for row in table.rows
        for task, state, entries, score, change in _columns(table, row)
    ]
    return str(pd.DataFrame(lines, columns=list(COLUMNS)).to_csv(index=False))


def _columns(table: Table, row: Row) -> Iterator[_Column]:
    """A row's tasks, and the average where there are several."""
    for (task, _), entry, change in zip(table.columns, row.entries, row.changes, strict=True):
        yield task, entry.state, (entry,), entry.score, change
    if len(table.columns) > 1:
        state = "finished" if row.average else "missing"
        yield "average", state, row.entries, row.average, row.change
