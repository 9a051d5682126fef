"""From rows of entries to the lines of a table, and from lines to its grids.

A table is a long frame: a line per row and column, with the score, its paired change from full
precision, and the runs behind them. A grid is a pivot of these lines, each as text.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.notes import in_line, listed
from dllmquant_exp.reporting.render import AVERAGE, Grid, Line, points
from dllmquant_exp.reporting.samples import (
    MISSING,
    Entry,
    Sample,
    average,
    difference,
    shared_seeds,
)
from dllmquant_exp.reporting.statistics import SeededAverage
from dllmquant_exp.reporting.tables import REFERENCE

SCORE, CHANGE = ("score", "low", "high"), ("change", "change_low", "change_high")
STATES = ("failed", "missing", "partial", "finished")  # the worst first
Gap = tuple[str, str, str, str]  # state, row, column, reason


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table.

    Attributes:
        name: as printed; on lines of their own, settings that set it apart.
        key: its name in lists of gaps.
        entries: by column.
        seeds: each entry should have them.
        plain: whether it is full precision, which has no change from itself.
        more: further columns of its lines.
    """

    name: str
    key: str
    entries: Mapping[str, Entry]
    seeds: frozenset[int] = frozenset()
    plain: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    def of(self, columns: Iterable[str]) -> list[Entry]:
        return [self.entries.get(column, MISSING) for column in columns]

    def samples(self, columns: Iterable[str]) -> list[Sample | None]:
        return [entry.sample for entry in self.of(columns)]

    def absent(self, entry: Entry) -> list[int]:
        """The seeds that an entry with a score lacks, and that did not fail."""
        if entry.sample is None:
            return []
        return sorted(self.seeds - set(entry.sample.seeds) - {cell.seed for cell in entry.failed})


@dataclass(frozen=True)
class Table:
    """One model's part of a table; its lines and what is said of them.

    Attributes:
        tasks: heading by column, without the average.
        shown: the columns that are shown, the average under its own name.
        lines: see `lines`.
    """

    title: str
    tasks: Mapping[str, str]
    shown: tuple[str, ...]
    rows: tuple[Row, ...]
    lines: pd.DataFrame
    chance: Mapping[str, float | None]
    notes: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()


def lines(
    rows: Sequence[Row], tasks: Mapping[str, str], shown: Sequence[str], reference: Row | None
) -> pd.DataFrame:
    """A line per row and shown column. Scores and limits in percent, changes in points.

    `line` and `place` say where its text stands. `state` is partial where seeds are missing or
    failed, and the worst of the tasks' for an average.

    Args:
        reference: changes are from this row, paired by item.
    """
    made = []
    for i, row in enumerate(rows):
        for place in shown:
            over = list(tasks) if place == AVERAGE else [place]
            entries, samples = row.of(over), row.samples(over)
            score = average(samples) if place == AVERAGE else entries[0].score
            change = None
            if reference is not None and not row.plain:
                change = difference(samples, reference.samples(over))
            states = {_state(row, entry) for entry in entries}
            made.append({
                "line": i,
                "place": place,
                "name": row.name,
                "column": tasks.get(place, AVERAGE),
                "state": next(state for state in STATES if state in states),
                **_behind(entries, score),
                **_numbers(SCORE, score),
                **_numbers(CHANGE, change),
                "covers": score.covers if score else "",
                **row.more,
            })  # fmt: skip
    return pd.DataFrame(made).astype(dict.fromkeys((*SCORE, *CHANGE), float))


def _state(row: Row, entry: Entry) -> str:
    partial = entry.state == "finished" and (entry.failed or row.absent(entry))
    return "partial" if partial else entry.state


def _numbers(names: Sequence[str], found: SeededAverage | None) -> dict[str, float | None]:
    """A value and its limits by their names, in percent or points; None where there is none."""
    if found is None:
        return dict.fromkeys(names)
    estimate = found.estimate
    values = (estimate.value, estimate.low, estimate.high)
    return {name: 100 * value for name, value in zip(names, values, strict=True)}


def _behind(entries: Sequence[Entry], score: SeededAverage | None) -> dict[str, Any]:
    """`n` items, and `seeds`, `config_hash` and `commit` of the averaged runs, joined by spaces.

    An average over tasks has the seeds that every task has. Its hash is sha256 of its runs' sorted
    hashes, joined by spaces. Where there is no score, nothing stands behind it.
    """
    if score is None:
        return {"n": 0, "seeds": "", "config_hash": "", "commit": ""}
    seeds = shared_seeds(entry.sample for entry in entries)
    runs = [run for entry in entries for run in entry.cells if run.seed in seeds]
    hashes = [run.config_hash for run in runs]
    joined = " ".join(sorted(hashes)).encode()
    return {
        "n": sum(entry.n for entry in entries),
        "seeds": " ".join(map(str, seeds)),
        "config_hash": (
            " ".join(hashes) if len(entries) == 1 else hashlib.sha256(joined).hexdigest()
        ),
        "commit": " ".join(dict.fromkeys(run.commit for run in runs)),
    }


