"""The results of a sweep that may be compared, by model and row.

For each model this is the largest group of results that agree in everything but row, task and seed,
in the weights that were loaded, and in bits. Notes name the results that are left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import yaml

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.frame import SPEED, Bits, Cell, first, flat, grouped, lines_of
from dllmquant_exp.reporting.notes import setting_notes
from dllmquant_exp.reporting.paper import paper_name
from dllmquant_exp.reporting.samples import MISSING, Sample, sample_of
from dllmquant_exp.reporting.tables import REFERENCE

SHOWN = len("sha256:") + 8


@dataclass(frozen=True, eq=False)
class Variant:
    """A row as it was run.

    Attributes:
        settings: the recipe, see frame.py.
        difference: from the row's first variant, as `calibration.samples=512`.
        by_column: its samples.
        name: as printed; on lines of their own, settings that set it apart.
        seeds: each sample should have them.
    """

    row: str
    settings: Mapping[str, object] = field(default_factory=dict)
    difference: str = ""
    by_column: Mapping[str, Sample] = field(default_factory=dict)
    name: str = ""
    seeds: frozenset[int] = frozenset()

    def samples(self, columns: Iterable[str]) -> list[Sample]:
        return [self.by_column.get(column, MISSING) for column in columns]

    def absent(self, sample: Sample) -> list[int]:
        """The seeds that a sample with scores lacks, and that did not fail."""
        failed = {cell.seed for cell in sample.failed}
        return sorted(self.seeds - set(sample.seeds) - failed) if sample.seeds else []

    @property
    def is_plain(self) -> bool:
        """Whether it is full precision, which has no change from itself."""
        return REFERENCE in (self.row, self.settings.get("method.name"))

    @property
    def cells(self) -> list[Cell]:
        """The runs behind its scores."""
        return [cell for sample in self.by_column.values() for cell in sample.cells]

    @property
    def calibrated_on(self) -> tuple[float, float] | None:
        """States and tokens that were collected, averaged over seeds; None where none were."""
        sets = {cell.seed: cell.calibrated_on for cell in self.cells if cell.calibrated_on}
        if not sets:
            return None
        states, tokens = zip(*sets.values(), strict=True)
        return fmean(states), fmean(tokens)

    @property
    def collected(self) -> str:
        """`520 states, 32,432 tokens`; empty without a calibration set."""
        found = self.calibrated_on
        return "{:,.0f} states, {:,.0f} tokens".format(*found) if found else ""


@dataclass(frozen=True, eq=False)
class ModelResults:
    """Comparable results of one model. Columns go by their label in the paper."""

    model: str
    embedded: bool
    bits: Bits | None = None  # see frame.bits_of; None where nothing is quantized
    rows: Mapping[str, Sequence[Variant]] = field(default_factory=dict)  # the usual variant first
    tasks: Mapping[str, str] = field(default_factory=dict)  # label -> task
    chance: Mapping[str, float] = field(default_factory=dict)  # by label
    notes: tuple[str, ...] = ()

    def variant(self, row: str) -> Variant:
        """The row's first variant; one without samples where the row was not run."""
        return self.rows[row][0] if row in self.rows else Variant(row)

    @property
    def cells(self) -> list[Cell]:
        """The finished results behind all samples."""
        return [cell for of in self.rows.values() for variant in of for cell in variant.cells]

    @property
    def same_as(self) -> str:
        """Hub id that the user states the weights are a copy of; empty where none is stated."""
        return next((cell.same_as for cell in self.cells if cell.same_as), "")

    @property
    def paper_name(self) -> str:
        """Our name of the paper's model that this is stated to be; else its own."""
        return paper_name(self.model, self.same_as)

    @property
    def title(self) -> str:
        """Heading of the results, as `micro_llada (embedded stand-in), W4A4`."""
        bits = f", {bits_text(self.bits)}" if self.bits else ""
        return f"{self.model}{' (embedded stand-in)' if self.embedded else ''}{bits}"

    @property
    def checkpoints(self) -> set[str]:
        """Digests of the results' checkpoints, where they are known."""
        return {cell.checkpoint for cell in self.cells} - {""}

    @property
    def is_w4a4(self) -> bool:
        return self.bits is not None and self.bits[:5] == (4, 4, 4, 4, 16)


def bits_text(bits: Bits) -> str:
    """`W4A4`, and each difference from 4-bit P and V and 16-bit K, head and embedding."""
    weights, activations, *rest = bits
    names, usual = ("P", "V", "K", "head", "embedding"), (4, 4, 16, 16, 16)
    others = [
        f"{name} {'not quantized' if value is None else f'{value} bits'}"
        for name, value, paper in zip(names, rest, usual, strict=True)
        if value != paper
    ]
    return ", ".join([f"W{weights}A{activations}", *others])


def model_results(
    frame: pd.DataFrame, samples: Mapping[str, int] | None = None
) -> list[ModelResults]:
    """Sort results into models and rows; results of no row are left out, and speed tasks.

    samples: usual sizes of calibration sets by sampler, see `usual_samples`.
    """
    scored = frame[(frame["row"] != "") & (frame["kind"] != SPEED)]
    usual = usual_samples(config_folder()) if samples is None else samples
    return [_model_results(cells, usual) for _, cells in scored.groupby("model")]


@cache
def usual_samples(*folders: Path) -> dict[str, int]:
    """Sizes of calibration sets by sampler, as configuration folders have them. TMAS's option is
    called `on`."""
    found = {}
    groups = ("calibration/*.yaml", "tmas/*.yaml")
    for path in (path for folder in folders for group in groups for path in folder.glob(group)):
        option = yaml.safe_load(path.read_text("utf-8")) or {}
        if "samples" in option:
            found[str(option.get("name", path.parent.name))] = int(option["samples"])
    return found


