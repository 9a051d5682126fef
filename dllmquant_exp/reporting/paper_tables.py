"""The paper's Tables 1, 2, 3, 5 and 6 from result files: its rows and columns, our numbers.

The paper's numbers are shown only where the model has the name of one of its models, and ours are
subtracted from them only where it is that model's checkpoint, decoded as published. A table says
what is missing and why; nothing stands in for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dllmquant_exp.reporting.beside_paper import (
    notes_beside_the_paper,
    printed_cells,
    unlike_the_paper,
)
from dllmquant_exp.reporting.cells import CellResult
from dllmquant_exp.reporting.comparisons import SeededAverage, holm
from dllmquant_exp.reporting.entries import Entry, p_value
from dllmquant_exp.reporting.grids import AVERAGE
from dllmquant_exp.reporting.paper import PaperCell, paper_cells, paper_rows
from dllmquant_exp.reporting.presets import expected_models
from dllmquant_exp.reporting.remarks import seed_note, source_notes
from dllmquant_exp.reporting.selection import ModelResults, Variant, collected
from dllmquant_exp.reporting.statistics import ALPHA
from dllmquant_exp.reporting.tables import (
    PAPER_COLUMNS,
    REFERENCE,
    Row,
    Table,
    make_row,
)

TABLES = {f"table{number}": number for number in (1, 2, 3, 5, 6)}
_QUAROT = "What the paper calls GPTQ here is its QuaRot: rotation, then GPTQ."
CAPTIONS = {
    1: "RTN, AWQ and QuaRot, and with the paper's components added: DLLMQuant+ is AWQ + TMAS + CGQ "
    "+ IA-AQ, DLLMQuant++ is QuaRot + TMAS + CGQ + IA-AQ.",
    2: f"TMAS, CGQ and IA-AQ added one after the other: averages over the nine tasks. {_QUAROT}",
    3: "The two parts of CGQ. Every row, GPTQ too, is calibrated on TMAS's masked states: on plain "
    f"text nothing is masked, and CGQ w. mask would be plain GPTQ. {_QUAROT}",
    5: f"TMAS, CGQ and IA-AQ added one after the other, task by task. {_QUAROT}",
    6: "What RTN's activation ranges are calibrated on. In this table alone they are static, one "
    "per tensor: ranges that are measured on each call, as in every other table, cannot depend on "
    "a calibration set.",
}


@dataclass(frozen=True)
class Gap:
    """A cell that should be there and is not, or not with every seed."""

    model: str
    row: str
    label: str
    state: str  # missing | failed
    reason: str


@dataclass(frozen=True)
class Block:
    """One model's part of a table. `table` has a row per variant and a column per task."""

    model: str
    embedded: bool
    shown: tuple[str, ...]  # the paper's columns
    table: Table
    variants: tuple[Variant, ...]  # of the table's rows
    best: Mapping[str, tuple[int, float]]  # column -> its best row and Holm's p-value
    printed: tuple[Mapping[str, PaperCell], ...]  # per row, by column; empty where not comparable
    unlike: str  # why ours are not subtracted from the printed; empty where they are
    gaps: tuple[Gap, ...]

    def value(self, row: int, label: str) -> SeededAverage | None:
        """A row's score in a column, the average included."""
        line, place = self.table.rows[row], self._place(label)
        return line.average if place is None else line.entries[place].score

    def change(self, row: int, label: str) -> SeededAverage | None:
        """A row's paired change from full precision in a column, the average included."""
        line, place = self.table.rows[row], self._place(label)
        return line.change if place is None else line.changes[place]

    def entries(self, row: int, label: str) -> tuple[Entry, ...]:
        """What a value is made of: one entry, or those of every task for the average."""
        line, place = self.table.rows[row], self._place(label)
        return line.entries if place is None else line.entries[place : place + 1]

    def states(self, row: int, label: str) -> set[str]:
        """Of these entries; `partial` where a seed is missing or failed and others are there."""
        variant, place = self.variants[row], self._place(label)
        labels = [name for _, name in self.table.columns] if place is None else [label]
        gaps = set() if variant.difference else {(gap.row, gap.label) for gap in self.gaps}
        return {
            "partial"
            if entry.state == "finished" and (entry.failed or (variant.row, name) in gaps)
            else entry.state
            for name, entry in zip(labels, self.entries(row, label), strict=True)
        }

    def _place(self, label: str) -> int | None:
        labels = [name for _, name in self.table.columns]
        return labels.index(label) if label in labels else None


