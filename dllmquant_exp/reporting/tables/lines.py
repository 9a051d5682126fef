"""From rows to the lines of a table, and from lines to its grids.

A table is a long frame: a line per row and column, with the score, its paired change from full
precision, and the runs behind them. A grid is a pivot of these lines, each as text.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.comparable import Variant
from dllmquant_exp.reporting.notes import listed, output_notes, source_notes
from dllmquant_exp.reporting.render import Grid, grid, in_line, points
from dllmquant_exp.reporting.samples import Sample, average, difference, flips, shared_seeds
from dllmquant_exp.reporting.statistics import SeededAverage
from dllmquant_exp.reporting.tables import REFERENCE
from dllmquant_exp.store.names import AVERAGE

SCORE, CHANGE = ("score", "low", "high"), ("change", "change_low", "change_high")
FLIPS = ("to_right", "to_wrong")
STATES = ("failed", "missing", "partial", "finished")  # the worst first
Gap = tuple[str, str, str, str]  # state, row, column, reason


def table_lines(
    rows: Sequence[Variant],
    tasks: Mapping[str, str],
    shown: Iterable[str],
    reference: Variant | None,
    chance: Mapping[str, float],
) -> pd.DataFrame:
    """A line per row and shown column: scores, limits and chance in percent, changes in points,
    items that went right or wrong in percent.

    `line` and `place` say where a line's text stands. `state` is partial where seeds are missing or
    failed, and the worst of the tasks' for an average.

    Args:
        tasks: heading by column, without the average.
        reference: changes are from this row, paired by item.
        chance: by column.
    """
    by_chance = {place: 100 * chance[place] for place in tasks if place in chance}
    if len(by_chance) == len(tasks):
        by_chance[AVERAGE] = fmean(by_chance.values())
    lines = [
        {
            "line": i,
            "place": place,
            "column": tasks.get(place, AVERAGE),
            "chance": by_chance.get(place),
            **_line(row, list(tasks) if place == AVERAGE else [place], reference),
        }
        for i, row in enumerate(rows)
        for place in shown
    ]
    return pd.DataFrame(lines).astype(dict.fromkeys((*SCORE, *CHANGE, *FLIPS, "chance"), float))


def _line(row: Variant, over: Sequence[str], reference: Variant | None) -> dict[str, Any]:
    samples = row.samples(over)
    score = average(samples) if len(over) > 1 else samples[0].score
    change, flipped = None, flips([], [])
    if reference is not None and not row.is_plain:
        change = difference(samples, reference.samples(over))
        flipped = flips(samples, reference.samples(over))
    states = {_state(row, sample) for sample in samples}
    return {
        "row": row.row,
        "name": row.name,
        "variant": row.difference,
        "state": next(state for state in STATES if state in states),
        **_behind(samples, score),
        **percent(SCORE, score),
        **percent(CHANGE, change),
        **{name: of if of is None else 100 * of for name, of in zip(FLIPS, flipped, strict=True)},
        "covers": score.covers if score else "",
    }


def _state(row: Variant, sample: Sample) -> str:
    partial = sample.seeds and (sample.failed or row.absent(sample))
    return "partial" if partial else sample.state


def percent(names: Sequence[str], found: SeededAverage | None) -> dict[str, float | None]:
    """A value and its limits by their names, in percent or points; None where there is none."""
    if found is None:
        return dict.fromkeys(names)
    estimate = found.estimate
    values = (estimate.value, estimate.low, estimate.high)
    return {name: 100 * value for name, value in zip(names, values, strict=True)}


def _behind(samples: Sequence[Sample], score: SeededAverage | None) -> dict[str, Any]:
    """`n` items, and `seeds`, `config_hash` and `commit` of the averaged runs, joined by spaces.

    An average over tasks has the seeds that every task has. Its hash is sha256 of its runs' sorted
    hashes, joined by spaces. Where there is no score, nothing stands behind it.
    """
    if score is None:
        return {"n": 0, "seeds": "", "config_hash": "", "commit": ""}
    seeds = shared_seeds(samples)
    runs = [run for sample in samples for run in sample.cells if run.seed in seeds]
    hashes = [run.config_hash for run in runs]
    joined = hashlib.sha256(" ".join(sorted(hashes)).encode()).hexdigest()
    return {
        "n": sum(len(sample.items) for sample in samples),
        "seeds": " ".join(map(str, seeds)),
        "config_hash": " ".join(hashes) if len(samples) == 1 else joined,
        "commit": " ".join(dict.fromkeys(run.commit for run in runs)),
    }


def line_notes(
    rows: Sequence[Variant], tasks: Mapping[str, str], reference: Variant | None, averaged: bool
) -> Iterator[str]:
    """Rows of other items than the reference, seeds that no average holds, outputs, and commits.

    Args:
        tasks: heading by column, without the average.
    """
    for row in rows if reference else ():
        pairs = zip(row.samples(tasks), reference.samples(tasks), strict=True)  # type: ignore[union-attr]
        if any(a.seeds and b.seeds and a.items != b.items for a, b in pairs):
            name = in_line(row.name)
            yield f"{name}: other items than {REFERENCE} in a task: no paired difference."
    for row in rows if averaged else ():
        samples = row.samples(tasks)
        used = shared_seeds(samples)
        left = sorted({seed for sample in samples for seed in sample.seeds} - set(used))
        if used and left:
            yield (
                f"{in_line(row.name)}: its average is of seed {listed(used)}; seed {listed(left)} "
                "is not there on every task."
            )
    for row in rows:
        shares = zip(tasks.values(), row.samples(tasks), strict=True)
        yield from output_notes(row.name, {task: of.diagnostics for task, of in shares})
    behind = {id(s): s for row in (*rows, reference) if row for s in row.samples(tasks)}
    yield from source_notes(cell.commit for sample in behind.values() for cell in sample.cells)


def gaps(
    rows: Iterable[Variant], tasks: Mapping[str, str], *, every_task: bool = True
) -> list[tuple[str, str]]:
    """State and text of results that should be there and are missing or failed, be it with some
    seeds: one per row, state and reason, with all of its tasks. Variants of a row are extra.

    every_task: whether every row should have every task.
    """
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for state, row, label, reason in _gaps(rows, tasks):
        grouped.setdefault((state, row, reason), []).append(label)
    texts = []
    for (state, row, reason), labels in grouped.items():
        if not (reason or every_task):
            continue
        where = "every task" if len(labels) == len(tasks) else ", ".join(labels)
        texts.append((state, f"{in_line(row)}: {where}{f': {reason}' if reason else ''}"))
    return texts


def _gaps(rows: Iterable[Variant], tasks: Mapping[str, str]) -> Iterator[Gap]:
    for row in (row for row in rows if not row.difference):
        name = row.row or row.name
        for label, sample in zip(tasks.values(), row.samples(tasks), strict=True):
            for seed, reason in sample.failures:
                yield "failed", name, label, f"seed {seed}: {reason}"
            if sample.state == "missing":
                yield "missing", name, label, ""
            if absent := row.absent(sample):
                yield "missing", name, label, f"seed {listed(absent)}"


def pivot(
    lines: pd.DataFrame, title: str, text: Callable[[Any], str], chosen: Any = slice(None)
) -> Grid:
    """The texts of some lines as a grid.

    Args:
        text: of a line, whose columns are its attributes.
        chosen: whether a line is wanted; a row with such a line is there with all of its columns.
    """
    kept = lines[lines["line"].isin(lines.loc[chosen, "line"])]
    columns = lines.drop_duplicates("place")["column"]
    texts = [text(line) for line in kept.itertuples()]
    rows = (
        (name, texts[i * len(columns) : (i + 1) * len(columns)])
        for i, name in enumerate(kept["name"].iloc[:: len(columns)])
    )
    return grid(title, columns, rows)


def score_grids(lines: pd.DataFrame) -> dict[str, Grid]:
    """The grids of a table by name: `score` and, where there are any, `change`.

    `score` holds the scores with their intervals, and below them chance and the number of items;
    `change` holds paired changes from full precision. A line with `best` is marked.
    """
    scores = pivot(lines, "score in %, ± half of the 95% interval", _score)
    below = pd.DataFrame({"chance": _chance(lines), "items": _items(lines)}, dtype=object).T
    texts = pd.concat([scores.texts, below.set_axis(scores.texts.columns, axis=1)])
    marked = lines[lines["best"]] if "best" in lines else lines[:0]
    places = list(lines["place"].unique())
    best = frozenset(
        (line, places.index(place)) for line, place in marked[["line", "place"]].values
    )
    found = {"score": Grid(scores.title, texts, footer=len(below), best=best)}
    if lines["change"].notna().any():
        title = (
            f"change from {REFERENCE} on the same items, in points; * excludes 0, taken by itself"
        )
        found["change"] = pivot(lines, title, _change, lines["change"].notna())
    return found


def _score(line: Any) -> str:
    failed = line.state == "failed" and line.place != AVERAGE
    return "failed" if failed else points(line.score, line.low, line.high)


def _change(line: Any) -> str:
    return points(line.change, line.change_low, line.change_high, sign=True)


def _chance(lines: pd.DataFrame) -> list[str]:
    chance = lines.drop_duplicates("place")["chance"]
    return ["-" if pd.isna(value) else f"{value:.1f}" for value in chance]


def _items(lines: pd.DataFrame) -> list[str]:
    counted = lines[lines["n"] > 0].groupby("place")["n"].agg(["min", "max"])
    texts = []
    for place in lines["place"].unique():
        least, most = counted.loc[place] if place in counted.index else (0, 0)
        several = place != AVERAGE and least < most
        texts.append(f"{least} to {most}" if several else str(most or "-"))
    return texts
