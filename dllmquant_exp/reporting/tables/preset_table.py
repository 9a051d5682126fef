"""A table that a preset of conf/table describes: its rows and columns, our numbers, the paper's.

The paper's numbers are shown only where the model has the name of one of its models. Ours are
subtracted from them only where it is that model's checkpoint, decoded as published. A table says
which cells are missing and why; nothing stands in for them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dllmquant_exp.reporting.comparable import ModelResults, Variant
from dllmquant_exp.reporting.paper import (
    PaperCell,
    paper_cells,
    paper_checkpoint,
    paper_model,
    paper_rows,
)
from dllmquant_exp.reporting.render import Document, Grid, Section, signed
from dllmquant_exp.reporting.samples import average, p_value
from dllmquant_exp.reporting.statistics import ALPHA, holm
from dllmquant_exp.reporting.tables import REFERENCE
from dllmquant_exp.reporting.tables.lines import (
    CHANGE,
    FLIPS,
    SCORE,
    gaps,
    line_notes,
    pivot,
    score_grids,
    table_lines,
)
from dllmquant_exp.reporting.tables.presets import Presets, TablePreset
from dllmquant_exp.store.names import AVERAGE

COLUMNS = [  # of a section's lines
    "table", "model", "embedded", "row", "name", "variant", "task", "column", "state", "n", "seeds",
    *SCORE, *CHANGE, *FLIPS, "covers", "best", "best_p", "paper", "paper_difference", "config_hash",
    "commit",
]  # fmt: skip


def preset_document(
    preset: TablePreset, results: Sequence[ModelResults], presets: Presets
) -> Document:
    """The table with a section per model that should be there or was run for this table."""
    by_name = {found.model: found for found in results}
    present = {found.model: found.embedded for found in results}
    expected = presets.expected(preset.models, present)
    models = {name: by_name.get(name) or ModelResults(name, expected[name]) for name in expected}
    own = presets.own_rows(preset)
    models |= {found.model: found for found in results if own & found.rows.keys()}
    sections = tuple(_section(preset, found, presets.labels) for found in models.values())
    return Document(preset.name, preset.title, preset.caption, sections, columns=COLUMNS)


def _section(preset: TablePreset, results: ModelResults, labels: Mapping[str, str]) -> Section:
    tasks = {label: label for label in preset.tasks}
    rows = _rows(preset, results, labels)
    reference = results.variant(REFERENCE)
    lines = table_lines(rows, tasks, preset.columns, reference, results.chance)
    lines = _with_best(rows, tasks, lines)
    lines = _with_paper(preset, results, lines).assign(
        table=preset.paper or preset.name,
        model=results.model,
        embedded=results.embedded,
        task=[results.tasks.get(place, "") for place in lines["place"]],
    )
    notes = [
        *results.notes,
        *line_notes(rows, tasks, reference, AVERAGE in preset.columns),
        *_paper_notes(preset, results, lines),
        *_remarks(results, rows, tasks, lines),
    ]
    found = gaps(rows, tasks)
    faults = [f"{state}: {results.model}, {text}" for state, text in found]
    if not any(row.by_column for row in rows):
        faults = [f"missing: {results.model}: every cell of {preset.title}"]
    elif found:
        notes.append(f"incomplete: {'; '.join(f'{state}: {text}' for state, text in found)}.")
    return Section(
        results.title, _grids(lines, results.paper_name), tuple(notes), _long(lines), tuple(faults)
    )


def _rows(preset: TablePreset, results: ModelResults, labels: Mapping[str, str]) -> list[Variant]:
    """A row per variant, under the paper's name or its own label. Rows as they are usually run
    should have each other's seeds if they calibrate; controls are extra."""
    variants = [
        variant
        for name in preset.rows
        for variant in (results.variant(name), *results.rows.get(name, ())[1:])
    ]
    calibrated = [
        [sample for sample in variant.samples(preset.tasks) if sample.calibrated]
        for variant in variants
    ]
    pairs = list(zip(variants, calibrated, strict=True))
    usual = [sample for variant, own in pairs if not variant.difference for sample in own]
    seeds = frozenset(seed for sample in usual for seed in sample.seeds)
    names = _paper_names(preset)

    def name(of: Variant) -> str:
        own = names.get(of.row) or of.name or labels.get(of.row, of.row)
        return "\n".join(filter(None, (own, of.difference)))

    return [
        replace(of, name=name(of), seeds=seeds if own and not of.difference else frozenset())
        for of, own in pairs
    ]


def _paper_names(preset: TablePreset) -> dict[str, str]:
    """Our rows by the paper's names."""
    if preset.paper is None:
        return {}
    names = {cell.row: cell.name for cell in paper_cells(preset.paper)}
    return {ours: names[theirs] for ours, theirs in paper_rows(preset.paper).items()}


