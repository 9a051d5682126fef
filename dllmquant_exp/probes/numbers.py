"""What a figure's measurements say in numbers: means and ratios over prompts with 95% intervals.

Every number is a JSON object {value, low, high, n} with what it was made from, prompt by prompt:
`values` of a mean, `above` and `below` of a ratio and of a share removed. A limit is null where
there is none: on both sides of one prompt, on one side where the ratios are unbounded. Prompts are
the random sample; whatever was measured on the same ones is paired.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dllmquant_exp.reporting.statistics import mean_interval, ratio_interval

UNBOUNDED = (-math.inf, math.inf)


def mean(values: ArrayLike) -> dict[str, Any]:
    """Mean of one value per prompt, with Student's t interval."""
    x = np.asarray(values, float).tolist()
    found = mean_interval(x, UNBOUNDED)
    return _number(found.value, found.low, found.high) | {"n": len(x), "values": x}


def ratio(above: ArrayLike, below: ArrayLike) -> dict[str, Any]:
    """Ratio of two means over the same prompts: by flipping signs, see reporting/sign_flip.py.

    The value is null where the mean below is 0.
    """
    a, b = np.asarray(above, float), np.asarray(below, float)
    prompts = {"n": len(a), "above": a.tolist(), "below": b.tolist()}
    if b.mean() == 0:
        return _number(None, *UNBOUNDED) | prompts
    limits = ratio_interval(a, b) if len(a) > 1 else UNBOUNDED
    return _number(a.mean() / b.mean(), *limits) | prompts


def share_removed(left: ArrayLike, before: ArrayLike) -> dict[str, Any]:
    """1 - mean(left) / mean(before): which share of `before` is gone. `left` stands `above`."""
    found = ratio(left, before)
    value, low, high = (None if found[k] is None else 1 - found[k] for k in _LIMITS)
    return found | {"value": value, "low": high, "high": low}


_LIMITS = ("value", "low", "high")


def _number(value: float | None, low: float, high: float) -> dict[str, Any]:
    found = None if value is None else float(value)
    limits = (float(x) if math.isfinite(x) else None for x in (low, high))
    return dict(zip(_LIMITS, (found, *limits), strict=True))
