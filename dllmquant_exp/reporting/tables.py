"""The table of a run or sweep: methods as rows, tasks as columns, cells with 95% intervals.

`build_tables` turns results into numbers, `print_tables` into a terminal's lines, `to_csv` into
lines of text. One table holds only what may be compared: one model, one set of tasks, and equal
limit, batch size, device, dtype and decoding.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rich.console import Console
from rich.text import Text

from dllmquant_exp.reporting.cells import RECIPE, CellResult
from dllmquant_exp.reporting.checkpoints import one_checkpoint
from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.entries import Entry, average, difference, entry
from dllmquant_exp.reporting.grids import AVERAGE, Grid, Line, points, show
from dllmquant_exp.reporting.results import canonical_json
from dllmquant_exp.reporting.speed_results import is_speed

PAPER_COLUMNS = (
    "Truth.", "Arc.", "Hella.", "Wino.", "PIQA", "MMLU", "C-EVAL", "Hum.", "GSM8K",
)  # fmt: skip
REFERENCE = "fp"
METHOD_ORDER = (REFERENCE, "rtn", "awq", "gptq", "awq_gptq", "quarot_rtn", "quarot")
# The rest must agree in one table. Not threads: null stands for another number on each machine.
ROW_KEYS = (*RECIPE, "task", "seed", "data_root", "threads")
CSV_COLUMNS = (
    "table", "row", "task", "state", "items",
    "score", "low", "high", "change", "change_low", "change_high",
)  # fmt: skip

RowKey = tuple[str, str, str]  # method, quant, and the resolved settings of both


@dataclass(frozen=True)
class Row:
    name: str
    entries: tuple[Entry, ...]  # in the order of the table's columns
    average: SeededAverage | None
    changes: tuple[SeededAverage | None, ...]  # from full precision, paired by item
    change: SeededAverage | None  # of the average


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[tuple[str, str], ...]  # (task, label)
    chance: tuple[float | None, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build_tables(cells: Sequence[CellResult]) -> list[Table]:
    """Group comparable cells into tables, in a fixed order. Speed tasks have their own."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        if is_speed(cell):
            continue
        groups.setdefault(canonical_json(conditions(cell)), []).append(cell)
    return [_build(groups[key]) for key in sorted(groups)]


def conditions(cell: CellResult) -> dict[str, object]:
    """What must be equal in results that are compared, beside the row, the task and the seed."""
    shared = {key: value for key, value in cell.config.items() if key not in ROW_KEYS}
    return {"model.name": cell.model, "kind": cell.kind, "decoding": cell.decoding, **shared}


def _build(cells: list[CellResult]) -> Table:
    notes = labels(cells)
    cells = newest(one_checkpoint(cells, notes), notes)
    columns = _columns(cells)
    by_row: dict[RowKey, list[CellResult]] = {}
    for cell in cells:
        by_row.setdefault(_row_key(cell), []).append(cell)
    order = sorted(by_row, key=lambda key: (_rank(key[0]), key))
    names = _row_names(by_row)
    entries = {
        key: [_entry([c for c in by_row[key] if c.task == task], notes) for task, _ in columns]
        for key in order
    }
    reference = next((entries[key] for key in order if key[0] == REFERENCE), None)
    rows = tuple(
        make_row(names[key], entries[key], None if key[0] == REFERENCE else reference, notes)
        for key in order
    )
    chance = tuple(next((c.chance for c in cells if c.task == task), None) for task, _ in columns)
    return Table(_title(cells[0]), tuple(columns), chance, rows, tuple(notes))


def _entry(cells: Sequence[CellResult], notes: list[str]) -> Entry:
    made, remarks = entry(cells)
    notes += remarks
    return made


def _row_key(cell: CellResult) -> RowKey:
    return (cell.method, cell.quant, cell.made_of)


def _row_names(by_row: Mapping[RowKey, Sequence[CellResult]]) -> dict[RowKey, str]:
    """Method and bits, and what differs where that alone would name two rows alike."""
    names = {}
    for key, cells in by_row.items():
        own = cells[0].recipe
        twins = [
            other[0].recipe for twin, other in by_row.items() if twin[:2] == key[:2] and twin != key
        ]
        different = [k for k in own if any(t.get(k) != own[k] for t in twins)]
        names[key] = "\n".join([*filter(None, key[:2]), *(f"{k}={own[k]}" for k in different)])
    return names


def _columns(cells: Iterable[CellResult]) -> list[tuple[str, str]]:
    def place(column: tuple[str, str]) -> tuple[int, str]:
        task, label = column
        known = label in PAPER_COLUMNS
        return (PAPER_COLUMNS.index(label) if known else len(PAPER_COLUMNS), task)

    return sorted({(cell.task, cell.label) for cell in cells}, key=place)


def _rank(row: str) -> tuple[int, int]:
    """Methods in the paper's order, each followed by itself with more and more components."""
    method, *components = row.split("+")
    known = method in METHOD_ORDER
    return METHOD_ORDER.index(method) if known else len(METHOD_ORDER), len(components)