def _with_best(rows: Sequence[Variant], tasks: Iterable[str], lines: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `best` and `best_p`.

    `best` marks the best quantized row of a column where a paired test against the runner-up
    supports it, with `best_p` after Holm's correction over the columns in which every row is there.
    """
    quantized = {i: row for i, row in enumerate(rows) if not row.is_plain}
    found: dict[tuple[int, str], float] = {}
    for place in lines["place"].unique():
        over = list(tasks) if place == AVERAGE else [place]
        samples = {i: row.samples(over) for i, row in quantized.items()}
        if len(samples) < 2 or not all(sample.seeds for own in samples.values() for sample in own):
            continue
        means = {i: sum(sample.scores.mean() for sample in own) for i, own in samples.items()}
        first, second = sorted(quantized, key=lambda i: means[i], reverse=True)[:2]
        found[first, place] = p_value(samples[first], samples[second])
    adjusted = dict(zip(found, holm(list(found.values())), strict=True))
    keys = zip(lines["line"], lines["place"], strict=True)
    p = pd.Series([adjusted.get(key, np.nan) for key in keys], lines.index, float)
    return lines.assign(best=p < ALPHA, best_p=p.where(p < ALPHA))


def _with_paper(preset: TablePreset, results: ModelResults, lines: pd.DataFrame) -> pd.DataFrame:
    """Add the paper's number as text (`printed`) and value (`paper`), and `paper_difference`.

    The difference is ours less the paper's in points, where the two may be subtracted.
    """
    printed = _printed(preset.paper, results)
    places = zip(lines["row"], lines["variant"], lines["place"], strict=True)
    cells = [printed.get(place) for place in places]
    values = pd.Series([float(cell.value) if cell else np.nan for cell in cells], lines.index)
    differ = values.notna().any() and _unlike(preset, results)
    return lines.assign(
        printed=[cell.printed if cell else "" for cell in cells],
        paper=values,
        paper_difference=np.nan if differ else lines["score"] - values,
    )


def _printed(number: int | None, results: ModelResults) -> dict[tuple[str, str, str], PaperCell]:
    """The paper's numbers by row, variant and column; none for other models, other bits or a
    control."""
    if number is None or results.embedded or not results.is_w4a4:
        return {}
    return {
        (row, "", cell.column): cell
        for row, theirs in paper_rows(number).items()
        for cell in paper_cells(number)
        if (cell.model, cell.row) == (results.paper_name, theirs)
    }


def _unlike(preset: TablePreset, results: ModelResults) -> str:
    """Reason why a model with a name of the paper's was not run as there; empty if it was.

    A local checkpoint counts as the published one where the user states that it is a copy of it.
    """
    cell = next(iter(results.cells), None)
    if cell is None:
        return ""
    published = paper_checkpoint(results.paper_name)
    checkpoint = results.same_as or cell.config["model"]["checkpoint"]
    advice = f"for a copy of it, state model.same_as={published}"
    reasons = {
        f"its checkpoint is {checkpoint}, not {published} ({advice})": checkpoint != published,
        f"decoding={cell.decoding}": cell.decoding != "published",
        preset.unlike: bool(preset.unlike),
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


def _paper_notes(preset: TablePreset, results: ModelResults, lines: pd.DataFrame) -> Iterator[str]:
    """Notes on differences from the paper, or why there are none."""
    if lines["paper"].isna().all():
        return
    limit = results.cells[0].config.get("limit") if results.cells else None
    if unlike := _unlike(preset, results):
        yield f"not subtracted from the paper's numbers, which are of another run: {unlike}."
    elif limit is not None:
        yield f"differences from the paper compare limit={limit} with its whole splits."


def _remarks(
    results: ModelResults, rows: Sequence[Variant], tasks: Iterable[str], lines: pd.DataFrame
) -> Iterator[str]:
    """Notes on what was not run, calibration sets, the population of the intervals, and marks."""
    if not results.rows:
        yield "no results of this model in this sweep."
    elif not results.variant(REFERENCE).by_column:
        yield "full precision was not run in this sweep: no changes from it."
    there = [row for row in rows if row.by_column]
    samplers = ((row.settings.get("calibration.name"), row.collected) for row in there)
    sizes = {f"{name} ({collected})" for name, collected in samplers if name is not None}
    if sizes:
        yield f"calibrated on: {'; '.join(sorted(sizes))}."
    averages = {found.covers for row in rows if (found := average(row.samples(tasks)))}
    covers = averages or {of.score.covers for row in rows for of in row.samples(tasks) if of.score}
    if covers:
        yield f"95% intervals cover {' or '.join(sorted(covers))}."
    test = (
        "a paired test against the runner-up has p < 0.05 after Holm's correction over the columns."
    )
    if lines["best"].any():
        yield f"best quantized row of a column marked where {test}"
    elif sum(row.row != REFERENCE for row in there) > 1:
        yield f"no quantized row is marked as the best of a column: in no complete one {test}"


def _grids(lines: pd.DataFrame, model: str) -> dict[str, Grid]:
    """The grids score, change (from full precision), and paper, difference (from the paper).

    The last two are there for the paper's models alone, the last where they were run as such.
    """
    found = score_grids(lines)
    printed = lines["printed"] != ""
    if printed.any():
        title = f"what the paper prints for {paper_model(model)}, in %"
        found["paper"] = pivot(lines, title, lambda line: line.printed, printed)
    if lines["paper_difference"].notna().any():
        title = "ours - the paper's, in points"
        found["difference"] = pivot(
            lines, title, lambda line: signed(line.paper_difference), printed
        )
    return found


def _long(lines: pd.DataFrame) -> pd.DataFrame:
    """One line per row and column, with everything that stands behind the number.

    Scores and their limits are in percent, changes and differences in points. See `lines.py` for
    `n`, `seeds`, `config_hash`, `commit` and `state`. `task` is empty where nothing was run on a
    column.
    """
    return lines.assign(
        name=lines["name"].str.partition("\n")[0],
        task=lines["task"].where(lines["place"] != AVERAGE, "average"),
    )[COLUMNS]
