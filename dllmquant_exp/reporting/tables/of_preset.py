"""A table that a preset of conf/table describes: its rows and columns, our numbers, the paper's.

The paper's numbers are shown only where the model has the name of one of its models. Ours are
subtracted from them only where it is that model's checkpoint, decoded as published. A table says
which cells are missing and why; nothing stands in for them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dllmquant_exp.reporting.comparable import ModelResults, Variant
from dllmquant_exp.reporting.frame import Cell
from dllmquant_exp.reporting.notes import in_line, left_out_seeds, source_notes
from dllmquant_exp.reporting.paper import (
    PaperCell,
    paper_cell,
    paper_cells,
    paper_checkpoint,
    paper_model,
    paper_rows,
)
from dllmquant_exp.reporting.render import AVERAGE, Document, Grid, Section, signed
from dllmquant_exp.reporting.samples import average, p_value
from dllmquant_exp.reporting.statistics import ALPHA, holm
from dllmquant_exp.reporting.tables import REFERENCE
from dllmquant_exp.reporting.tables.lines import (
    CHANGE,
    SCORE,
    Row,
    Table,
    change_grids,
    gap_texts,
    gaps,
    lines,
    pivot,
    score_grid,
    unpaired_notes,
)
from dllmquant_exp.reporting.tables.presets import Presets, TablePreset

COLUMNS = (  # of `long_frame`
    "table", "model", "embedded", "row", "name", "variant", "task", "column", "state", "n", "seeds",
    *SCORE, *CHANGE, "covers", "best", "best_p", "paper", "paper_difference", "config_hash",
    "commit",
)  # fmt: skip


@dataclass(frozen=True)
class PresetTable:
    """A preset's table: a part per model, whose lines have the columns of COLUMNS as well."""

    preset: TablePreset
    results: tuple[ModelResults, ...]
    parts: tuple[Table, ...]


def preset_table(
    preset: TablePreset, results: Sequence[ModelResults], presets: Presets
) -> PresetTable:
    """One table, with the models that should be there and those that were run for it."""
    by_name = {found.model: found for found in results}
    present = {found.model: found.embedded for found in results}
    expected = presets.expected(preset.models, present)
    models = {name: by_name.get(name) or ModelResults(name, expected[name]) for name in expected}
    own = presets.own_rows(preset)
    models |= {found.model: found for found in results if own & found.rows.keys()}
    parts = tuple(_part(preset, found, presets.labels) for found in models.values())
    return PresetTable(preset, tuple(models.values()), parts)


def _part(preset: TablePreset, results: ModelResults, labels: Mapping[str, str]) -> Table:
    shown, tasks = preset.report.columns, {label: label for label in preset.report.tasks}
    variants = [
        variant
        for name in preset.rows
        for variant in (results.variant(name), *results.rows.get(name, ())[1:])
    ]
    rows = _rows(preset, results, variants, labels)
    plain = results.variant(REFERENCE)
    reference = Row(REFERENCE, REFERENCE, plain.entries, plain=True)
    every = list({id(variant): variant for variant in (*variants, plain)}.values())
    made = _add_best(rows, tasks, lines(rows, tasks, shown, reference))
    made = _add_paper(preset, results, variants, made)
    notes = [*results.notes, *unpaired_notes(rows, tasks, reference)]
    if AVERAGE in shown:
        notes += [note for row in rows for note in left_out_seeds(row.name, row.of(tasks))]
    notes += source_notes(_cells(every, tasks))
    notes += _paper_notes(preset, results, made)
    notes += _remarks(results, variants, rows, tasks, made)
    return Table(
        title=results.title,
        tasks=tasks,
        shown=shown,
        rows=rows,
        lines=made.assign(
            model=results.model,
            embedded=results.embedded,
            task=[results.tasks.get(place, "") for place in made["place"]],
        ),
        chance=results.chance,
        notes=tuple(notes),
        gaps=tuple(gaps([row for row in rows if not row.more["variant"]], tasks)),
    )


def _rows(
    preset: TablePreset,
    results: ModelResults,
    variants: Sequence[Variant],
    labels: Mapping[str, str],
) -> tuple[Row, ...]:
    """A row per variant, under the paper's name or its own label. Rows as they are usually run
    should have each other's seeds if they calibrate; controls are extra."""
    names = _paper_names(preset)
    usual = [variant for variant in variants if not variant.difference]
    seeds = {
        seed
        for variant in usual
        for label in preset.report.tasks
        if (sample := variant.entry(label).sample) and sample.calibrated
        for seed in sample.seeds
    }
    rows = []
    for variant in variants:
        name = names.get(variant.row) or variant.label or labels.get(variant.row, variant.row)
        calibrated = any(e.sample and e.sample.calibrated for e in variant.entries.values())
        rows.append(
            Row(
                name="\n".join(filter(None, (name, variant.difference))),
                key=variant.row,
                entries=variant.entries,
                seeds=frozenset(seeds if calibrated and not variant.difference else ()),
                plain=variant.row == REFERENCE,
                more={"row": variant.row, "variant": variant.difference},
            )
        )
    return tuple(rows)


