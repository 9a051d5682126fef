"""The spread over calibration seeds, from all rows that build on each other.

Three seeds leave the difference of two rows two degrees of freedom, where Student's t is 4.3, and a
spread of three numbers, which is mostly luck. AWQ's four rows in Table 2, or QuaRot's, run on the
same seeds, are a randomised block design: seeds are blocks, rows are treatments, and what differs
by chance between two rows is their interaction. Its mean square, from all R rows and S seeds, has
(R - 1)(S - 1) degrees: six instead of two.

This takes for granted that seeds move the rows of one method about equally. In simulations (as in
tests/reporting/test_pooling.py) tests at 5% and at .26% are wrong in 5% and .4% of cases; where
one of the two rows has twice the spread of the others, in 9% and 1%; by the two rows' own three
seeds, which their items' noise is taken off as well, in 5 to 9% and in 1 to 3%.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dllmquant_exp.reporting.comparisons import SeededAverage

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Rows whose interaction with the seeds is one quantity, and their part in a comparison.

    Attributes:
        scores: per row, per task [seeds, items]: the same tasks, seeds and items in each.
        coefficients: of each row in the comparison, adding up to 0: what a seed does to all rows
            of the pool alike then cancels.
    """

    scores: Sequence[Sequence[Array]]
    coefficients: Sequence[float]

    def __post_init__(self) -> None:
        shapes = [[task.shape for task in row] for row in self.scores]
        if len(shapes) < 2 or any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"a pool needs rows of the same tasks, seeds and items, got {shapes}")
        if len(self.coefficients) != len(shapes) or abs(math.fsum(self.coefficients)) > 1e-9:
            raise ValueError(
                f"a pool's coefficients are one per row and add up to 0, got {self.coefficients}"
            )

    @property
    def degrees(self) -> int:
        return (len(self.scores) - 1) * (self.scores[0][0].shape[0] - 1)

    def variance(self, weights: Sequence[float]) -> float:
        """Of the comparison's average over tasks and seeds, as far as seeds cause it."""
        seeds = self.scores[0][0].shape[0]
        squares = math.fsum(c * c for c in self.coefficients)
        return squares * _interaction(self.scores, weights) / seeds


def _interaction(scores: Sequence[Sequence[Array]], weights: Sequence[float]) -> float:
    """Variance of the interaction of rows and seeds in an average over tasks: the mean square, less
    what the items' own noise adds to it; at least 0."""
    averages, noise = np.zeros((len(scores), scores[0][0].shape[0])), 0.0
    for weight, rows in zip(weights, zip(*scores, strict=True), strict=True):
        task = np.stack(rows)  # [rows, seeds, items]
        averages += weight * task.mean(axis=2)
        left = _centred(_centred(_centred(task, 0), 1), 2)
        noise += weight**2 * float((left**2).mean()) * _inflation(task.shape) / task.shape[2]
    left = _centred(_centred(averages, 0), 1)
    return max(0.0, float((left**2).mean()) * _inflation(left.shape) - noise)


def _centred(x: Array, axis: int) -> Array:
    return np.asarray(x - x.mean(axis=axis, keepdims=True), float)


def _inflation(shape: tuple[int, ...]) -> float:
    """From a mean of squares to a mean square: values per degree of freedom."""
    return math.prod(n / max(1, n - 1) for n in shape)


def pooled(found: SeededAverage, pools: Sequence[Pool], weights: Sequence[float]) -> SeededAverage:
    """A comparison with the seeds' part of its uncertainty from pools, one per method in it.

    Pools are independent: their variances add up, and the degrees of freedom of the sum are
    Satterthwaite's.

    Args:
        found: the comparison, from several seeds.
        pools: at least one.
        weights: of the tasks.
    """
    variances = [pool.variance(weights) for pool in pools]
    total = math.fsum(variances)
    squares = math.fsum(v * v / p.degrees for v, p in zip(variances, pools, strict=True))
    degrees = total**2 / squares if squares else math.fsum(p.degrees for p in pools)
    rows = sum(len(p.scores) for p in pools)
    covers = f"{found.covers}; the seeds' spread is that of {rows} rows"
    return replace(found, seed_error=math.sqrt(total), degrees=degrees, covers=covers)