def _model_results(frame: pd.DataFrame, samples: Mapping[str, int]) -> ModelResults:
    def conditions(own: Cell, kept: Cell) -> str:
        return f"with {_difference(flat('', own.conditions), flat('', kept.conditions))}"

    left: list[str] = []
    kept = one_checkpoint(_largest(frame, frame["comparable"], conditions, left), left)
    bits = kept["bits"].map(lambda bits: bits_text(bits) if bits else "")
    kept = _largest(kept, bits, lambda own, _: f"with {bits_text(own.bits or ())}", left)
    repeated: list[str] = []
    kept = _one_task_per_label(newest(kept, repeated), left)
    if repeated:
        left.append(f"{len(repeated)} cells have several results; the newest are shown.")
    known, cell = kept[kept["chance"].notna()], first(kept)
    rows = grouped(lines_of(kept), "row")
    return ModelResults(
        model=cell.model,
        embedded=cell.embedded,
        bits=next((bits for bits in kept["bits"] if bits), None),
        rows={row: _variants(row, own, samples) for row, own in rows.items()},
        tasks=dict(zip(kept["label"], kept["task"], strict=True)),
        chance=dict(zip(known["label"], known["chance"], strict=True)),
        notes=(*setting_notes(cell), *_metric_notes(kept), *left),
    )


def _metric_notes(frame: pd.DataFrame) -> list[str]:
    """Columns whose scores are not the results' own: by the metric that the paper's row fits, or
    averaged over items where the result averages over members."""
    fitting = frame[frame["metric"] != ""].groupby("metric")["label"].unique()
    notes = [
        f"{', '.join(labels)}: {metric}, which the paper's row fits; the results hold both."
        for metric, labels in fitting.items()
    ]
    settings = frame["config"].map(lambda config: config.get("task", {}).get("settings", {}))
    members = frame[settings.map(lambda found: found.get("average") == "members").astype(bool)]
    for label in members["label"].unique():
        notes.append(f"{label}: averaged over items; the results' own score, over its subjects.")
    return notes


def _largest(
    frame: pd.DataFrame, keys: pd.Series, told: Callable[[Cell, Cell], str], notes: list[str]
) -> pd.DataFrame:
    """The results of the key that can fill most of a table, the newest where that ties, and those
    without a key. `notes` gets the others, in the words of `told(one of them, one that is kept)`.
    """
    groups = {key: lines_of(group) for key, group in frame.groupby(keys, sort=False) if key}
    kept = max(groups, key=lambda key: _size(groups[key]), default="")
    for key, cells in groups.items():
        if key != kept:
            notes.append(f"left out: {len(cells)} results {told(cells[0], groups[kept][0])}.")
    return frame[keys.isin([kept, ""])]


def _size(cells: Sequence[Cell]) -> tuple[int, str]:
    """Rank of a group: number of places that it fills, then time of its newest result."""
    places = {(cell.row or cell.method, cell.task, cell.seed) for cell in cells}
    return len(places), max(cell.finished_at for cell in cells)


def one_checkpoint(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The results of one checkpoint: results of one name and of different weights are never
    averaged or compared. See `_largest`.

    A failed result has no digest and stays, and so does a saved quantized model, whose digest is
    its own: its recipe tells it apart.
    """
    saved = frame["config"].map(lambda config: "saved" in config).astype(bool)

    def told(own: Cell, kept: Cell) -> str:
        return f"of another checkpoint ({own.checkpoint[:SHOWN]}; shown: {kept.checkpoint[:SHOWN]})"

    return _largest(frame, frame["checkpoint"].where(~saved, ""), told, notes)


def newest(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """One cell per recipe, task and seed: a finished one before a failed one, then the newest."""
    order = frame.assign(done=frame["status"] == "finished").sort_values(
        ["done", "finished_at"], kind="stable"
    )
    key = ["made_of", "task", "seed"]
    replaced = order[order.duplicated(key, keep="last") & order["done"]]
    for method, task in zip(replaced["method"], replaced["task"], strict=True):
        notes.append(f"{method}, {task}: several results, the newest is shown.")
    return order.drop_duplicates(key, keep="last").drop(columns="done")


def _one_task_per_label(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    chosen: dict[str, str] = {}
    for label, task in frame[["label", "task"]].value_counts().index:
        if chosen.setdefault(label, task) != task:
            notes.append(f"left out: results of {task}; {chosen[label]} stands for {label}.")
    return frame[frame["label"].map(chosen) == frame["task"]]


def _variants(row: str, cells: Iterable[Cell], samples: Mapping[str, int]) -> list[Variant]:
    """A row's variants; first those whose calibration set has the usual size, then the largest."""
    groups = list(grouped(cells, "made_of").values())
    groups.sort(key=lambda of: (has_usual_size(of[0].config, samples), *_size(of)), reverse=True)
    main = groups[0][0].recipe
    return [
        Variant(
            row,
            own[0].recipe,
            _difference(own[0].recipe, main),
            {label: sample_of(cells) for label, cells in grouped(own, "label").items()},
            own[0].row_label,
        )
        for own in groups
    ]


def has_usual_size(config: Mapping[str, Any], samples: Mapping[str, int]) -> bool:
    """Whether a configuration's calibration set, if there is one, has the usual size."""
    calibration = config.get("calibration")
    if calibration is None:
        return True
    size = samples.get(calibration["name"])
    return calibration.get("samples") == size and calibration.get("tokens") is None


def _difference(settings: Mapping[str, object], main: Mapping[str, object]) -> str:
    """Settings that differ, as `calibration.samples=512`."""
    names: Sequence[str] = [*settings, *(key for key in main if key not in settings)]
    return ", ".join(f"{k}={settings.get(k)}" for k in names if settings.get(k) != main.get(k))