def labels(cells: Sequence[CellResult]) -> list[str]:
    """What a reader must know before comparing these numbers with anything printed elsewhere."""
    notes, cell = [], cells[0]
    checkpoint = cell.config["model"]["checkpoint"]
    if cell.embedded:
        notes.append(f"{cell.model} is an embedded stand-in, not one of the paper's models.")
    if cell.config["model"].get("outliers") is not None:
        strength = cell.config["model"]["outliers"]["strength"]
        notes.append(
            f"Outlier channels were put into {cell.model} (strength {strength:g}) without changing "
            "its function."
        )
    if not checkpoint.startswith("embedded:"):
        notes.append(f"checkpoint: {checkpoint}")
    if cell.decoding != "published":
        notes.append(f"decoding={cell.decoding}: not the published settings.")
    if cell.config.get("limit") is not None:
        notes.append(f"limit={cell.config['limit']}: a part of each task's items.")
    return notes


def _title(cell: CellResult) -> str:
    tasks = {"micro": "micro-world tasks", "official": "official tasks"}.get(cell.kind, cell.kind)
    return f"{cell.model}, {tasks}"


def newest(cells: Iterable[CellResult], notes: list[str]) -> list[CellResult]:
    """One cell per (row, task, seed): a finished one before a failed one, then the newest."""
    best: dict[tuple[str, str, int], CellResult] = {}
    for cell in sorted(cells, key=lambda c: (c.status == "finished", c.finished_at)):
        key = (cell.made_of, cell.task, cell.seed)
        if key in best and best[key].status == "finished":
            notes.append(f"{cell.method}, {cell.task}: several results, the newest is shown.")
        best[key] = cell
    return list(best.values())


def make_row(
    name: str, entries: Sequence[Entry], reference: Sequence[Entry] | None, notes: list[str]
) -> Row:
    """A row with its average and, where there is a reference, its paired changes from that."""
    samples = [entry.sample for entry in entries]
    changes: list[SeededAverage | None] = [None] * len(entries)
    change = None
    if reference is not None:
        others = [entry.sample for entry in reference]
        changes = [difference([a], [b]) for a, b in zip(samples, others, strict=True)]
        change = difference(samples, others)
        if any(a and b and a.items != b.items for a, b in zip(samples, others, strict=True)):
            where = name.replace("\n", " ")
            notes.append(f"{where}: other items than {REFERENCE} in a task: no paired difference.")
    return Row(name, tuple(entries), average(samples), tuple(changes), change)


def score_grid(table: Table) -> Grid:
    """Scores with their intervals, and below them chance and the number of items."""
    lines = tuple((row.name, (*map(_score, row.entries), _of(row.average))) for row in table.rows)
    chance = tuple("-" if value is None else f"{100 * value:.1f}" for value in table.chance)
    known = [value for value in table.chance if value is not None]
    mean = f"{100 * fmean(known):.1f}" if len(known) == len(table.chance) else "-"
    columns = list(zip(*(row.entries for row in table.rows), strict=True))
    counts = [max(entry.n for entry in column) for column in columns]
    items = tuple(str(count or "-") for count in (*counts, sum(counts)))
    footer: tuple[Line, ...] = (("chance", (*chance, mean)), ("items", items))
    return Grid("score in %, ± half of the 95% interval", _headings(table), lines, footer)


def change_grid(table: Table) -> Grid | None:
    """Paired changes from full precision; None where there are none."""
    changed = [row for row in table.rows if any(row.changes)]
    lines = tuple(
        (row.name, tuple(_of(change, sign=True) for change in (*row.changes, row.change)))
        for row in changed
    )
    title = f"change from {REFERENCE} on the same items, in points; * excludes 0, taken by itself"
    return Grid(title, _headings(table), lines) if lines else None


def _headings(table: Table) -> tuple[str, ...]:
    return (*(label for _, label in table.columns), AVERAGE)


def _score(entry: Entry) -> str:
    return "failed" if entry.state == "failed" else _of(entry.score)


def _of(value: SeededAverage | None, *, sign: bool = False) -> str:
    return points(None if value is None else value.estimate, sign=sign)


def print_tables(tables: Iterable[Table], problems: Iterable[str], console: Console) -> None:
    """Print every table, then the result files that could not be read."""
    for table in tables:
        scores = score_grid(table)
        named = replace(scores, title=f"{table.title}: {scores.title}")
        grids = [grid for grid in (named, change_grid(table)) if grid is not None]
        if len(table.columns) == 1:  # an average would say it twice
            grids = [grid.only(grid.columns[:1]) for grid in grids]
        show(grids, table.notes, console)
        console.print()
    for problem in problems:
        console.print(Text(f"unreadable: {problem}", style="red"))


def to_csv(tables: Iterable[Table]) -> str:
    """Every number with its limits, as fractions; one line per table, row and column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for row in table.rows:
            name = row.name.replace("\n", " ")
            for (task, _), cell, change in zip(
                table.columns, row.entries, row.changes, strict=True
            ):
                numbers = (*_limits(cell.score), *_limits(change))
                writer.writerow([table.title, name, task, cell.state, cell.n, *numbers])
            if len(table.columns) > 1:
                state = "finished" if row.average else "missing"
                count = sum(entry.n for entry in row.entries)
                numbers = (*_limits(row.average), *_limits(row.change))
                writer.writerow([table.title, name, "average", state, count, *numbers])
    return out.getvalue()


def _limits(value: SeededAverage | None) -> tuple[str, str, str]:
    if value is None:
        return ("", "", "")
    of = value.estimate
    return (f"{of.value:.6f}", f"{of.low:.6f}", f"{of.high:.6f}")
