"""Is one method better than another? Paired tests, averages over tasks and seeds, power.

Two methods are compared on the same items, so every test is paired and two-sided.

- one task of 0/1 outcomes: McNemar's exact test
- anything else, and averages over tasks: a sign-flip permutation test, stratified by task
- several comparisons: Holm's correction
- an average over tasks and calibration seeds: `average_over_seeds`, whose interval counts the
  seeds as a random sample, as the tests above do not: they speak of the seeds that were run

Power: the smallest difference that a comparison would find in 80 of 100 repetitions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrik, gammaln, xlog1py, xlogy

from dllmquant_exp.reporting.statistics import (
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
ALPHA = 0.05  # two-sided
POWER = 0.8
ROUNDS = 9999


def mcnemar(gained: int, lost: int) -> float:
    """Exact p-value: under no difference the items that changed are a fair coin's tosses.

    Raises:
        ValueError: a count is negative.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} items gained and {lost} lost are not counts")
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def paired_test(scores: ArrayLike, reference: ArrayLike, seed: int = 0) -> float:
    """p-value of one task: McNemar's for 0/1 outcomes, else the sign-flip test.

    scores, reference: [items], item by item, in [0, 1].

    Raises:
        ValueError: other shapes, or no items.
    """
    first, second = np.asarray(scores, float), np.asarray(reference, float)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"a paired test needs the same items, got {first.shape}, {second.shape}")
    if np.isin((first, second), (0, 1)).all():
        return mcnemar(int((first > second).sum()), int((first < second).sum()))
    return stratified_test([first - second], seed)


def stratified_test(differences: Sequence[ArrayLike], seed: int = 0) -> float:
    """p-value of an unweighted average over tasks by flipping the signs of items' differences.

    Under no difference either method could have had either score of an item; tasks are strata of
    equal weight whatever their size. Monte Carlo with 9,999 rounds: p is at least 0.0001.

    differences: per task [items], the score minus the reference's, averaged over seeds if several.

    Raises:
        ValueError: no task, or a task without items.
    """
    tasks = [np.asarray(task, float) for task in differences]
    if not tasks or any(task.ndim != 1 or not task.size for task in tasks):
        raise ValueError("the test needs at least one task, and items in each")
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

    Raises:
        ValueError: not a probability.
    """
    p = np.asarray(p_values, float)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p-values lie between 0 and 1, got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)).clip(max=1)
    return [float(value) for value in adjusted]


def p_beyond(estimate: Estimate, threshold: float, *, ratio: bool = False) -> float:
    """Two-sided p-value of "the effect is the threshold" that belongs to the 95% interval.

    The confidence at which the interval, its side towards the threshold scaled like a normal
    distribution's (of the logarithm of a ratio), would just reach it: below 5% exactly where the
    95% interval excludes it.
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    if ratio and low > 0:
        value, low, high, threshold = (math.log(x) for x in (value, low, high, threshold))
    if value == threshold:
        return 1.0
    margin = value - low if value > threshold else high - value
    if margin == 0:
        return 0.0
    return 2 * NormalDist().cdf(-z_quantile() * abs(value - threshold) / margin)


@dataclass(frozen=True)
class SeededAverage:
    """An average over tasks, or an average difference, with what its interval covers."""

    estimate: Estimate
    standard_error: float
    seeds: int
    covers: str

    @property
    def detectable(self) -> float:
        """The true difference that such an interval would tell from 0 in 80 of 100 repetitions."""
        return self.estimate.half_width + NormalDist().inv_cdf(POWER) * self.standard_error


def average_over_seeds(
    scores: Sequence[ArrayLike], reference: Sequence[ArrayLike] | None = None
) -> SeededAverage:
    """Average over tasks, or average difference from a reference, with items and seeds at random.

    The tasks are fixed. Items are a random sample of their task; calibration seeds are a random
    sample too, shared by the tasks, so that one unlucky calibration set may hurt all of them. With
    one seed their spread is unknown and the interval is for this seed only: `covers` says which.

    The variance of a two-way layout (seeds x items): that of the items' means over seeds, plus that
    of the seeds' averages, less the residual that both contain; at least 0 for the seeds. The
    distances to the limits then add in squares as in `statistics.average`, the seeds' part with
    Student's t on seeds - 1 degrees.

    Args:
        scores: per task [seeds, items], the same seeds in each.
        reference: per task [seeds or 1, items] on the same items; seeds are paired, and a single
            run (full precision has no seed) is compared with each.

    Raises:
        ValueError: shapes that do not fit.
    """
    tasks = [np.asarray(task, float) for task in scores]
    if not tasks or any(t.ndim != 2 or not t.size or len(t) != len(tasks[0]) for t in tasks):
        raise ValueError(
            "scores must be [seeds, items] per task with the same seeds in each, got "
            f"{[t.shape for t in tasks]}"
        )
    if reference is None:
        parts = [_score_interval(task) for task in tasks]
    else:
        pairs = _pairs(tasks, [np.asarray(task, float) for task in reference])
        parts = [_difference_interval(*pair) for pair in pairs]
        tasks = [first - second for first, second in pairs]
    seeds = len(tasks[0])
    items = average(parts)
    seed_variance = _seed_variance(tasks) if seeds > 1 else 0.0
    seed_margin = t_quantile(seeds - 1) * math.sqrt(seed_variance) if seeds > 1 else 0.0
    low = items.value - math.hypot(items.value - items.low, seed_margin)
    high = items.value + math.hypot(items.high - items.value, seed_margin)
    bounds = (0.0, 1.0) if reference is None else (-1.0, 1.0)
    return SeededAverage(
        Estimate(items.value, max(bounds[0], low), min(bounds[1], high)),
        math.hypot(items.half_width / z_quantile(), math.sqrt(seed_variance)),
        seeds,
        _covers(len(tasks), seeds),
    )


