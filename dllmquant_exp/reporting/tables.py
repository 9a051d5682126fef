"""The table of a run or sweep: methods as rows, tasks as columns, cells with 95% intervals.

`build_tables` turns results into numbers, `render` turns numbers into rich tables, `to_csv` into
lines of text. One table holds only what may be compared: one model, one set of tasks, and equal
limit, batch size, device, dtype and decoding.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dllmquant_exp.reporting.results import CellResult, canonical_json
from dllmquant_exp.reporting.statistics import (
    Estimate,
    average,
    paired_difference,
    score_interval,
)

PAPER_COLUMNS = (
    "Truth.", "Arc.", "Hella.", "Wino.", "PIQA", "MMLU", "C-EVAL", "Hum.", "GSM8K",
)  # fmt: skip
REFERENCE = "fp"
METHOD_ORDER = (REFERENCE, "rtn", "awq", "gptq", "awq_gptq", "quarot_rtn", "quarot")
RECIPE = ("method", "quant", "calibration", "cgq", "iaaq")  # what makes a row
ROW_KEYS = (*RECIPE, "task", "seed", "data_root")  # the rest must agree in one table
CSV_COLUMNS = (
    "table", "row", "task", "state", "items",
    "score", "low", "high", "change", "change_low", "change_high",
)  # fmt: skip

Items = Mapping[tuple[str, str], float]
RowKey = tuple[str, str, str]  # method, quant, and the resolved settings of both


@dataclass(frozen=True)
class Entry:
    """One row's result on one task. `estimate` is None unless the state is finished."""

    state: str  # finished | failed | missing
    estimate: Estimate | None = None
    items: Items = field(default_factory=dict)
    change: Estimate | None = None  # from the full-precision row, paired by item