def _paper_names(preset: TablePreset) -> dict[str, str]:
    """Our rows by the paper's names."""
    if preset.report.paper is None:
        return {}
    names = {cell.row: cell.name for cell in paper_cells(preset.report.paper)}
    return {ours: names[theirs] for ours, theirs in paper_rows(preset.report.paper).items()}


def _cells(variants: Iterable[Variant], labels: Iterable[str]) -> list[Cell]:
    """Every result behind these columns."""
    columns = list(labels)
    return [cell for of in variants for label in columns for cell in of.entry(label).cells]


def _add_best(rows: Sequence[Row], tasks: Iterable[str], made: pd.DataFrame) -> pd.DataFrame:
    """With `best`, the best quantized row of a column where a paired test against the runner-up
    supports it, and `best_p` after Holm's correction over the columns in which every row is there.
    """
    quantized = {i: row for i, row in enumerate(rows) if not row.plain}
    found: dict[tuple[int, str], float] = {}
    for place in dict.fromkeys(made["place"]):
        over = list(tasks) if place == AVERAGE else [place]
        samples = {i: [of.sample for of in row.of(over)] for i, row in quantized.items()}
        if len(samples) < 2 or any(sample is None for own in samples.values() for sample in own):
            continue
        means = {i: sum(s.scores.mean() for s in own if s) for i, own in samples.items()}
        first, second = sorted(quantized, key=lambda i: means[i], reverse=True)[:2]
        found[first, place] = p_value(samples[first], samples[second])
    adjusted = dict(zip(found, holm(list(found.values())), strict=True))
    best = {key: p for key, p in adjusted.items() if p < ALPHA}
    keys = list(zip(made["line"], made["place"], strict=True))
    return made.assign(
        best=[key in best for key in keys], best_p=[best.get(key, np.nan) for key in keys]
    )


def _add_paper(
    preset: TablePreset, results: ModelResults, variants: Sequence[Variant], made: pd.DataFrame
) -> pd.DataFrame:
    """With `printed`, the paper's number as text, its value `paper`, and `paper_difference` in
    points, where ours may be subtracted from it."""
    printed = [_printed(preset.report.paper, results, variant) for variant in variants]
    cells = [
        printed[line].get(place) for line, place in zip(made["line"], made["place"], strict=True)
    ]
    values = pd.Series([float(cell.value) if cell else np.nan for cell in cells], made.index)
    differ = values.notna().any() and _unlike(preset, results)
    return made.assign(
        printed=[cell.printed if cell else "" for cell in cells],
        paper=values,
        paper_difference=np.nan if differ else made["score"].astype(float) - values,
    )


def _printed(number: int | None, results: ModelResults, variant: Variant) -> dict[str, PaperCell]:
    """The paper's own numbers of a row; none for other models, other bits or a control."""
    if number is None or results.embedded or not results.is_w4a4 or variant.difference:
        return {}
    row = paper_rows(number).get(variant.row, "")
    columns = dict.fromkeys(cell.column for cell in paper_cells(number))
    cells = {column: paper_cell(number, results.model, row, column) for column in columns}
    return {column: cell for column, cell in cells.items() if cell is not None}


