"""From rows to the lines of a table, and from lines to its grids.

A table is a long frame: a line per row and column, with the score, its paired change from full
precision, and the runs behind them. A grid is a pivot of these lines, each as text.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.comparable import Variant
from dllmquant_exp.reporting.notes import in_line, left_out_seeds, listed, source_notes
from dllmquant_exp.reporting.render import AVERAGE, Grid, Line, points
from dllmquant_exp.reporting.samples import Entry, average, difference, shared_seeds
from dllmquant_exp.reporting.statistics import SeededAverage
from dllmquant_exp.reporting.tables import REFERENCE

SCORE, CHANGE = ("score", "low", "high"), ("change", "change_low", "change_high")
STATES = ("failed", "missing", "partial", "finished")  # the worst first
Gap = tuple[str, str, str, str]  # state, row, column, reason


@dataclass(frozen=True)
class Table:
    """One model's part of a table.

    Attributes:
        tasks: heading by column, without the average.
        shown: the columns that are shown, the average under its own name.
        lines: a line per row and shown column, see `table`.
    """

    title: str
    tasks: Mapping[str, str]
    shown: tuple[str, ...]
    rows: tuple[Variant, ...]
    lines: pd.DataFrame
    chance: Mapping[str, float]
    notes: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()


def table(
    title: str,
    rows: Sequence[Variant],
    tasks: Mapping[str, str],
    shown: Sequence[str],
    reference: Variant | None,
    chance: Mapping[str, float],
    notes: Iterable[str],
) -> Table:
    """A table with its lines, gaps and notes.

    Lines have scores and limits in percent, changes in points. `line` and `place` say where a
    line's text stands. `state` is partial where seeds are missing or failed, and the worst of the
    tasks' for an average.

    Args:
        reference: changes are from this row, paired by item.
    """
    lines = [
        {"line": i, "place": place, **_line(row, tasks, place, reference)}
        for i, row in enumerate(rows)
        for place in shown
    ]
    sources = {id(entry): entry for row in (*rows, reference) if row for entry in row.of(tasks)}
    more = [] if reference is None else _unpaired_notes(rows, tasks, reference)
    if AVERAGE in shown:
        more += [note for row in rows for note in left_out_seeds(row.name, row.of(tasks))]
    return Table(
        title,
        tasks,
        tuple(shown),
        tuple(rows),
        pd.DataFrame(lines).astype(dict.fromkeys((*SCORE, *CHANGE), float)),
        chance,
        (*notes, *more, *source_notes(cell for of in sources.values() for cell in of.cells)),
        tuple(_gaps(rows, tasks)),
    )


def _unpaired_notes(
    rows: Iterable[Variant], columns: Iterable[str], reference: Variant
) -> list[str]:
    """Rows with other items than the reference."""
    tasks = list(columns)
    pairs = {
        row.name: zip(row.samples(tasks), reference.samples(tasks), strict=True) for row in rows
    }
    return [
        f"{in_line(name)}: other items than {REFERENCE} in a task: no paired difference."
        for name, samples in pairs.items()
        if any(a and b and a.items != b.items for a, b in samples)
    ]


def _line(
    row: Variant, tasks: Mapping[str, str], place: str, reference: Variant | None
) -> dict[str, Any]:
    over = list(tasks) if place == AVERAGE else [place]
    entries, samples = row.of(over), row.samples(over)
    score = average(samples) if place == AVERAGE else entries[0].score
    change = None
    if reference is not None and not row.is_plain:
        change = difference(samples, reference.samples(over))
    states = {_state(row, entry) for entry in entries}
    return {
        "row": row.row,
        "name": row.name,
        "variant": row.difference,
        "column": tasks.get(place, AVERAGE),
        "state": next(state for state in STATES if state in states),
        **_behind(entries, score),
        **_numbers(SCORE, score),
        **_numbers(CHANGE, change),
        "covers": score.covers if score else "",
    }


def _state(row: Variant, entry: Entry) -> str:
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
    joined = hashlib.sha256(" ".join(sorted(hashes)).encode()).hexdigest()
    return {
        "n": sum(entry.n for entry in entries),
        "seeds": " ".join(map(str, seeds)),
        "config_hash": " ".join(hashes) if len(entries) == 1 else joined,
        "commit": " ".join(dict.fromkeys(run.commit for run in runs)),
    }


def _gaps(rows: Iterable[Variant], tasks: Mapping[str, str]) -> Iterable[Gap]:
    """Results that should be there and are missing or failed, be it with some seeds. Variants of a
    row are extra."""
    for row in (row for row in rows if not row.difference):
        for label, entry in zip(tasks.values(), row.of(tasks), strict=True):
            for cell in entry.failed:
                reason = cell.error.partition("\n")[0] or "its seeds saw different items"
                yield "failed", row.key, label, f"seed {cell.seed}: {reason}"
            if entry.state == "missing":
                yield "missing", row.key, label, ""
            if row.absent(entry):
                yield "missing", row.key, label, f"seed {listed(row.absent(entry))}"


def gap_texts(table: Table) -> list[tuple[str, str]]:
    """State and text of a table's gaps: one per row, state and reason, with all of its tasks."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for state, row, label, reason in table.gaps:
        grouped.setdefault((state, row, reason), []).append(label)
    texts = []
    for (state, row, reason), labels in grouped.items():
        where = "every task" if len(labels) == len(table.tasks) else ", ".join(labels)
        texts.append((state, f"{in_line(row)}: {where}{f': {reason}' if reason else ''}"))
    return texts


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
    columns = tuple(table.tasks.get(place, AVERAGE) for place in table.shown)
    return Grid(title, columns, rows, **parts)


def score_grids(table: Table) -> dict[str, Grid]:
    """The grids of a table by name: `score` and, where there are any, `change`.

    `score` holds the scores with their intervals, and below them chance and the number of items;
    `change` holds paired changes from full precision. A line with `best` is marked.
    """
    lines = table.lines
    marked = lines[lines["best"]] if "best" in lines else lines[:0]
    places = (table.shown.index(place) for place in marked["place"])
    best = frozenset(zip(marked["line"], places, strict=True))
    title, everything = "score in %, ± half of the 95% interval", pd.Series(True, lines.index)
    found = {"score": pivot(table, title, _score, everything, footer=_footer(table), best=best)}
    if lines["change"].notna().any():
        title = (
            f"change from {REFERENCE} on the same items, in points; * excludes 0, taken by itself"
        )
        found["change"] = pivot(table, title, _change, lines["change"].notna())
    return found


def _score(line: Any) -> str:
    failed = line.state == "failed" and line.place != AVERAGE
    return "failed" if failed else points(line.score, line.low, line.high)


def _change(line: Any) -> str:
    return points(line.change, line.change_low, line.change_high, sign=True)


def _footer(table: Table) -> tuple[Line, ...]:
    chance = {task: 100 * table.chance[task] for task in table.tasks if task in table.chance}
    if len(chance) == len(table.tasks):
        chance[AVERAGE] = fmean(chance.values())
    counted = table.lines[table.lines["n"] > 0].groupby("place")["n"]
    least, most = counted.min(), counted.max()
    items = {
        place: str(most[place])
        if place == AVERAGE or least[place] == most[place]
        else f"{least[place]} to {most[place]}"
        for place in most.index
    }
    return (
        ("chance", tuple(f"{chance[x]:.1f}" if x in chance else "-" for x in table.shown)),
        ("items", tuple(items.get(place, "-") for place in table.shown)),
    )