def gaps(rows: Iterable[Row], tasks: Mapping[str, str]) -> list[Gap]:
    """Results that should be there and are missing or failed, be it with some seeds."""
    found: list[Gap] = []
    for row in rows:
        for (_, label), entry in zip(tasks.items(), row.of(tasks), strict=True):
            for cell in entry.failed:
                reason = cell.error.partition("\n")[0] or "its seeds saw different items"
                found.append(("failed", row.key, label, f"seed {cell.seed}: {reason}"))
            if entry.state == "missing":
                found.append(("missing", row.key, label, ""))
            if row.absent(entry):
                found.append(("missing", row.key, label, f"seed {listed(row.absent(entry))}"))
    return found


def gap_texts(table: Table) -> list[tuple[str, str]]:
    """State and text of a table's gaps: one per row, state and reason, with all of its tasks."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for state, row, label, reason in table.gaps:
        grouped.setdefault((state, row, reason), []).append(label)
    texts = []
    for (state, row, reason), labels in grouped.items():
        where = "every task" if len(labels) == len(table.tasks) else ", ".join(labels)
        texts.append((state, f"{row}: {where}{f': {reason}' if reason else ''}"))
    return texts


def unpaired_notes(rows: Iterable[Row], tasks: Mapping[str, str], reference: Row) -> list[str]:
    """Rows whose items are not those of the reference."""
    others = reference.samples(tasks)
    return [
        f"{in_line(row.name)}: other items than {REFERENCE} in a task: no paired difference."
        for row in rows
        if any(
            a and b and a.items != b.items for a, b in zip(row.samples(tasks), others, strict=True)
        )
    ]


def pivot(
    table: Table, title: str, text: Callable[[Any], str], chosen: pd.Series, **parts: Any
) -> Grid:
    """The texts of some lines as a grid.

    Args:
        text: of a line, whose columns are its attributes.
        chosen: whether a line is wanted; a row with such a line is there with all of its columns.
    """
    kept = table.lines[table.lines["line"].isin(table.lines.loc[chosen, "line"])]
    texts = kept.assign(text=[text(line) for line in kept.itertuples()])
    wide = texts.pivot(index="line", columns="place", values="text")[list(table.shown)]
    names = kept.groupby("line")["name"].first()
    rows = tuple(zip(names, wide.itertuples(index=False, name=None), strict=True))
    return Grid(
        title, tuple(table.tasks.get(place, AVERAGE) for place in table.shown), rows, **parts
    )


def score_grid(table: Table) -> Grid:
    """Scores with their intervals, and below them chance and the number of items. A line with
    `best` is marked."""

    def text(line: Any) -> str:
        failed = line.state == "failed" and line.place != AVERAGE
        return "failed" if failed else points(line.score, line.low, line.high)

    marked = table.lines[table.lines["best"]] if "best" in table.lines else table.lines[:0]
    places = (table.shown.index(place) for place in marked["place"])
    best = frozenset(zip(marked["line"], places, strict=True))
    everything = pd.Series(True, table.lines.index)
    title = "score in %, ± half of the 95% interval"
    return pivot(table, title, text, everything, footer=_footer(table), best=best)


def change_grids(table: Table) -> list[Grid]:
    """Paired changes from full precision; no grid where there are none."""
    changed = table.lines["change"].notna()
    if not changed.any():
        return []
    title = f"change from {REFERENCE} on the same items, in points; * excludes 0, taken by itself"

    def text(line: Any) -> str:
        return points(line.change, line.change_low, line.change_high, sign=True)

    return [pivot(table, title, text, changed)]


def _footer(table: Table) -> tuple[Line, ...]:
    chance = [table.chance.get(task) for task in table.tasks]
    known = [value for value in chance if value is not None]
    every = dict(zip(table.tasks, chance, strict=True))
    every[AVERAGE] = fmean(known) if len(known) == len(chance) else None
    counted = table.lines[table.lines["n"] > 0].groupby("place")["n"]
    least, most = counted.min(), counted.max()
    items = {
        place: str(most[place])
        if place == AVERAGE or least[place] == most[place]
        else f"{least[place]} to {most[place]}"
        for place in most.index
    }
    texts = ("-" if (x := every[place]) is None else f"{100 * x:.1f}" for place in table.shown)
    return (
        ("chance", tuple(texts)),
        ("items", tuple(items.get(place, "-") for place in table.shown)),
    )
