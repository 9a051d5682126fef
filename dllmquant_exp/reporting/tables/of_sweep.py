"""The table of a run or sweep: methods as rows, tasks as columns, cells with 95% intervals.

A table holds only results that may be compared: those of one model and one set of tasks, with equal
limit, batch size, device, dtype and decoding.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd
from rich.console import Console
from rich.text import Text

from dllmquant_exp.reporting.comparable import newest, one_checkpoint
from dllmquant_exp.reporting.frame import SPEED, Cell, first, flat, grouped, lines_of
from dllmquant_exp.reporting.notes import (
    in_line,
    left_out_seeds,
    seed_notes,
    setting_notes,
    source_notes,
)
from dllmquant_exp.reporting.render import AVERAGE, show
from dllmquant_exp.reporting.samples import entry
from dllmquant_exp.reporting.tables import PAPER_COLUMNS, REFERENCE
from dllmquant_exp.reporting.tables.lines import (
    CHANGE,
    SCORE,
    Row,
    Table,
    change_grids,
    gap_texts,
    gaps,
    lines,
    score_grid,
    unpaired_notes,
)

METHOD_ORDER = (REFERENCE, "rtn", "awq", "gptq", "awq_gptq", "quarot_rtn", "quarot")
LONGEST = 40  # letters of a setting's value that are shown
COLUMNS = (
    "table", "row", "task", "state", "n", "seeds", *SCORE, *CHANGE, "config_hash", "commit",
)  # fmt: skip


def build_tables(frame: pd.DataFrame) -> list[Table]:
    """Group comparable cells into tables, in a fixed order. Speed tasks have their own.

    Titles of tables of one model and kind of task name their different conditions.
    """
    scored = frame[frame["kind"] != SPEED]
    groups = [group for _, group in scored.groupby("comparable")]
    firsts = [first(group) for group in groups]
    titles = [_title(cell) for cell in firsts]
    twins = [[c for c, of in zip(firsts, titles, strict=True) if of == own] for own in titles]
    return [
        replace(_build(group), title="; ".join([title, *_differing(cell, same)]))
        for group, cell, title, same in zip(groups, firsts, titles, twins, strict=True)
    ]


def _title(cell: Cell) -> str:
    tasks = {"micro": "micro-world tasks", "official": "official tasks"}.get(cell.kind, cell.kind)
    return f"{cell.model}, {tasks}"


def _differing(cell: Cell, twins: Sequence[Cell]) -> list[str]:
    """The conditions that differ among twins, as `dtype=float32`."""
    own, *others = (flat("", one.conditions) for one in (cell, *twins))
    return [
        f"{name}={_shown(value)}"
        for name, value in own.items()
        if any(other.get(name) != value for other in others)
    ]


def _build(frame: pd.DataFrame) -> Table:
    notes = setting_notes(first(frame))
    frame = newest(one_checkpoint(frame, notes), notes)
    tasks = _tasks(frame)
    groups = grouped(lines_of(frame), "method", "quant", "made_of")
    in_order = sorted(groups, key=lambda key: (_rank(key[0]), key))
    rows = tuple(_rows([groups[key] for key in in_order], notes))
    reference = next((row for row in rows if row.plain), None)
    shown = (*tasks, AVERAGE) if len(tasks) > 1 else tuple(tasks)
    if reference is not None:
        notes += unpaired_notes(rows, tasks, reference)
    notes += seed_notes({row.name: row.of(tasks) for row in rows})
    notes += [note for row in rows for note in left_out_seeds(row.name, row.of(tasks))]
    notes += source_notes(cell for row in rows for of in row.of(tasks) for cell in of.cells)
    absent = [gap for gap in gaps(rows, tasks) if gap[0] == "missing" and gap[3]]
    chance = {task: chance for task, chance in frame.groupby("task")["chance"].first().items()}
    return Table(
        title="",
        tasks=tasks,
        shown=shown,
        rows=rows,
        lines=lines(rows, tasks, shown, reference),
        chance={task: None if pd.isna(value) else value for task, value in chance.items()},
        notes=tuple(notes),
        gaps=tuple(absent),
    )


def _tasks(frame: pd.DataFrame) -> dict[str, str]:
    """Labels by task, in the paper's order."""
    labels = dict(zip(frame["task"], frame["label"], strict=True))
    order = {label: place for place, label in enumerate(PAPER_COLUMNS)}
    return {
        task: label
        for task, label in sorted(
            labels.items(), key=lambda pair: (order.get(pair[1], len(order)), pair)
        )
    }


def _rank(row: str) -> tuple[int, int]:
    """Methods in the paper's order, each followed by itself with more and more components."""
    method, *components = row.split("+")
    known = method in METHOD_ORDER
    return METHOD_ORDER.index(method) if known else len(METHOD_ORDER), len(components)


def _rows(groups: Sequence[Sequence[Cell]], notes: list[str]) -> Iterable[Row]:
    firsts = [cells[0] for cells in groups]
    for cells, cell in zip(groups, firsts, strict=True):
        entries = {task: entry(own) for task, own in grouped(cells, "task").items()}
        notes += [note for _, remarks in entries.values() for note in remarks]
        found = {task: made for task, (made, _) in entries.items()}
        seeds = {s for of in found.values() if of.sample for s in of.sample.seeds}
        name = _name(cell, [other for other in firsts if other is not cell])
        yield Row(name, in_line(name), found, frozenset(seeds), cell.method == REFERENCE)


def _name(cell: Cell, others: Sequence[Cell]) -> str:
    """The row's own label where its results recorded one, or else the method; and the bits. Where
    two rows would be named alike, the option of conf/row and the different settings follow."""

    def base(of: Cell) -> tuple[str, str]:
        return of.row_label or of.method, of.quant

    twins = [other for other in others if base(other) == base(cell)]
    alike = [other.recipe for other in twins if other.row == cell.row]
    option = cell.row if any(other.row != cell.row for other in twins) else ""
    settings = (
        f"{key}={_shown(value)}"
        for key, value in cell.recipe.items()
        if any(twin.get(key) != value for twin in alike)
    )
    return "\n".join([*filter(None, (*base(cell), option)), *settings])


def _shown(value: object) -> str:
    """A setting's value; for a long one its length, and a digest that tells it from others."""
    text = str(value)
    if len(text) <= LONGEST:
        return text
    size = f"{len(value)} values" if isinstance(value, list) else f"{len(text)} letters"
    return f"{size} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def print_tables(tables: Iterable[Table], problems: Iterable[str], console: Console) -> None:
    """Print every table, then its gaps and the result files that cannot be read."""
    for table in tables:
        scores = score_grid(table)
        named = replace(scores, title=f"{table.title}: {scores.title}")
        show([named, *change_grids(table)], table.notes, console)
        console.print()
        for gap in missing(table):
            console.print(Text(f"missing: {gap}", style="red"))
    for problem in problems:
        console.print(Text(f"unreadable: {problem}", style="red"))


def missing(table: Table) -> list[str]:
    """Seeds that a row has on some tasks alone."""
    return [text for _, text in gap_texts(table)]


def to_csv(tables: Iterable[Table]) -> str:
    """Every number with its limits, in percent or points; one line per table, row and column."""
    listed = [
        table.lines.assign(
            table=table.title,
            row=table.lines["name"].map(in_line),
            task=table.lines["place"].replace(AVERAGE, "average"),
        )
        for table in tables
    ]
    frame = pd.concat(listed) if listed else pd.DataFrame(columns=list(COLUMNS))
    return str(frame[list(COLUMNS)].to_csv(index=False))
