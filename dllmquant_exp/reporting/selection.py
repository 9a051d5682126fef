"""What a sweep holds of each model, sorted into the rows of the paper's tables.

Only what may be compared comes together: of one model, the largest group of results that agree in
everything but row, task and seed, in the weights that were loaded, and in bits. What is left out is
named in the notes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from dllmquant_exp.reporting.cells import CellResult, flat
from dllmquant_exp.reporting.checkpoints import one_checkpoint
from dllmquant_exp.reporting.entries import MISSING, Entry, entry
from dllmquant_exp.reporting.rows import Bits, usual_size
from dllmquant_exp.reporting.speed.results import is_speed
from dllmquant_exp.reporting.tables import conditions, labels, newest
from dllmquant_exp.store.results import canonical_json


@dataclass(frozen=True)
class Variant:
    """A row as it was run: its entries by column, and what sets it apart from the row's first."""

    row: str
    settings: Mapping[str, object]  # see CellResult.recipe
    difference: str  # as `calibration.samples=512`; empty for the row's first variant
    entries: Mapping[str, Entry]

    def entry(self, label: str) -> Entry:
        return self.entries.get(label, MISSING)

    @property
    def calibrated_on(self) -> tuple[float, float] | None:
        """States and tokens that were collected, averaged over seeds; None where none were."""
        cells = (cell for entry in self.entries.values() for cell in entry.cells)
        sets = {cell.seed: cell.calibrated_on for cell in cells if cell.calibrated_on}
        if not sets:
            return None
        states, tokens = zip(*sets.values(), strict=True)
        return fmean(states), fmean(tokens)


def collected(variant: Variant) -> str:
    """`520 states, 32,432 tokens`; empty without a calibration set."""
    if variant.calibrated_on is None:
        return ""
    states, tokens = variant.calibrated_on
    return f"{states:,.0f} states, {tokens:,.0f} tokens"


@dataclass(frozen=True)
class ModelResults:
    """Comparable results of one model. Columns go by their label in the paper."""

    model: str
    embedded: bool
    bits: Bits | None = None  # see rows.bits_of; None where nothing is quantized
    rows: Mapping[str, tuple[Variant, ...]] = field(default_factory=dict)  # the usual variant first
    tasks: Mapping[str, str] = field(default_factory=dict)  # label -> task
    chance: Mapping[str, float | None] = field(default_factory=dict)  # by label
    notes: tuple[str, ...] = ()

    def variant(self, row: str) -> Variant:
        """The row's first variant; one without entries where the row was not run."""
        return self.rows[row][0] if row in self.rows else Variant(row, {}, "", {})

    @property
    def cells(self) -> list[CellResult]:
        """The finished results behind all entries."""
        entries = (e for of in self.rows.values() for v in of for e in v.entries.values())
        return [cell for entry in entries for cell in entry.cells]

    @property
    def title(self) -> str:
        """As `micro_llada (embedded stand-in), W4A4`."""
        bits = f", {bits_text(self.bits)}" if self.bits else ""
        return f"{self.model}{' (embedded stand-in)' if self.embedded else ''}{bits}"

    @property
    def checkpoints(self) -> set[str]:
        """Digests of the checkpoints that its results are of, where they are known."""
        return {cell.checkpoint_digest for cell in self.cells} - {""}

    @property
    def is_w4a4(self) -> bool:
        return self.bits is not None and self.bits[:5] == (4, 4, 4, 4, 16)


def model_results(cells: Iterable[CellResult]) -> list[ModelResults]:
    """Sort results into models and rows; results of no row of conf/row are left out."""
    by_model: dict[str, list[CellResult]] = {}
    for cell in cells:
        if cell.row is not None and not is_speed(cell):
            by_model.setdefault(cell.model, []).append(cell)
    return [_model_results(by_model[model]) for model in sorted(by_model)]


def of_no_row(cells: Iterable[CellResult]) -> list[CellResult]:
    """Results that no row of conf/row recognises."""
    return [cell for cell in cells if cell.row is None and not is_speed(cell)]