def _pairs(tasks: Sequence[Array], reference: Sequence[Array]) -> list[tuple[Array, Array]]:
    fits = len(tasks) == len(reference) and all(
        b.ndim == 2 and len(b) in (1, len(a)) and a.shape[1] == b.shape[1]
        for a, b in zip(tasks, reference, strict=True)
    )
    if not fits:
        raise ValueError(
            "the reference must be [seeds or 1, items] per task on the same items, got "
            f"{[b.shape for b in reference]} for {[a.shape for a in tasks]}"
        )
    return list(zip(tasks, reference, strict=True))


def _score_interval(scores: Array) -> Estimate:
    means = scores.mean(axis=0).tolist()
    return averaged_proportion(means) if np.isin(scores, (0, 1)).all() else score_interval(means)


def _difference_interval(scores: Array, reference: Array) -> Estimate:
    differences = (scores - reference).mean(axis=0).tolist()
    if np.isin(scores, (0, 1)).all() and np.isin(reference, (0, 1)).all():
        return adjusted_difference(differences)
    return mean_interval(differences, (-1.0, 1.0))


def _seed_variance(tasks: Sequence[Array]) -> float:
    """Variance of the average over tasks and seeds that comes from the choice of seeds."""
    seeds = len(tasks[0])
    averages = np.mean([task.mean(axis=1) for task in tasks], axis=0)  # [seeds]
    residual = 0.0
    for task in tasks:
        left = task - task.mean(axis=0) - task.mean(axis=1, keepdims=True) + task.mean()
        degrees = (seeds - 1) * max(1, task.shape[1] - 1)
        residual += float((left**2).sum()) / degrees / task.size / len(tasks) ** 2
    return max(0.0, float(averages.var(ddof=1)) / seeds - residual)


def _covers(tasks: int, seeds: int) -> str:
    where = "this task" if tasks == 1 else f"these {tasks} tasks"
    if seeds == 1:
        return f"other items of {where}, with the one calibration seed that was run"
    return f"other items of {where} and other calibration seeds ({seeds} were run)"


def mcnemar_power(n: int, discordance: float, difference: float) -> float:
    """Chance that McNemar's exact test finds a true difference at 5%, two-sided.

    Args:
        n: items.
        discordance: share of items on which the two methods differ; at least `difference`.
        difference: of the two methods' accuracies, in [0, 1].

    Raises:
        ValueError: no items, or a difference above the discordance.
    """
    if n < 1 or not 0 <= difference <= discordance <= 1:
        raise ValueError(
            f"n = {n}, discordance = {discordance}, difference = {difference}: needs items, and a "
            "difference of at most the discordance"
        )
    if discordance == 0:
        return 0.0
    spread = 9 * math.sqrt(n * discordance * (1 - discordance)) + 9
    changed = np.arange(
        max(1, math.floor(n * discordance - spread)),
        min(n, math.ceil(n * discordance + spread)) + 1,
    )
    choose = gammaln(n + 1) - gammaln(changed + 1) - gammaln(n - changed + 1)
    chance = np.exp(choose + xlogy(changed, discordance) + xlog1py(n - changed, -discordance))
    gain = (1 + difference / discordance) / 2  # chance that a changed item is a gained one
    edge = _rejection_edge(changed)
    found = bdtr(np.maximum(edge, 0), changed, gain) + bdtr(np.maximum(edge, 0), changed, 1 - gain)
    return float((chance * np.where(edge >= 0, found, 0)).sum())


def _rejection_edge(changed: NDArray[np.int_]) -> Array:
    """The largest count on the smaller side that McNemar's test rejects; -1 where it never does."""
    edge = np.floor(np.maximum(bdtrik(ALPHA / 2, changed, 0.5), 0))
    return np.where(bdtr(edge, changed, 0.5) <= ALPHA / 2, edge, edge - 1)


def detectable_difference(n: int, discordance: float) -> float:
    """Smallest true difference that McNemar's exact test finds with 80% power, two-sided 5%.

    `discordance` is the observed share of items on which the methods differ. A difference above it
    raises it: every change then goes one way. Infinite where n items can show no difference.
    """
    if mcnemar_power(n, 1.0, 1.0) < POWER:
        return math.inf
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        if mcnemar_power(n, max(discordance, middle), middle) < POWER:
            low = middle
        else:
            high = middle
    return high
