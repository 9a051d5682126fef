"""One row on one task over the seeds that were run, and averages and differences of several.

Every interval of a table comes from `comparisons.average_over_seeds`: items are averaged over seeds
before anything else, and with several seeds the interval counts them as a random sample.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dllmquant_exp.reporting.cells import CellResult
from dllmquant_exp.reporting.comparisons import (
    SeededAverage,
    average_over_seeds,
    paired_test,
    stratified_test,
)

State = Literal["finished", "failed", "missing"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Every item's score in every seed's run, in [0, 1]."""

    scores: Array  # [seeds, items]
    seeds: tuple[int, ...]
    items: tuple[tuple[str, str], ...]  # (subtask, doc id), sorted
    calibrated: bool  # a seed chose a calibration set, and not only masks and noise

    def at(self, seeds: Sequence[int]) -> Array:
        """The runs of these seeds only, in this order."""
        return self.scores[[self.seeds.index(seed) for seed in seeds]]


@dataclass(frozen=True)
class Entry:
    """One row's result on one task. Sample and score are None unless the state is finished."""

    state: State
    cells: tuple[CellResult, ...] = ()  # finished ones, by seed
    failed: tuple[CellResult, ...] = ()
    sample: Sample | None = None
    score: SeededAverage | None = None

    @property
    def n(self) -> int:
        return 0 if self.sample is None else len(self.sample.items)


MISSING = Entry("missing")


def entry(cells: Iterable[CellResult]) -> tuple[Entry, list[str]]:
    """One row on one task, and what a reader must know about it. At most one cell per seed."""
    cells = sorted(cells, key=lambda cell: cell.seed)
    finished = tuple(cell for cell in cells if cell.status == "finished" and cell.items)
    failed = tuple(cell for cell in cells if cell not in finished)
    notes = [
        f"failed: {cell.method}, {cell.task}, seed {cell.seed}: {cell.error.partition(chr(10))[0]}"
        for cell in failed
    ]
    if not finished:
        return Entry("failed" if failed else "missing", failed=failed), notes
    if any(cell.items.keys() != finished[0].items.keys() for cell in finished):
        notes.append(f"{cells[0].method}, {cells[0].task}: the seeds saw different items.")
        return Entry("failed", failed=tuple(cells)), notes
    items = tuple(sorted(finished[0].items))
    sample = Sample(
        np.array([[cell.items[item] for item in items] for cell in finished]),
        tuple(cell.seed for cell in finished),
        items,
        any(cell.config.get("calibration") is not None for cell in finished),
    )
    return Entry("finished", finished, failed, sample, average_over_seeds([sample.scores])), notes


def shared_seeds(samples: Iterable[Sample]) -> list[int]:
    """Seeds that every sample has, ascending."""
    return sorted(set.intersection(*(set(sample.seeds) for sample in samples)))


def average(samples: Sequence[Sample | None]) -> SeededAverage | None:
    """Average over tasks; None where a task lacks a value, or where no seed ran in all of them."""
    present = [sample for sample in samples if sample is not None]
    if not present or len(present) < len(samples):
        return None  # a partial average would compare unlike things
    seeds = shared_seeds(present)
    return average_over_seeds([sample.at(seeds) for sample in present]) if seeds else None


def difference(
    samples: Sequence[Sample | None],
    references: Sequence[Sample | None],
    weights: Sequence[float] | None = None,
) -> SeededAverage | None:
    """Average over tasks of sample - reference, paired by item and seed; see average_over_seeds.

    A reference that calibrates nothing stands with its first run for the seeds that it lacks; other
    rows are compared on the seeds that both have. None where a task is missing, where the items
    differ, or where no seed is shared.
    """
    pairs = _paired(samples, references)
    if not pairs:
        return None
    return average_over_seeds([own for own, _ in pairs], [other for _, other in pairs], weights)


def _paired(
    samples: Sequence[Sample | None], references: Sequence[Sample | None]
) -> list[tuple[Array, Array]]:
    """Per task the scores [seeds, items] and those of the reference [seeds or 1, items]."""
    pairs = [
        (sample, reference)
        for sample, reference in zip(samples, references, strict=True)
        if sample is not None and reference is not None and sample.items == reference.items
    ]
    if not pairs or len(pairs) < len(samples):
        return []
    seeds = shared_seeds(sample for sample, _ in pairs)
    both = shared_seeds(sample for pair in pairs for sample in pair)
    if seeds and seeds != both and not any(reference.calibrated for _, reference in pairs):
        return [(sample.at(seeds), reference.scores[:1]) for sample, reference in pairs]
    return [(sample.at(both), reference.at(both)) for sample, reference in pairs if both]


def p_value(samples: Sequence[Sample | None], references: Sequence[Sample | None]) -> float:
    """Two-sided, of samples against references on the same items; 1 without pairs.

    Of one seed by a paired test: McNemar's (one task of right-or-wrong items) or sign flips; of
    several seeds by their `difference`, which counts them as a random sample.
    """
    pairs = _paired(samples, references)
    if not pairs:
        return 1.0
    if len(pairs[0][0]) > 1:
        return average_over_seeds(*map(list, zip(*pairs, strict=True))).p_beyond(0.0)
    if len(pairs) == 1:
        return paired_test(*(scores[0] for scores in pairs[0]))
    return stratified_test([own[0] - other[0] for own, other in pairs])
