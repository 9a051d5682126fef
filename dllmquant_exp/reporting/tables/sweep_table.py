"""The tables of a run or sweep: methods as rows, tasks as columns, cells with 95% intervals.

A table holds only results that may be compared: of one model and one set of tasks, with equal
limit, batch size, device, dtype and decoding.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import pandas as pd

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.comparable import Variant, newest, one_checkpoint
from dllmquant_exp.reporting.frame import SPEED, Cell, first, flat, grouped, lines_of
from dllmquant_exp.reporting.notes import seed_notes, setting_notes
from dllmquant_exp.reporting.render import Section, in_line
from dllmquant_exp.reporting.samples import sample_of
from dllmquant_exp.reporting.tables import PAPER_COLUMNS, REFERENCE
from dllmquant_exp.reporting.tables.lines import (
    CHANGE,
    FLIPS,
    SCORE,
    gaps,
    line_notes,
    score_grids,
    table_lines,
)
from dllmquant_exp.store.names import AVERAGE

METHOD_ORDER = (REFERENCE, "rtn", "awq", "gptq", "awq_gptq", "quarot_rtn", "quarot")
LONGEST = 40  # letters of a setting's value that are shown
COLUMNS = [
    "table", "row", "task", "state", "n", "seeds", *SCORE, *CHANGE, *FLIPS, "config_hash", "commit",
]  # fmt: skip


def sweep_sections(frame: pd.DataFrame) -> list[Section]:
    """Group comparable cells into tables, in a fixed order. Speed tasks have their own.

    Titles of tables of one model and kind of task name their different conditions.
    """
    scored = frame[frame["kind"] != SPEED]
    groups = [group for _, group in scored.groupby("comparable")]
    firsts = [first(group) for group in groups]
    titles = (_title(cell, firsts) for cell in firsts)
    return [_section(group, title) for group, title in zip(groups, titles, strict=True)]


def _title(cell: Cell, others: Sequence[Cell]) -> str:
    """Model and kind of task, and the conditions that other tables of these do not share, as
    `dtype=float32`."""
    tasks = {"micro": "micro-world tasks", "official": "official tasks"}.get(cell.kind, cell.kind)
    same = [of for of in others if (of.model, of.kind) == (cell.model, cell.kind)]
    own, *twins = (flat("", of.conditions) for of in (cell, *same))
    different = (
        f"{name}={_shown(value)}"
        for name, value in own.items()
        if any(twin.get(name) != value for twin in twins)
    )
    return "; ".join([f"{cell.model}, {tasks}", *different])


def _section(frame: pd.DataFrame, title: str) -> Section:
    notes = setting_notes(first(frame))
    frame = newest(one_checkpoint(frame, notes), notes)
    groups = grouped(lines_of(frame), "method", "quant", "made_of")
    in_order = sorted(groups, key=lambda key: (_rank(key[0]), key))
    rows = _rows([groups[key] for key in in_order])
    tasks = _tasks(frame)
    shown = (*tasks, AVERAGE) if len(tasks) > 1 else tuple(tasks)
    reference = next((row for row in rows if row.is_plain), None)
    chance = frame.groupby("task")["chance"].first().dropna().to_dict()
    lines = table_lines(rows, tasks, shown, reference, chance)
    notes += seed_notes({row.name: row.seeds for row in rows})
    notes += line_notes(rows, tasks, reference, AVERAGE in shown)
    faults = [f"{state}: {text}" for state, text in gaps(rows, tasks, every_task=False)]
    if faults:
        notes.append(f"incomplete: {'; '.join(faults)}.")
    long = lines.assign(
        table=title,
        row=lines["name"].map(in_line),
        task=lines["place"].replace(AVERAGE, "average"),
    )
    return Section(title, score_grids(lines), tuple(notes), long[COLUMNS], tuple(faults))


def _tasks(frame: pd.DataFrame) -> dict[str, str]:
    """Labels by task, in the paper's order."""
    labels = dict(zip(frame["task"], frame["label"], strict=True))
    order = {label: place for place, label in enumerate(PAPER_COLUMNS)}
    return dict(sorted(labels.items(), key=lambda pair: (order.get(pair[1], len(order)), pair)))


def _rank(row: str) -> tuple[int, int]:
    """Methods in the paper's order, each followed by itself with more and more components."""
    method, *components = row.split("+")
    known = method in METHOD_ORDER
    return METHOD_ORDER.index(method) if known else len(METHOD_ORDER), len(components)


def _rows(groups: Sequence[Sequence[Cell]]) -> list[Variant]:
    """A row per recipe. Every task should have the seeds that one of the row's tasks has."""
    firsts = [cells[0] for cells in groups]
    rows = []
    for cells, cell in zip(groups, firsts, strict=True):
        samples = {task: sample_of(own) for task, own in grouped(cells, "task").items()}
        seeds = frozenset(seed for sample in samples.values() for seed in sample.seeds)
        name = _name(cell, [other for other in firsts if other is not cell])
        rows.append(Variant("", cell.recipe, "", samples, name, seeds))
    return rows


def _name(cell: Cell, others: Sequence[Cell]) -> str:
    """The method and its components, or the label of a row that a user brought; and the bits. Where
    two rows would be named alike, the option of conf/row and the different settings follow."""

    def base(of: Cell) -> tuple[str, str]:
        return (of.method if of.row in _our_rows() else of.row_label or of.method), of.quant

    twins = [other for other in others if base(other) == base(cell)]
    alike = [other.recipe for other in twins if other.row == cell.row]
    option = cell.row if any(other.row != cell.row for other in twins) else ""
    settings = (
        f"{key}={_shown(value)}"
        for key, value in cell.recipe.items()
        if any(twin.get(key) != value for twin in alike)
    )
    return "\n".join([*filter(None, (*base(cell), option)), *settings])


@cache
def _our_rows() -> frozenset[str]:
    return frozenset(path.stem for path in (config_folder() / "row").glob("*.yaml"))


def _shown(value: object) -> str:
    """A setting's value; for a long one its length, and a digest that tells it from others."""
    text = str(value)
    if len(text) <= LONGEST:
        return text
    size = f"{len(value)} values" if isinstance(value, list) else f"{len(text)} letters"
    return f"{size} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