def bits_text(bits: Bits) -> str:
    """`W4A4`, and what else differs from 4-bit P and V and 16-bit K, head and embedding."""
    weights, activations, *rest = bits
    names = ("P", "V", "K", "head", "embedding")
    usual = (4, 4, 16, 16, 16)
    others = [
        f"{name} {'not quantized' if value is None else f'{value} bits'}"
        for name, value, paper in zip(names, rest, usual, strict=True)
        if value != paper
    ]
    return ", ".join([f"W{weights}A{activations}", *others])


def _model_results(cells: list[CellResult]) -> ModelResults:
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(canonical_json(conditions(cell)), []).append(cell)
    kept = max(groups.values(), key=_size)
    notes = labels(kept)
    for group in groups.values():
        if group is not kept:
            own, main = (flat("", conditions(one[0])) for one in (group, kept))
            notes.append(f"left out: {len(group)} results with {_difference(own, main)}.")
    kept = one_checkpoint(kept, notes)
    by_bits: dict[Bits, list[CellResult]] = {}
    for cell in kept:
        if cell.bits is not None:
            by_bits.setdefault(cell.bits, []).append(cell)
    bits = max(by_bits, key=lambda key: _size(by_bits[key]), default=None)
    for other, group in by_bits.items():
        if other != bits:
            notes.append(f"left out: {len(group)} results with {bits_text(other)}.")
    kept = [cell for cell in kept if cell.bits in (bits, None)]
    repeated: list[str] = []
    kept = _one_task_per_label(newest(kept, repeated), notes)
    if repeated:
        notes.append(f"{len(repeated)} cells have several results; the newest are shown.")
    return ModelResults(
        model=kept[0].model,
        embedded=kept[0].embedded,
        bits=bits,
        rows=_rows(kept),
        tasks={cell.label: cell.task for cell in kept},
        chance={cell.label: cell.chance for cell in kept if cell.chance is not None},
        notes=tuple(notes),
    )


def _size(cells: Sequence[CellResult]) -> tuple[int, str]:
    """How much a group can fill of a table, and how new it is."""
    places = {(cell.row, cell.task, cell.seed) for cell in cells}
    return len(places), max(cell.finished_at for cell in cells)


def _one_task_per_label(cells: list[CellResult], notes: list[str]) -> list[CellResult]:
    counts = Counter((cell.label, cell.task) for cell in cells)
    chosen: dict[str, str] = {}
    for (label, task), _ in counts.most_common():
        if chosen.setdefault(label, task) != task:
            notes.append(f"left out: results of {task}; {chosen[label]} stands for {label}.")
    return [cell for cell in cells if chosen[cell.label] == cell.task]


def _rows(cells: Sequence[CellResult]) -> dict[str, tuple[Variant, ...]]:
    found: dict[str, dict[str, list[CellResult]]] = {}
    for cell in cells:
        assert cell.row is not None  # others were sorted out
        found.setdefault(cell.row, {}).setdefault(cell.made_of, []).append(cell)
    return {row: _variants(row, list(groups.values())) for row, groups in found.items()}


def _variants(row: str, groups: list[list[CellResult]]) -> tuple[Variant, ...]:
    groups.sort(key=lambda cells: (usual_size(cells[0].config), *_size(cells)), reverse=True)
    main = groups[0][0].recipe
    return tuple(_variant(row, cells, main) for cells in groups)


def _variant(row: str, cells: Sequence[CellResult], main: Mapping[str, object]) -> Variant:
    settings = cells[0].recipe
    by_label = {cell.label: [c for c in cells if c.label == cell.label] for cell in cells}
    entries = {label: entry(own)[0] for label, own in by_label.items()}
    return Variant(row, settings, _difference(settings, main), entries)


def _difference(settings: Mapping[str, object], main: Mapping[str, object]) -> str:
    """What differs, as `calibration.samples=512`; TMAS' own copy of a setting is not repeated."""
    changed = {
        key: settings.get(key)
        for key in (*settings, *(key for key in main if key not in settings))
        if settings.get(key) != main.get(key)
    }
    copies = {key for key in changed if key.replace("calibration.tmas.", "calibration.") != key}
    shown = [
        f"{key}={value}"
        for key, value in changed.items()
        if key not in copies or key.replace("calibration.tmas.", "calibration.") not in changed
    ]
    return ", ".join(shown)