@dataclass(frozen=True)
class PaperTable:
    number: int
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        return f"Table {self.number}"

    @property
    def caption(self) -> str:
        return CAPTIONS[self.number]

    @property
    def gaps(self) -> list[Gap]:
        return [gap for block in self.blocks for gap in block.gaps]


def paper_table(
    number: int,
    results: Sequence[ModelResults],
    presets: Iterable[Mapping[str, Sequence[str]]] = (),
) -> PaperTable:
    """One table of the paper.

    Args:
        results: see selection.model_results.
        presets: `all` counts for Table 1 and `first` for the others. Where the results hold one
            model of a preset, the preset's other models are missed; see presets.expected_models.
    """
    by_name = {found.model: found for found in results}
    present = {found.model: found.embedded for found in results}
    expected = expected_models(presets, "all" if number == 1 else "first", present)
    models = {name: by_name.get(name) or ModelResults(name, expected[name]) for name in expected}
    own = _own_rows(number)
    models |= {found.model: found for found in results if own & found.rows.keys()}
    return PaperTable(number, tuple(_block(number, found) for found in models.values()))


def _own_rows(number: int) -> set[str]:
    """Rows that say that a model was run for this table rather than for another one."""
    twins = (2, 5)
    others = [n for n in TABLES.values() if n != number and not {n, number} <= set(twins)]
    elsewhere = {row for other in others for row in paper_rows(other)}
    return set(paper_rows(number)) - elsewhere


def _block(number: int, results: ModelResults) -> Block:
    columns = tuple(dict.fromkeys(cell.column for cell in paper_cells(number)))
    labels = tuple(label for label in columns if label != AVERAGE)
    labels = labels if len(columns) > 1 else PAPER_COLUMNS
    variants = tuple(
        variant
        for row in paper_rows(number)
        for variant in (results.variant(row), *results.rows.get(row, ())[1:])
    )
    notes: list[str] = [*results.notes]
    reference = results.variant(REFERENCE)
    names = _names(number)
    rows = tuple(
        _row(variant, labels, names[variant.row], reference, notes) for variant in variants
    )
    if AVERAGE in columns:
        notes += [note for row in rows for note in seed_note(row.name, row.entries)]
    notes += source_notes(_cells(labels, (*variants, reference)))
    best = _best(rows, variants, columns, labels)
    printed = tuple(printed_cells(number, results, variant) for variant in variants)
    unlike = unlike_the_paper(number, results) if any(printed) else ""
    if any(printed):
        notes += notes_beside_the_paper(results, unlike)
    table = Table(
        title=results.title,
        columns=tuple((results.tasks.get(label, label), label) for label in labels),
        chance=tuple(results.chance.get(label) for label in labels),
        rows=rows,
        notes=(*notes, *_remarks(results, rows, variants, reference, best)),
    )
    return Block(
        results.model, results.embedded, columns, table, variants, best, printed, unlike,
        tuple(_gaps(results, labels, paper_rows(number))),
    )  # fmt: skip


def _row(
    variant: Variant, labels: Sequence[str], name: str, reference: Variant, notes: list[str]
) -> Row:
    entries = [variant.entry(label) for label in labels]
    others = [reference.entry(label) for label in labels]
    full_name = "\n".join(filter(None, (name, variant.difference)))
    return make_row(full_name, entries, None if variant.row == REFERENCE else others, notes)


def _cells(labels: Sequence[str], variants: Iterable[Variant]) -> list[CellResult]:
    """Every result behind these columns, once."""
    found = {
        cell.folder: cell
        for variant in variants
        for label in labels
        for cell in variant.entry(label).cells
    }
    return list(found.values())


