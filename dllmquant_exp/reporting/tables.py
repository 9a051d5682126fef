"""The table of a run or sweep: methods as rows, tasks as columns, cells with 95% intervals.

`build_tables` turns results into numbers; `sweep_pages` shows and writes them. One table holds only
what may be compared: one model, one set of tasks, and equal limit, batch size, device, dtype and
decoding.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from dllmquant_exp.reporting.cells import RECIPE, CellResult, flat
from dllmquant_exp.reporting.checkpoints import one_checkpoint
from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.entries import Entry, average, difference, entry
from dllmquant_exp.reporting.grids import AVERAGE, Grid, Line, points
from dllmquant_exp.reporting.remarks import absent_seeds, seed_note, seeds_note, source_notes
from dllmquant_exp.reporting.speed.results import is_speed
from dllmquant_exp.store.results import canonical_json

PAPER_COLUMNS = (
    "Truth.", "Arc.", "Hella.", "Wino.", "PIQA", "MMLU", "C-EVAL", "Hum.", "GSM8K",
)  # fmt: skip
REFERENCE = "fp"
METHOD_ORDER = (REFERENCE, "rtn", "awq", "gptq", "awq_gptq", "quarot_rtn", "quarot")
# The rest must agree in one table. Not threads: null stands for another number on each machine.
ROW_KEYS = (*RECIPE, "task", "seed", "data_root", "threads")
LONGEST = 40  # letters of a setting's value that are shown

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
    gaps: tuple[str, ...] = ()  # seeds that a row has on some tasks alone


def build_tables(cells: Sequence[CellResult]) -> list[Table]:
    """Group comparable cells into tables, in a fixed order. Speed tasks have their own.

    Titles of tables of one model and kind of task name what differs.
    """
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        if is_speed(cell):
            continue
        groups.setdefault(canonical_json(conditions(cell)), []).append(cell)
    ordered = [groups[key] for key in sorted(groups)]
    titles = [_title(cells[0]) for cells in ordered]
    twins = [[c for c, of in zip(ordered, titles, strict=True) if of == own] for own in titles]
    return [
        replace(_build(cells), title="; ".join([title, *_differing(cells, same)]))
        for cells, title, same in zip(ordered, titles, twins, strict=True)
    ]


def _differing(cells: Sequence[CellResult], twins: Sequence[Sequence[CellResult]]) -> list[str]:
    """The conditions of a table that are not those of all its twins, as `dtype=float32`."""
    own, *others = (flat("", conditions(one[0])) for one in (cells, *twins))
    return [
        f"{name}={_shown(value)}"
        for name, value in own.items()
        if any(other.get(name) != value for other in others)
    ]


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
    notes += seeds_note({row.name: row.entries for row in rows})
    notes += [note for row in rows for note in seed_note(row.name, row.entries)]
    notes += source_notes(run for row in rows for entry in row.entries for run in entry.cells)
    labelled = [label for _, label in columns]
    gaps = [
        line
        for row in rows
        for line in absent_seeds(row.name, dict(zip(labelled, row.entries, strict=True)))
    ]
    return Table("", tuple(columns), chance, rows, tuple(notes), tuple(gaps))


def _entry(cells: Sequence[CellResult], notes: list[str]) -> Entry:
    made, remarks = entry(cells)
    notes += remarks
    return made


def _row_key(cell: CellResult) -> RowKey:
    return (cell.method, cell.quant, cell.made_of)


def _row_names(by_row: Mapping[RowKey, Sequence[CellResult]]) -> dict[RowKey, str]:
    """Method and bits, and where that alone would name two rows alike, the option of conf/row and
    what differs within it."""
    names = {}
    for key, cells in by_row.items():
        first, own = cells[0], cells[0].recipe
        others = [other[0] for twin, other in by_row.items() if twin[:2] == key[:2] and twin != key]
        alike = [other.recipe for other in others if other.row == first.row]
        option = first.row if any(other.row != first.row for other in others) else None
        different = [k for k in own if any(twin.get(k) != own[k] for twin in alike)]
        settings = (f"{k}={_shown(own[k])}" for k in different)
        names[key] = "\n".join([*filter(None, (*key[:2], option)), *settings])
    return names


def _shown(value: object) -> str:
    """A setting's value; of a long one its length, and a digest that tells it from others."""
    text = str(value)
    if len(text) <= LONGEST:
        return text
    size = f"{len(value)} values" if isinstance(value, list) else f"{len(text)} letters"
    return f"{size} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


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
    counts = [sorted({entry.n for entry in column} - {0}) for column in columns]
    items = tuple(f"{n[0]} to {n[-1]}" if len(n) > 1 else str(*n or "-") for n in counts)
    averaged = max((sum(e.n for e in row.entries) for row in table.rows if row.average), default=0)
    footer: tuple[Line, ...] = (
        ("chance", (*chance, mean)),
        ("items", (*items, str(averaged or "-"))),
    )
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
