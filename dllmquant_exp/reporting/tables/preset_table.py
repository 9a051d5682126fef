"""A table that a preset of conf/table describes: its rows and columns, our numbers, the paper's.

The paper's numbers are shown only where the model has the name of one of its models. Ours are
subtracted from them only where it is that model's checkpoint, decoded as published. A table says
which cells are missing and why; nothing stands in for them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dllmquant_exp.reporting.comparable import ModelResults, Variant
from dllmquant_exp.reporting.notes import in_line
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
    Table,
    gap_texts,
    pivot,
    score_grids,
    table,
)
from dllmquant_exp.reporting.tables.presets import Presets, TablePreset

COLUMNS = (  # of `long_frame`
    "table", "model", "embedded", "row", "name", "variant", "task", "column", "state", "n", "seeds",
    *SCORE, *CHANGE, "covers", "best", "best_p", "paper", "paper_difference", "config_hash",
    "commit",
)  # fmt: skip


def preset_tables(
    preset: TablePreset, results: Sequence[ModelResults], presets: Presets
) -> list[Table]:
    """A part per model that should be there or was run for this table."""
    by_name = {found.model: found for found in results}
    present = {found.model: found.embedded for found in results}
    expected = presets.expected(preset.models, present)
    models = {name: by_name.get(name) or ModelResults(name, expected[name]) for name in expected}
    own = presets.own_rows(preset)
    models |= {found.model: found for found in results if own & found.rows.keys()}
    return [_part(preset, found, presets.labels) for found in models.values()]


def _part(preset: TablePreset, results: ModelResults, labels: Mapping[str, str]) -> Table:
    tasks = {label: label for label in preset.tasks}
    rows = _rows(preset, results, labels)
    reference = results.variant(REFERENCE)
    made = table(
        results.title, rows, tasks, preset.columns, reference, results.chance, results.notes
    )
    lines = _add_best(rows, tasks, made.lines)
    lines = _add_paper(preset, results, rows, lines).assign(
        table=preset.paper or preset.name,
        model=results.model,
        embedded=results.embedded,
        task=[results.tasks.get(place, "") for place in lines["place"]],
    )
    notes = [*made.notes, *_paper_notes(preset, results, lines)]
    notes += _remarks(results, rows, tasks, lines)
    return replace(made, lines=lines, notes=tuple(notes))


def _rows(preset: TablePreset, results: ModelResults, labels: Mapping[str, str]) -> list[Variant]:
    """A row per variant, under the paper's name or its own label. Rows as they are usually run
    should have each other's seeds if they calibrate; controls are extra."""
    names = _paper_names(preset)
    variants = [
        variant
        for name in preset.rows
        for variant in (results.variant(name), *results.rows.get(name, ())[1:])
    ]
    calibrated = [
        [sample for sample in variant.samples(preset.tasks) if sample and sample.calibrated]
        for variant in variants
    ]
    seeds = {
        seed
        for variant, samples in zip(variants, calibrated, strict=True)
        if not variant.difference
        for sample in samples
        for seed in sample.seeds
    }
    return [
        replace(
            variant,
            name="\n".join(
                filter(
                    None,
                    (
                        names.get(variant.row)
                        or variant.name
                        or labels.get(variant.row, variant.row),
                        variant.difference,
                    ),
                )
            ),
            seeds=frozenset(seeds if samples and not variant.difference else ()),
        )
        for variant, samples in zip(variants, calibrated, strict=True)
    ]


def _paper_names(preset: TablePreset) -> dict[str, str]:
    """Our rows by the paper's names."""
    if preset.paper is None:
        return {}
    names = {cell.row: cell.name for cell in paper_cells(preset.paper)}
    return {ours: names[theirs] for ours, theirs in paper_rows(preset.paper).items()}


