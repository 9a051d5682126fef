"""Intervals of scores, of averages over tasks and of paired differences.

Every interval has 95% nominal coverage and is two-sided:

- a 0/1 metric: Wilson's score interval, which stays honest near 0% and 100%
- the same metric averaged over seeds, item by item: Wilson's with the effective number of items
- a fractional metric (mc2): Student's t
- a paired difference of 0/1 outcomes: Bonett and Price's adjusted Wald interval (2012), which
  keeps its width where two methods agree on every item
- another paired difference: Student's t on the per-item differences
- an average over tasks: the tasks are independent strata, and their distances to the limits add in
  squares (MOVER, Zou and Donner 2008), which keeps the asymmetry of the parts

Quantiles come from scipy.special, since scipy.stats takes longer to import than a report to print.
scipy's own Wilson interval takes whole counts only, and effective counts are not whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
from scipy.special import stdtrit

ALPHA = 0.05  # two-sided


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, all in the unit of the value."""

    value: float
    low: float
    high: float


def z_quantile(alpha: float = ALPHA) -> float:
    """Two-sided quantile of the normal distribution, 1.96 at 5%."""
    return -NormalDist().inv_cdf(alpha / 2)


def t_quantile(degrees: int, alpha: float = ALPHA) -> float:
    """Two-sided quantile of Student's t with `degrees` degrees of freedom."""
    return -float(stdtrit(degrees, alpha / 2))


def wilson(successes: float, n: float) -> Estimate:
    """Wilson's score interval of a proportion; counts may be effective ones and no integers."""
    z, p = z_quantile(), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At 0 and n the limit is exactly 0 and 1; rounding must not put the value outside.
    return Estimate(p, max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)))


def averaged_proportion(means: Sequence[float]) -> Estimate:
    """Interval of 0/1 outcomes from each item's mean over repetitions, such as seeds.

    Wilson's with the number of items whose single outcomes would have the mean's variance: the
    number of items where repetitions agree everywhere, and more where they do not.
    """
    p, n = fmean(means), float(len(means))
    if min(means) < max(means):  # rounding must not give equal means a variance
        n *= p * (1 - p) / float(np.var(means))
    return wilson(p * n, n)


def mean_interval(values: Sequence[float], bounds: tuple[float, float]) -> Estimate:
    """Student's t interval of a mean, cut to `bounds`; a single value has no spread to tell."""
    if not values:
        raise ValueError("an interval needs at least one item")
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean, *bounds)
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, max(bounds[0], mean - half), min(bounds[1], mean + half))


def score_interval(scores: Sequence[float]) -> Estimate:
    """Interval of a task's score from its items' scores; see the module's docstring.

    Raises:
        ValueError: no items, or a score outside [0, 1].
    """
    if not all(0 <= score <= 1 for score in scores):  # refuses NaN too
        raise ValueError(f"scores must lie in [0, 1], got {min(scores)} to {max(scores)}")
    if scores and all(score in (0, 1) for score in scores):
        return wilson(sum(map(int, scores)), len(scores))
    return mean_interval(scores, (0.0, 1.0))


def adjusted_difference(differences: Sequence[float]) -> Estimate:
    """Bonett and Price's interval of a mean of differences between 0/1 outcomes.

    It is Wald's interval after adding one item gained and one lost. In this form it also takes
    differences that were averaged over seeds, item by item.
    """
    n = len(differences) + 2
    centre = math.fsum(differences) / n
    half = z_quantile() * math.sqrt(
        (math.fsum(d * d for d in differences) + 2) / n**2 - centre**2 / n
    )
    value = fmean(differences)
    return Estimate(
        value, max(-1.0, min(centre - half, value)), min(1.0, max(centre + half, value))
    )


def average(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """Mean of independent estimates; see MOVER in the module's docstring.

    weights: one per estimate, negative where it is subtracted; None = equal ones that add up to 1.
    """
    if weights is None:
        weights = [1 / len(estimates)] * len(estimates)
    parts = [_scaled(estimate, weight) for estimate, weight in zip(estimates, weights, strict=True)]
    value = math.fsum(part.value for part in parts)
    below = math.hypot(*(part.value - part.low for part in parts))
    above = math.hypot(*(part.high - part.value for part in parts))
    return Estimate(value, value - below, value + above)


def _scaled(estimate: Estimate, weight: float) -> Estimate:
    low, high = sorted((weight * estimate.low, weight * estimate.high))
    return Estimate(weight * estimate.value, low, high)
