"""The result of a probe: arrays, and means and ratios over prompts with 95% intervals.

Every number is a JSON object {value, low, high, n} with what it was made from, prompt by prompt:
`values` of a mean, `above` and `below` of a ratio and of a share removed. A limit is null where
there is none: on both sides with one prompt, on one side where the ratios are unbounded. Prompts
are the random sample; values from the same prompts are paired.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dllmquant_exp.reporting.statistics import mean_interval, ratio_interval

UNBOUNDED = (-math.inf, math.inf)
LIMITS = ("value", "low", "high")


@dataclass(frozen=True, eq=False)
class Measurement:
    """Arrays by name, names of their rows and columns, and the numbers that claims need.

    labels, numbers: JSON-able; numbers as `mean`, `ratio` and `share_removed` make them.
    """

    arrays: Mapping[str, NDArray[Any]]
    labels: Mapping[str, Any]
    numbers: Mapping[str, Any]


def mean(values: ArrayLike) -> dict[str, Any]:
    """Mean of one value per prompt, with Student's t interval."""
    x = np.asarray(values, float).tolist()
    found = mean_interval(x, UNBOUNDED)
    return _number(found.value, found.low, found.high) | {"n": len(x), "values": x}


def ratio(above: ArrayLike, below: ArrayLike) -> dict[str, Any]:
    """Ratio of two means over the same prompts, see reporting/statistics/sign_flip.py.

    The value is null where the mean below is 0.
    """
    a, b = np.asarray(above, float), np.asarray(below, float)
    prompts = {"n": len(a), "above": a.tolist(), "below": b.tolist()}
    if b.mean() == 0:
        return _number(None, *UNBOUNDED) | prompts
    limits = ratio_interval(a, b) if len(a) > 1 else UNBOUNDED
    return _number(a.mean() / b.mean(), *limits) | prompts


def share_removed(left: ArrayLike, before: ArrayLike) -> dict[str, Any]:
    """1 - mean(left) / mean(before): the share of `before` that is gone. `left` stands `above`."""
    found = ratio(left, before)
    value, low, high = (None if found[k] is None else 1 - found[k] for k in LIMITS)
    return found | {"value": value, "low": high, "high": low}


def _number(value: float | None, low: float, high: float) -> dict[str, Any]:
    found = None if value is None else float(value)
    limits = (float(x) if math.isfinite(x) else None for x in (low, high))
    return dict(zip(LIMITS, (found, *limits), strict=True))