def _add_best(rows: Sequence[Variant], tasks: Iterable[str], made: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `best` and `best_p`.

    `best` marks the best quantized row of a column where a paired test against the runner-up
    supports it, with `best_p` after Holm's correction over the columns in which every row is there.
    """
    quantized = {i: row for i, row in enumerate(rows) if not row.is_plain}
    found: dict[tuple[int, str], float] = {}
    for place in dict.fromkeys(made["place"]):
        over = list(tasks) if place == AVERAGE else [place]
        samples = {i: row.samples(over) for i, row in quantized.items()}
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
    """Add the paper's number as text (`printed`) and value (`paper`), and `paper_difference`.

    The difference is ours less the paper's in points, where the two may be subtracted.
    """
    printed = [_printed(preset.paper, results, variant) for variant in variants]
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
    """Reason why a model with a name of the paper's was not run as there; empty if it was.

    A local checkpoint may be the published one, but nothing in a result says so.
    """
    cell = next(iter(results.cells), None)
    if cell is None:
        return ""
    checkpoint, published = cell.config["model"]["checkpoint"], paper_checkpoint(results.model)
    reasons = {
        f"its checkpoint is {checkpoint}, not {published}": checkpoint != published,
        f"decoding={cell.decoding}": cell.decoding != "published",
        preset.unlike: bool(preset.unlike),
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
    results: ModelResults, rows: Sequence[Variant], tasks: Iterable[str], made: pd.DataFrame
) -> list[str]:
    notes = []
    if not results.rows:
        notes.append("no results of this model in this sweep.")
    elif not results.variant(REFERENCE).entries:
        notes.append("full precision was not run in this sweep: no changes from it.")
    sizes = {
        f"{name} ({variant.collected})"
        for variant in rows
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
    elif sum(variant.row != REFERENCE and bool(variant.entries) for variant in rows) > 1:
        notes.append(
            f"no quantized row is marked as the best of a column: in no complete one {test}"
        )
    return notes


def grids(part: Table) -> dict[str, Grid]:
    """A part's grids: score, change (from full precision), and paper, difference (from the paper).

    The last two are there for the paper's models alone, the last where they were run as such.
    """
    found = score_grids(part)
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


def long_frame(parts: Sequence[Table]) -> pd.DataFrame:
    """One line per table, model, row and column, with everything that stands behind the number.

    Scores and their limits are in percent, changes and differences in points. See `lines.table` for
    `n`, `seeds`, `config_hash`, `commit` and `state`. `task` is empty where nothing was run on a
    column.
    """
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    frame = pd.concat([part.lines for part in parts], ignore_index=True)
    return frame.assign(
        name=frame["name"].str.partition("\n")[0],
        task=frame["task"].where(frame["place"] != AVERAGE, "average"),
    )[list(COLUMNS)]


def gap_lines(preset: TablePreset, parts: Iterable[Table]) -> list[str]:
    """Missing and failed results, a line per row, or one for a model without any result."""
    found: list[str] = []
    for part in parts:
        model = part.lines["model"].iloc[0]
        if _is_empty(part):
            found.append(f"missing: {model}: every cell of {preset.title}")
        else:
            found += [f"{state}: {model}, {text}" for state, text in gap_texts(part)]
    return found


def _is_empty(part: Table) -> bool:
    return not any(row.entries for row in part.rows)


def document(preset: TablePreset, tables: Sequence[Table]) -> Document:
    """The content of the files of `report table=...`. Its frame has the printed texts by (model,
    part, row): percent in `score` and `paper`, points in `change` and `difference`."""
    sections, texts = [], []
    for part in tables:
        parts = grids(part)
        missing = "; ".join(f"{state}: {text}" for state, text in gap_texts(part))
        incomplete = [f"incomplete: {missing}."] if missing and not _is_empty(part) else []
        sections.append(Section(part.title, tuple(parts.values()), (*part.notes, *incomplete)))
        texts += [
            (part.title, name, in_line(row), *line)
            for name, grid in parts.items()
            for row, line in (*grid.lines, *grid.footer)
        ]
    shown = preset.columns if tables else ()
    frame = pd.DataFrame(texts, columns=["model", "part", "row", *shown])
    return Document(
        preset.name,
        preset.title,
        preset.caption,
        tuple(sections),
        frame.set_index(["model", "part", "row"]),
    )