@dataclass(frozen=True)
class Row:
    name: str
    entries: tuple[Entry, ...]  # in the order of the table's columns
    average: Estimate | None
    change: Estimate | None


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[tuple[str, str], ...]  # (task, label)
    chance: tuple[float | None, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build_tables(cells: Sequence[CellResult]) -> list[Table]:
    """Group comparable cells into tables, in a fixed order."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        shared = {k: v for k, v in cell.config.items() if k not in ROW_KEYS}
        key = canonical_json([cell.model, cell.kind, cell.decoding, shared])
        groups.setdefault(key, []).append(cell)
    return [_build(groups[key]) for key in sorted(groups)]


def _build(cells: list[CellResult]) -> Table:
    notes = _labels(cells)
    cells = _newest(cells, notes)
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
        _row(names[key], entries[key], None if key[0] == REFERENCE else reference, notes)
        for key in order
    )
    chance = tuple(next((c.chance for c in cells if c.task == task), None) for task, _ in columns)
    return Table(_title(cells[0]), tuple(columns), chance, rows, tuple(notes))


def _row_key(cell: CellResult) -> RowKey:
    return (cell.method, cell.quant, canonical_json(_recipe(cell)))


def _recipe(cell: CellResult) -> dict[str, object]:
    """Every setting that makes a row, as `calibration.samples`; those of quant without a prefix."""
    found: dict[str, object] = {}
    for section in RECIPE:
        values = cell.config.get(section)
        if not isinstance(values, Mapping):
            found[section] = values
            continue
        prefix = "" if section == "quant" else f"{section}."
        found |= {f"{prefix}{key}": value for key, value in values.items()}
    return found


def _row_names(by_row: Mapping[RowKey, Sequence[CellResult]]) -> dict[RowKey, str]:
    """Method and bits, and what differs where that alone would name two rows alike."""
    names = {}
    for key, cells in by_row.items():
        recipe = _recipe(cells[0])
        twins = [
            _recipe(other[0])
            for twin, other in by_row.items()
            if twin[:2] == key[:2] and twin != key
        ]
        different = [k for k in recipe if any(t.get(k) != recipe[k] for t in twins)]
        names[key] = "\n".join([*filter(None, key[:2]), *(f"{k}={recipe[k]}" for k in different)])
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


def _labels(cells: Sequence[CellResult]) -> list[str]:
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


def _newest(cells: Iterable[CellResult], notes: list[str]) -> list[CellResult]:
    """One cell per (row, task, seed): a finished one before a failed one, then the newest."""
    best: dict[tuple[RowKey, str, int], CellResult] = {}
    for cell in sorted(cells, key=lambda c: (c.status == "finished", c.finished_at)):
        key = (_row_key(cell), cell.task, cell.seed)
        if key in best and best[key].status == "finished":
            notes.append(f"{cell.method}, {cell.task}: several results, the newest is shown.")
        best[key] = cell
    return list(best.values())


def _entry(cells: Sequence[CellResult], notes: list[str]) -> Entry:
    """One row on one task: items are averaged over seeds before any interval is taken."""
    finished = [cell for cell in cells if cell.status == "finished" and cell.items]
    failed = [cell for cell in cells if cell not in finished]
    for cell in failed:
        reason = cell.error.partition("\n")[0]
        notes.append(f"failed: {cell.method}, {cell.task}, seed {cell.seed}: {reason}")
    if not finished:
        return Entry("failed" if failed else "missing")
    if any(cell.items.keys() != finished[0].items.keys() for cell in finished):
        notes.append(f"{cells[0].method}, {cells[0].task}: the seeds saw different items.")
        return Entry("failed")
    items = {key: fmean(cell.items[key] for cell in finished) for key in finished[0].items}
    return Entry("finished", score_interval(list(items.values())), items)


def _row(
    name: str, entries: Sequence[Entry], reference: Sequence[Entry] | None, notes: list[str]
) -> Row:
    if reference is not None:
        pairs = zip(entries, reference, strict=True)
        entries = [_with_change(entry, base, name, notes) for entry, base in pairs]
    return Row(
        name,
        tuple(entries),
        _average([entry.estimate for entry in entries]),
        _average([entry.change for entry in entries]),
    )


def _with_change(entry: Entry, base: Entry, name: str, notes: list[str]) -> Entry:
    if entry.state != "finished" or base.state != "finished":
        return entry
    if entry.items.keys() != base.items.keys():
        where = name.replace("\n", " ")
        notes.append(f"{where}: other items than {REFERENCE} in a task: no paired difference.")
        return entry
    scores = [entry.items[key] for key in base.items]
    change = paired_difference(scores, list(base.items.values()))
    return Entry(entry.state, entry.estimate, entry.items, change)


def _average(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """An average only where every column has a value: a partial one would compare unlike things."""
    present = [estimate for estimate in estimates if estimate is not None]
    return average(present) if present and len(present) == len(estimates) else None


def render(table: Table) -> list[Text | RichTable]:
    """The scores, the paired changes from full precision, and the notes, to be printed in turn."""
    parts: list[Text | RichTable] = [
        Text(f"{table.title}: score in %, ± half of the 95% interval", style="bold"),
        _score_table(table),
    ]
    if any(entry.change for row in table.rows for entry in row.entries):
        title = f"change from {REFERENCE} on the same items, in points; * excludes 0"
        parts += [Text(title, style="bold"), _change_table(table)]
    return parts + [Text(note, style="yellow") for note in table.notes]


def _grid(table: Table) -> RichTable:
    # Narrow enough for nine tasks and the average in 80 columns.
    grid = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("", no_wrap=True)
    for _, label in table.columns:
        grid.add_column(label, justify="right", no_wrap=True)
    if len(table.columns) > 1:
        grid.add_column("Avg.", justify="right", no_wrap=True)
    return grid


def _score_table(table: Table) -> RichTable:
    grid = _grid(table)
    many = len(table.columns) > 1
    for row in table.rows:
        texts = [_score(entry) for entry in row.entries]
        if many:
            texts.append(_points(row.average) if row.average else "-")
        grid.add_row(row.name, *texts)
    chance = ["-" if value is None else f"{100 * value:.1f}" for value in table.chance]
    known = [value for value in table.chance if value is not None]
    mean = f"{100 * fmean(known):.1f}" if len(known) == len(table.chance) else "-"
    grid.add_section()
    grid.add_row("chance", *chance, *([mean] if many else []), style="dim")
    grid.add_row("items", *_counts(table), *([""] if many else []), style="dim")
    return grid


def _counts(table: Table) -> list[str]:
    columns = zip(*(row.entries for row in table.rows), strict=True)
    return [str(max(len(entry.items) for entry in column) or "-") for column in columns]


def _change_table(table: Table) -> RichTable:
    grid = _grid(table)
    for row in table.rows:
        if not any(entry.change for entry in row.entries):
            continue
        texts = [_points(entry.change, sign=True) for entry in row.entries]
        if len(table.columns) > 1:
            texts.append(_points(row.change, sign=True))
        grid.add_row(row.name, *texts)
    return grid


def _score(entry: Entry) -> str:
    if entry.estimate is None:
        return "failed" if entry.state == "failed" else "-"
    return _points(entry.estimate)


def _points(estimate: Estimate | None, *, sign: bool = False) -> str:
    if estimate is None:
        return "-"
    value = f"{100 * estimate.value:+.1f}" if sign else f"{100 * estimate.value:.1f}"
    star = "*" if sign and estimate.excludes_zero else ""
    return f"{value}{star}\n±{100 * estimate.half_width:.1f}"


def print_tables(tables: Iterable[Table], problems: Iterable[str], console: Console) -> None:
    """Print every table, then the result files that could not be read."""
    for table in tables:
        for part in render(table):
            _print_whole(part, console)
        console.print()
    for problem in problems:
        console.print(Text(f"unreadable: {problem}", style="red"))


def _print_whole(part: Text | RichTable, console: Console) -> None:
    """Rather a line that the terminal wraps than a number cut short."""
    before = console.width
    if isinstance(part, RichTable):
        unbounded = console.options.update(max_width=10_000)
        console.width = max(before, console.measure(part, options=unbounded).maximum)
    try:
        console.print(part, crop=False)
    finally:
        console.width = before


def to_csv(tables: Iterable[Table]) -> str:
    """Every number with its limits, as fractions; one line per table, row and column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for row in table.rows:
            name = row.name.replace("\n", " ")
            for (task, _), entry in zip(table.columns, row.entries, strict=True):
                numbers = (*_limits(entry.estimate), *_limits(entry.change))
                writer.writerow([table.title, name, task, entry.state, len(entry.items), *numbers])
            if len(table.columns) > 1:
                state = "finished" if row.average else "missing"
                count = sum(len(entry.items) for entry in row.entries)
                numbers = (*_limits(row.average), *_limits(row.change))
                writer.writerow([table.title, name, "average", state, count, *numbers])
    return out.getvalue()


def _limits(estimate: Estimate | None) -> tuple[str, str, str]:
    if estimate is None:
        return ("", "", "")
    return (f"{estimate.value:.6f}", f"{estimate.low:.6f}", f"{estimate.high:.6f}")
