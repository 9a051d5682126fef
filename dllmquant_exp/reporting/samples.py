"""One row on one task over its seeds; averages and paired differences of several such entries.

Every interval of a table comes from `average_over_seeds`: items are averaged over seeds before
anything else, and with several seeds the interval counts them as a random sample.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dllmquant_exp.reporting.frame import Cell, Item
from dllmquant_exp.reporting.statistics import (
    SeededAverage,
    average_over_seeds,
    paired_test,
    stratified_test,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Every item's score in every seed's run, in [0, 1]."""

    scores: Array  # [seeds, items]
    seeds: tuple[int, ...]
    items: tuple[Item, ...]  # sorted
    calibrated: bool  # whether the seed chose a calibration set, and not only masks and noise

    def at(self, seeds: Sequence[int]) -> Array:
        """The runs of these seeds only, in this order."""
        return self.scores[[self.seeds.index(seed) for seed in seeds]]


@dataclass(frozen=True)
class Entry:
    """One row's result on one task. Sample and score are None unless the state is finished."""

    state: Literal["finished", "failed", "missing"]
    cells: tuple[Cell, ...] = ()  # finished ones, by seed
    failed: tuple[Cell, ...] = ()
    sample: Sample | None = None
    score: SeededAverage | None = None

    @property
    def n(self) -> int:
        return 0 if self.sample is None else len(self.sample.items)


MISSING = Entry("missing")


def entry(cells: Iterable[Cell]) -> tuple[Entry, list[str]]:
    """One row on one task, and notes for its reader. At most one cell per seed."""
    cells = sorted(cells, key=lambda cell: cell.seed)
    finished = tuple(cell for cell in cells if cell.status == "finished" and cell.items)
    failed = tuple(cell for cell in cells if cell.status != "finished" or not cell.items)
    notes = [
        f"failed: {cell.method}, {cell.task}, seed {cell.seed}: {cell.error.partition(chr(10))[0]}"
        for cell in failed
    ]
    if not finished:
        return Entry("failed" if failed else "missing", failed=failed), notes
    if any(cell.items != finished[0].items for cell in finished):
        notes.append(f"{cells[0].method}, {cells[0].task}: the seeds saw different items.")
        return Entry("failed", failed=tuple(cells)), notes
    sample = Sample(
        np.array([cell.scores for cell in finished]),
        tuple(cell.seed for cell in finished),
        finished[0].items,
        any(cell.config.get("calibration") is not None for cell in finished),
    )
    return Entry("finished", finished, failed, sample, average_over_seeds([sample.scores])), notes


def shared_seeds(samples: Iterable[Sample | None]) -> list[int]:
    """Seeds that every sample has, ascending; none where a sample is missing."""
    found = [set(sample.seeds) if sample else set() for sample in samples]
    return sorted(set.intersection(*found)) if found else []


def average(samples: Sequence[Sample | None]) -> SeededAverage | None:
    """Average over tasks; None where a task has no value, which would compare unlike averages, or
    where no seed ran in all of them."""
    seeds = shared_seeds(samples)
    return average_over_seeds([of.at(seeds) for of in samples if of]) if seeds else None


def difference(
    samples: Sequence[Sample | None],
    references: Sequence[Sample | None],
    weights: Sequence[float] | None = None,
) -> SeededAverage | None:
    """Average over tasks of sample - reference, paired by item and seed; see average_over_seeds.

    A reference without calibration stands with its first run for the seeds that it lacks; other
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
    """Pair the scores [seeds, items] of each task with the reference's [seeds or 1, items]."""
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

    With one seed a paired test: McNemar's (one task of right-or-wrong items) or sign flips. With
    several seeds it follows from their `difference`, which counts them as a random sample.
    """
    pairs = _paired(samples, references)
    if not pairs:
        return 1.0
    if len(pairs[0][0]) > 1:
        return average_over_seeds(*map(list, zip(*pairs, strict=True))).p_beyond(0.0)
    if len(pairs) == 1:
        return paired_test(*(scores[0] for scores in pairs[0]))
    return stratified_test([own[0] - other[0] for own, other in pairs])