def _unlike(preset: TablePreset, results: ModelResults) -> str:
    """Why a model with the name of one of the paper's was not run as there; empty if it was.

    A local checkpoint may be the published one, but nothing in a result says so.
    """
    cell = next(iter(results.cells), None)
    if cell is None:
        return ""
    checkpoint, published = cell.config["model"]["checkpoint"], paper_checkpoint(results.model)
    reasons = {
        f"its checkpoint is {checkpoint}, not {published}": checkpoint != published,
        f"decoding={cell.decoding}": cell.decoding != "published",
        preset.report.unlike: bool(preset.report.unlike),
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


def _paper_notes(preset: TablePreset, results: ModelResults, made: pd.DataFrame) -> list[str]:
    """Notes on differences from the paper, or why there are none."""
    if made["paper"].isna().all():
        return []
    unlike = _unlike(preset, results)
    if unlike:
        return [f"not subtracted from the paper's numbers, which are of another run: {unlike}."]
    limit = results.cells[0].config.get("limit") if results.cells else None
    if limit is None:
        return []
    return [f"differences from the paper compare limit={limit} with its whole splits."]


def _remarks(
    results: ModelResults,
    variants: Sequence[Variant],
    rows: Sequence[Row],
    tasks: Iterable[str],
    made: pd.DataFrame,
) -> list[str]:
    notes = []
    if not results.rows:
        notes.append("no results of this model in this sweep.")
    elif not results.variant(REFERENCE).entries:
        notes.append("full precision was not run in this sweep: no changes from it.")
    sizes = {
        f"{name} ({variant.collected})"
        for variant in variants
        if variant.entries and (name := variant.settings.get("calibration.name")) is not None
    }
    if sizes:
        notes.append(f"calibrated on: {'; '.join(sorted(sizes))}.")
    averages = {found.covers for row in rows if (found := average(row.samples(tasks)))}
    covers = averages or {of.score.covers for row in rows for of in row.of(tasks) if of.score}
    if covers:
        notes.append(f"95% intervals cover {' or '.join(sorted(covers))}.")
    test = (
        "a paired test against the runner-up has p < 0.05 after Holm's correction over the columns."
    )
    if made["best"].any():
        notes.append(f"best quantized row of a column marked where {test}")
    elif sum(variant.row != REFERENCE and bool(variant.entries) for variant in variants) > 1:
        notes.append(
            f"no quantized row is marked as the best of a column: in no complete one {test}"
        )
    return notes


def grids(part: Table) -> dict[str, Grid]:
    """A part's grids: score, change (from full precision), and paper, difference (from the paper).

    The last two are there for the paper's models alone, the last where they were run as such.
    """
    found = {"score": score_grid(part)}
    found |= dict(zip(["change"], change_grids(part), strict=False))
    printed = part.lines["printed"] != ""
    if printed.any():
        name = paper_model(part.lines["model"].iloc[0])
        title = f"what the paper prints for {name}, in %"
        found["paper"] = pivot(part, title, lambda line: line.printed, printed)
    if part.lines["paper_difference"].notna().any():
        title = "ours - the paper's, in points"
        found["difference"] = pivot(part, title, _difference, printed)
    return found


def _difference(line: Any) -> str:
    return "-" if pd.isna(line.paper_difference) else signed(line.paper_difference)


def long_frame(tables: Iterable[PresetTable]) -> pd.DataFrame:
    """One line per table, model, row and column, with everything that stands behind the number.

    Scores and their limits are in percent, changes and differences in points. See `lines` for `n`,
    `seeds`, `config_hash`, `commit` and `state`. `task` is empty where nothing was run on a column.
    """
    frames = [
        part.lines.assign(
            table=table.preset.report.paper or table.preset.name,
            name=[name.partition("\n")[0] for name in part.lines["name"]],
            task=part.lines["task"].where(part.lines["place"] != AVERAGE, "average"),
        )
        for table in tables
        for part in table.parts
    ]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
    return frame[list(COLUMNS)]


def gap_lines(tables: Iterable[PresetTable]) -> list[str]:
    """Missing and failed results, a line per row, or one for a model without any result."""
    found: list[str] = []
    for table in tables:
        for results, part in zip(table.results, table.parts, strict=True):
            if _is_empty(part):
                found.append(f"missing: {results.model}: every cell of {table.preset.title}")
            else:
                found += [f"{state}: {results.model}, {text}" for state, text in gap_texts(part)]
    return list(dict.fromkeys(found))


def _is_empty(part: Table) -> bool:
    return not any(row.entries for row in part.rows)


def document(table: PresetTable) -> Document:
    """The content of the files of `report table=...`. Its frame has the printed texts by (model,
    part, row): percent in `score` and `paper`, points in `change` and `difference`."""
    sections, texts = [], []
    for part in table.parts:
        parts = grids(part)
        missing = "; ".join(f"{state}: {text}" for state, text in gap_texts(part))
        incomplete = [f"incomplete: {missing}."] if missing and not _is_empty(part) else []
        sections.append(Section(part.title, tuple(parts.values()), (*part.notes, *incomplete)))
        texts += [
            (part.title, name, in_line(row), *line)
            for name, grid in parts.items()
            for row, line in (*grid.lines, *grid.footer)
        ]
    shown = table.preset.report.columns if table.parts else ()
    frame = pd.DataFrame(texts, columns=["model", "part", "row", *shown])
    return Document(
        table.preset.name,
        table.preset.title,
        table.preset.report.caption,
        tuple(sections),
        frame.set_index(["model", "part", "row"]),
    )
