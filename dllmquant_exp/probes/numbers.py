"""What a figure's measurements say in numbers: means and ratios over prompts with 95% intervals.

Every number is a JSON object {value, low, high, n}; the limits are null where one prompt was
measured. Prompts are the random sample; whatever was measured on the same ones is paired.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dllmquant_exp.reporting.statistics import mean_interval

ROUNDS = 2000
UNBOUNDED = (-math.inf, math.inf)


def mean(values: ArrayLike) -> dict[str, Any]:
    """Mean of one value per prompt, with Student's t interval."""
    x = np.asarray(values, float)
    found = mean_interval(x.tolist(), UNBOUNDED)
    return _number(found.value, found.low, found.high, len(x))


def ratio(above: ArrayLike, below: ArrayLike) -> dict[str, Any]:
    """Ratio of two means over the same prompts: percentile bootstrap over prompts.

    The value is null where the mean below is 0.
    """
    a, b = np.asarray(above, float), np.asarray(below, float)
    if b.mean() == 0:
        return _number(None, math.nan, math.nan, len(a))
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, len(a), (ROUNDS, len(a)))
    low, high = math.nan, math.nan
    below_means = b[chosen].mean(1)
    if len(a) > 1 and (below_means != 0).all():
        low, high = np.quantile(a[chosen].mean(1) / below_means, (0.025, 0.975))
    return _number(a.mean() / b.mean(), low, high, len(a))


def share_removed(left: ArrayLike, before: ArrayLike) -> dict[str, Any]:
    """1 - mean(left) / mean(before): which share of `before` is gone."""
    found = ratio(left, before)
    value, low, high = (None if x is None else 1 - x for x in (found[k] for k in _LIMITS))
    return {"value": value, "low": high, "high": low, "n": found["n"]}


_LIMITS = ("value", "low", "high")


def _number(value: float | None, low: float, high: float, n: int) -> dict[str, Any]:
    known = math.isfinite(low) and math.isfinite(high)
    return {
        "value": None if value is None else float(value),
        "low": float(low) if known else None,
        "high": float(high) if known else None,
        "n": n,
    }
