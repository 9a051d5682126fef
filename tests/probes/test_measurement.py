"""Means and ratios over prompts against their closed forms."""

import numpy as np
import pytest

from dllmquant_exp.probes.measurement import mean, ratio, share_removed
from dllmquant_exp.reporting.statistics import ratio_interval


def test_numbers_hold_each_prompts_values_and_the_limits_that_there_are() -> None:
    one = mean([4.0])
    assert one == {"value": 4.0, "low": None, "high": None, "n": 1, "values": [4.0]}
    above, below = np.arange(1.0, 9), np.full(8, 2.0)
    found = ratio(above, below)
    assert (found["low"], found["high"]) == ratio_interval(above, below)
    assert (found["value"], found["n"], found["above"]) == (2.25, 8, above.tolist())
    removed = share_removed(above, 10 * below)
    limits = (removed["low"], removed["value"], removed["high"])
    expected = (1 - found["high"] / 10, 0.775, 1 - found["low"] / 10)
    assert limits == pytest.approx(expected)
    assert ratio([1.0, 2.0], [0.0, 0.0])["value"] is None
    few = ratio([1.0, 2.0], [1.0, 1.0])
    assert (few["low"], few["high"]) == (0.0, None)  # unbounded above
    few = share_removed([1.0, 2.0], [1.0, 1.0])
    assert (few["low"], few["high"]) == (None, 1.0)
