"""One row on one task over its seeds; averages and paired differences of several of them.

Every interval of a table comes from `average_over_seeds`: items are averaged over seeds before
anything else, and with several seeds the interval counts them as a random sample.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

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


@dataclass(frozen=True, eq=False)
class Sample:
    """One row on one task: every item's score in every seed's run.

    Attributes:
        scores: [seeds, items] in [0, 1]; empty where no run finished, or they saw different items.
        items: sorted.
        calibrated: whether the seed chose a calibration set, and not only masks and noise.
        cells: the runs behind the scores, by seed.
        failed: the others.
    """

    scores: Array = field(default_factory=lambda: np.empty((0, 0)))
    seeds: tuple[int, ...] = ()
    items: tuple[Item, ...] = ()
    calibrated: bool = False
    cells: tuple[Cell, ...] = ()
    failed: tuple[Cell, ...] = ()

    @property
    def state(self) -> str:
        return "finished" if self.seeds else "failed" if self.failed else "missing"

    @property
    def failures(self) -> list[tuple[int, str]]:
        """The seeds that failed, each with its reason."""
        return [
            (cell.seed, cell.error.partition("\n")[0] or "its seeds saw different items")
            for cell in self.failed
        ]

    @property
    def diagnostics(self) -> dict[str, float]:
        """Shares of outputs that may have gone wrong, averaged over the runs that have them."""
        known = dict.fromkeys(name for cell in self.cells for name in cell.diagnostics)
        return {
            name: fmean(of.diagnostics[name] for of in self.cells if name in of.diagnostics)
            for name in known
        }

    @cached_property
    def score(self) -> SeededAverage | None:
        return average_over_seeds([self.scores]) if self.seeds else None

    def at(self, seeds: Sequence[int]) -> Array:
        """The runs of these seeds only, in this order."""
        return self.scores[[self.seeds.index(seed) for seed in seeds]]


MISSING = Sample()


def sample_of(cells: Iterable[Cell]) -> Sample:
    """One row's cells on one task, at most one per seed."""
    cells = tuple(sorted(cells, key=lambda cell: cell.seed))
    finished = tuple(cell for cell in cells if cell.status == "finished")
    if not finished or any(cell.items != finished[0].items for cell in finished):
        return Sample(failed=cells)
    return Sample(
        np.array([cell.scores for cell in finished]),
        tuple(cell.seed for cell in finished),
        finished[0].items,
        any(cell.config.get("calibration") is not None for cell in finished),
        finished,
        tuple(cell for cell in cells if cell.status != "finished"),
    )


def shared_seeds(samples: Iterable[Sample]) -> list[int]:
    """Seeds that every sample has, ascending."""
    found = [set(sample.seeds) for sample in samples]
    return sorted(set.intersection(*found)) if found else []


def average(samples: Sequence[Sample]) -> SeededAverage | None:
    """Average over tasks; None where no seed ran in all of them: the average of some tasks would be
    compared with unlike ones."""
    seeds = shared_seeds(samples)
    return average_over_seeds([of.at(seeds) for of in samples]) if seeds else None


def difference(
    samples: Sequence[Sample],
    references: Sequence[Sample],
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
    own, other = map(list, zip(*pairs, strict=True))
    return average_over_seeds(own, other, weights)


def flips(
    samples: Sequence[Sample], references: Sequence[Sample]
) -> tuple[float, float] | tuple[None, None]:
    """Shares of items that went right and that went wrong, against a reference's same items.

    Right is a score of at least one half. Averaged over seeds, which are paired as in `difference`,
    and over tasks; None where nothing is paired.
    """
    pairs = [(own >= 0.5, other >= 0.5) for own, other in _paired(samples, references)]
    if not pairs:
        return None, None
    to_right = fmean(float((own & ~other).mean()) for own, other in pairs)
    to_wrong = fmean(float((other & ~own).mean()) for own, other in pairs)
    return to_right, to_wrong


def _paired(samples: Sequence[Sample], references: Sequence[Sample]) -> list[tuple[Array, Array]]:
    """Pair the scores [seeds, items] of each task with the reference's [seeds or 1, items]."""
    pairs = list(zip(samples, references, strict=True))
    seeds = shared_seeds(samples)
    if not seeds or any(not b.seeds or a.items != b.items for a, b in pairs):
        return []
    both = shared_seeds([*samples, *references])
    if seeds != both and not any(reference.calibrated for reference in references):
        return [(sample.at(seeds), reference.scores[:1]) for sample, reference in pairs]
    return [(sample.at(both), reference.at(both)) for sample, reference in pairs if both]


def p_value(samples: Sequence[Sample], references: Sequence[Sample]) -> float:
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
