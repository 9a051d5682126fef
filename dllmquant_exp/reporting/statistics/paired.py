"""Is one method better than another? Paired tests, averages over tasks and seeds, power.

Two methods are compared on the same items: every test is paired and two-sided.

- one task of 0/1 outcomes: McNemar's exact test
- fractional metrics, and averages over tasks: a sign-flip permutation test, stratified by task
- several comparisons: Holm's correction
- several seeds: `average_over_seeds`, whose intervals and p-values count the seeds as a random
  sample; the tests above speak of the one seed that was run

Power: the smallest effect that a comparison would find in 80 of 100 repetitions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from dllmquant_exp.reporting.statistics.intervals import (
    ALPHA,
    Estimate,
    adjusted_difference,
    average,
    averaged_proportion,
    mean_interval,
    score_interval,
    t_quantile,
    z_quantile,
)

Array = NDArray[np.float64]
POWER = 0.8
ROUNDS = 9999
SMALLEST_P = 1e-12  # smaller ones are not told from 0: nobody knows tails that far out


def mcnemar(gained: int, lost: int) -> float:
    """Exact p-value: without a difference, each item that changed is the toss of a fair coin."""
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def paired_test(scores: ArrayLike, reference: ArrayLike, seed: int = 0) -> float:
    """p-value of one task: McNemar's for 0/1 outcomes, else the sign-flip test.

    scores, reference: [items], item by item, in [0, 1].
    """
    first, second = np.asarray(scores, float), np.asarray(reference, float)
    if _right_or_wrong(first) and _right_or_wrong(second):
        return mcnemar(int((first > second).sum()), int((first < second).sum()))
    return stratified_test([first - second], seed)


def stratified_test(differences: Sequence[ArrayLike], seed: int = 0) -> float:
    """p-value of an unweighted average over tasks, by flipping the signs of items' differences.

    Without a difference, either method could have had either score of an item. Tasks are strata of
    equal weight, whatever their size. Monte Carlo with 9,999 rounds: p is at least 0.0001.

    differences: per task [items], the score minus the reference's, averaged over seeds if several.
    """
    tasks = [np.asarray(task, float) for task in differences]
    generator = np.random.default_rng(seed)
    observed = sum(float(task.mean()) for task in tasks)
    flipped = sum(_flipped_sums(task, generator) / task.size for task in tasks)
    extreme = int((np.abs(flipped) >= abs(observed) - 1e-9).sum())
    return (extreme + 1) / (ROUNDS + 1)


def _flipped_sums(differences: Array, generator: np.random.Generator) -> Array:
    """[rounds] sums under random signs: of m items of one size, Binomial(m, 1/2) keep theirs."""
    sizes, counts = np.unique(np.round(np.abs(differences), 12), return_counts=True)
    total = np.zeros(ROUNDS)
    for size, count in zip(sizes[sizes > 0], counts[sizes > 0], strict=True):
        # Plain bits are ten times as fast, and the items of a fractional metric all differ in size.
        kept = (
            generator.integers(0, 2, ROUNDS, np.int8)
            if count == 1
            else generator.binomial(count, 0.5, ROUNDS)
        )
        total += size * (2.0 * kept - count)
    return total


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests, in the given order (Holm 1979).

    Rejecting those below alpha keeps the chance of any false rejection below alpha, however the
    tests depend on each other.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)).clip(max=1)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class SeededAverage:
    """A value, its interval at any confidence, and the population that the interval covers.

    Attributes:
        items: the value with the 95% interval of its items (prompts, rounds), the seeds taken as
            they are. At more confidence its limits move as a normal distribution's do.
        seed_error: standard error that comes from the choice of seeds, estimated from `seeds` of
            them: its part of the interval is Student's t on seeds - 1 degrees.
        bounds: no limit lies outside them.
    """

    items: Estimate
    seed_error: float = 0.0
    seeds: int = 1
    covers: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def value(self) -> float:
        return self.items.value

    @property
    def estimate(self) -> Estimate:
        """The 95% interval."""
        below, above = self._margins(ALPHA)
        low, high = self.value - below, self.value + above
        return Estimate(self.value, max(self.bounds[0], low), min(self.bounds[1], high))

    def _margins(self, alpha: float) -> tuple[float, float]:
        """Distances to the lower and the upper limit at confidence 1 - alpha.

        The items' and the seeds' distances are added in squares (MOVER, see intervals.py).
        """
        z = z_quantile(alpha) / z_quantile()
        t = t_quantile(self.seeds - 1, alpha) * self.seed_error if self.seed_error else 0.0
        below, above = self.value - self.items.low, self.items.high - self.value
        return math.hypot(z * below, t), math.hypot(z * above, t)

    def p_beyond(self, threshold: float) -> float:
        """Two-sided p-value of "the true value is the threshold": the alpha of the interval that
        just reaches it. It is below 5% where the 95% interval excludes the threshold."""
        distance, side = abs(self.value - threshold), int(self.value < threshold)
        return alpha_of_limit(lambda alpha: self._margins(alpha)[side] >= distance, SMALLEST_P)

    def detectable(self, alpha: float = ALPHA) -> float:
        """Distance between the true value and a threshold that a test at `alpha` would find in 80
        of 100 repetitions: the margin at that level, and the one-sided margin of 80%."""
        at_level, at_power = self._margins(alpha), self._margins(2 * (1 - POWER))
        return (sum(at_level) + sum(at_power)) / 2


def alpha_of_limit(
    reached: Callable[[float], bool], smallest: float, precision: float = 1e-9
) -> float:
    """The alpha of the interval that just reaches a value, which is the value's p; by bisection.

    Args:
        reached: whether the interval at confidence 1 - alpha reaches it.
        smallest: the least alpha that is told from 0.
        precision: of the logarithm.
    """
    least, most = math.log(smallest), 0.0
    while most - least > precision:
        middle = (least + most) / 2
        least, most = (middle, most) if reached(math.exp(middle)) else (least, middle)
    return math.exp(most)


def average_over_seeds(
    scores: Sequence[ArrayLike],
    reference: Sequence[ArrayLike] | None = None,
    weights: Sequence[float] | None = None,
) -> SeededAverage:
    """Average over tasks, or average difference from a reference, with items and seeds at random.

    The tasks are fixed. Items are a random sample of their task. Seeds are a random sample too,
    shared by the tasks: one unlucky calibration set may hurt all of them. With one seed their
    spread is unknown and the interval is for this seed only: `covers` says which.

    The variance follows a two-way layout (seeds x items): the variance of the items' means over
    seeds, plus the variance of the seeds' averages, less the residual that both contain; at least 0
    for the seeds.

    Two or three seeds may look alike by luck, and the subtraction then leaves them no variance:
    where seeds move scores by more than the items' noise, simulated tests on three seeds were wrong
    in 5 to 9% of cases at a level of 5%, and in 1 to 3% at .26%. More seeds are the remedy.

    Args:
        scores: per task [seeds, items], the same seeds in each.
        reference: per task [seeds or 1, items] on the same items; seeds are paired, and a single
            run is compared with each.
        weights: of the tasks, see `intervals.average`.

    Raises:
        ValueError: shapes that do not fit.
    """
    tasks = [np.asarray(task, float) for task in scores]
    if not tasks or any(t.ndim != 2 or not t.size or len(t) != len(tasks[0]) for t in tasks):
        raise ValueError(
            "scores must be [seeds, items] per task with the same seeds in each, got "
            f"{[t.shape for t in tasks]}"
        )
    shares = np.full(len(tasks), 1 / len(tasks)) if weights is None else np.asarray(weights, float)
    if reference is None:
        parts = [_score_interval(task) for task in tasks]
    else:
        others = [np.asarray(task, float) for task in reference]
        parts = [paired_difference(*pair) for pair in zip(tasks, others, strict=True)]
        tasks = [first - second for first, second in zip(tasks, others, strict=True)]
    seeds = len(tasks[0])
    furthest = float(np.abs(shares).sum())
    return SeededAverage(
        average(parts, shares.tolist()),
        math.sqrt(_seed_variance(tasks, shares)) if seeds > 1 else 0.0,
        seeds,
        _covers(len(tasks), seeds),
        (0.0 if reference is None else -furthest, furthest),
    )


def _score_interval(scores: Array) -> Estimate:
    means = scores.mean(axis=0).tolist()
    return averaged_proportion(means) if _right_or_wrong(scores) else score_interval(means)


def _right_or_wrong(scores: Array) -> bool:
    """Whether all are 0 or 1."""
    return bool(((scores == 0) | (scores == 1)).all())  # np.isin takes ten times as long


def paired_difference(scores: ArrayLike, reference: ArrayLike) -> Estimate:
    """Mean of scores - reference over the same items, with the 95% interval of these seeds.

    scores: [items] or [seeds, items]; reference: [items] or [seeds or 1, items].

    Raises:
        ValueError: other items or seeds than the reference's, or none.
    """
    first, second = (np.atleast_2d(np.asarray(of, float)) for of in (scores, reference))
    if first.shape[1:] != second.shape[1:] or len(second) not in (1, len(first)) or not first.size:
        raise ValueError(
            "a paired difference needs the same items, and one seed or the same seeds, got "
            f"{first.shape}, {second.shape}"
        )
    differences = (first - second).mean(axis=0).tolist()
    if _right_or_wrong(first) and _right_or_wrong(second):
        return adjusted_difference(differences)
    return mean_interval(differences, (-1.0, 1.0))


def _seed_variance(tasks: Sequence[Array], shares: Array) -> float:
    """Variance of the average over tasks and seeds that comes from the choice of seeds."""
    seeds = len(tasks[0])
    averages = np.stack([task.mean(axis=1) for task in tasks], axis=1) @ shares  # [seeds]
    residual = 0.0
    for task, share in zip(tasks, shares, strict=True):
        left = task - task.mean(axis=0) - task.mean(axis=1, keepdims=True) + task.mean()
        degrees = (seeds - 1) * max(1, task.shape[1] - 1)
        residual += share**2 * float((left**2).sum()) / degrees / task.size
    return max(0.0, float(averages.var(ddof=1)) / seeds - residual)


def _covers(tasks: int, seeds: int) -> str:
    where = "this task" if tasks == 1 else f"these {tasks} tasks"
    if seeds == 1:
        return f"other items of {where}, with the one seed that was run"
    return f"other items of {where} and other seeds ({seeds} were run)"