def _names(number: int) -> dict[str, str]:
    """Our rows by the paper's names."""
    names = {cell.row: cell.name for cell in paper_cells(number)}
    return {ours: names[theirs] for ours, theirs in paper_rows(number).items()}


def _best(
    rows: Sequence[Row], variants: Sequence[Variant], columns: Sequence[str], labels: Sequence[str]
) -> dict[str, tuple[int, float]]:
    """Per column the best quantized row, where a paired test against the runner-up supports it.

    Only columns in which every row is there; Holm's correction over these columns.
    """
    quantized = [i for i, variant in enumerate(variants) if variant.row != REFERENCE]
    found: dict[str, tuple[int, float]] = {}
    for column in columns:
        places = range(len(labels)) if column == AVERAGE else [labels.index(column)]
        samples = {i: [rows[i].entries[place].sample for place in places] for i in quantized}
        if len(samples) < 2 or any(s is None for own in samples.values() for s in own):
            continue
        present = {i: [s for s in own if s is not None] for i, own in samples.items()}
        means = {i: sum(s.scores.mean() for s in own) for i, own in present.items()}
        first, second = sorted(quantized, key=lambda i: means[i], reverse=True)[:2]
        found[column] = (first, p_value(present[first], present[second]))
    adjusted = holm([p for _, p in found.values()])
    pairs = zip(found.items(), adjusted, strict=True)
    return {column: (row, p) for (column, (row, _)), p in pairs if p < ALPHA}


def _remarks(
    results: ModelResults,
    rows: Sequence[Row],
    variants: Sequence[Variant],
    reference: Variant,
    best: Mapping[str, object],
) -> list[str]:
    notes = []
    if not results.rows:
        notes.append("no results of this model in this sweep.")
    elif not reference.entries:
        notes.append("full precision was not run in this sweep: no changes from it.")
    sizes = {_calibration(variant) for variant in variants if variant.entries} - {""}
    if sizes:
        notes.append(f"calibrated on: {'; '.join(sorted(sizes))}.")
    averages = {row.average.covers for row in rows if row.average}
    covers = averages or {
        entry.score.covers for row in rows for entry in row.entries if entry.score
    }
    if covers:
        notes.append(f"95% intervals cover {' or '.join(sorted(covers))}.")
    if best:
        notes.append(
            "best quantized row of a column marked where a paired test against the runner-up has "
            "p < 0.05 after Holm's correction over the columns."
        )
    elif sum(variant.row != REFERENCE and bool(variant.entries) for variant in variants) > 1:
        notes.append(
            "no quantized row is marked as the best of a column: in no complete one a paired test "
            "against the runner-up has p < 0.05 after Holm's correction over the columns."
        )
    return notes


def _calibration(variant: Variant) -> str:
    """`random (128 states, 8,192 tokens)`; empty without a calibration set."""
    name = variant.settings.get("calibration.name")
    return "" if name is None else f"{name} ({collected(variant)})"


def _gaps(results: ModelResults, labels: Sequence[str], rows: Iterable[str]) -> Iterable[Gap]:
    """What is missing of the rows as they are usually run; controls are extra."""
    entries = [(row, label, results.variant(row).entry(label)) for row in rows for label in labels]
    seeds = {
        seed
        for _, _, entry in entries
        if entry.sample and entry.sample.calibrated
        for seed in entry.sample.seeds
    }
    for row, label, entry in entries:
        for cell in entry.failed:
            reason = cell.error.partition("\n")[0] or "its seeds saw different items"
            yield Gap(results.model, row, label, "failed", f"seed {cell.seed}: {reason}")
        if entry.state == "missing":
            yield Gap(results.model, row, label, "missing", "")
        if entry.sample and entry.sample.calibrated:
            absent = seeds - set(entry.sample.seeds) - {cell.seed for cell in entry.failed}
            if absent:
                named = ", ".join(map(str, sorted(absent)))
                yield Gap(results.model, row, label, "missing", f"seed {named}")
