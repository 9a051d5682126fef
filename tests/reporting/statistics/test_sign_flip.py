"""The sign-flip test and its interval: brute force, scipy, simulated level and coverage."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import permutation_test

from dllmquant_exp.reporting.statistics.sign_flip import ROUNDS, ratio_interval, ratio_test

Array = NDArray[np.float64]


def p_value(differences: Array) -> float:
    """p of "their mean is 0", by the test of a ratio to ones."""
    test = ratio_test(differences, np.ones(len(differences)))
    return float(1 - (test.lower > 1e-12).mean() - (test.upper < -1e-12).mean())


def brute_force(differences: Array) -> float:
    """Every sign pattern, one after the other."""
    observed = abs(math.fsum(differences))
    sums = [
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return sum(x >= observed - 1e-9 for x in sums) / len(sums)


def rare_events(generator: np.random.Generator, n: int, mean: float) -> Array:
    """Shares of 32 tokens that changed: most prompts have none."""
    return generator.poisson(mean, n) / 32


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_exact_p_is_that_of_all_sign_patterns(n: int) -> None:
    generator = np.random.default_rng(n)
    for values in (generator.normal(0.5, 1, n), generator.integers(-2, 3, n).astype(float)):
        assert p_value(values) == pytest.approx(brute_force(values), abs=1e-12)


def test_monte_carlo_is_near_scipys_and_the_same_each_time() -> None:
    values = np.random.default_rng(3).normal(0.25, 1, 64)
    theirs = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=99_999, rng=5, vectorized=True
    )
    spread = math.sqrt(theirs.pvalue * (1 - theirs.pvalue) / ROUNDS)
    assert 0.01 < theirs.pvalue < 0.2
    assert abs(p_value(values) - theirs.pvalue) < 5 * spread
    assert p_value(values) == p_value(values)
    assert p_value(np.ones(64)) == pytest.approx(1 / (ROUNDS + 1))


@pytest.mark.parametrize("n", [6, 8, 12])
def test_p_is_never_below_what_so_many_pairs_can_show(n: int) -> None:
    assert p_value(np.ones(n)) == 2.0 ** (1 - n)
    assert p_value(np.zeros(n)) == 1


def test_no_event_above_is_not_certainty() -> None:
    """Eight prompts, of which two show nothing on either side: the smallest p of six."""
    below = np.array([3, 0, 1, 2, 0, 1, 4, 2]) / 32
    assert p_value(np.zeros(8) - below) == pytest.approx(2.0**-5)
    low, high = ratio_interval(np.zeros(8), below)
    assert low == high == 0  # no threshold above 0 has fewer extreme patterns than 2 of 64
    few = below[[0, 1, 2, 3, 4, 5]]
    assert ratio_interval(np.zeros(6), few) == (0, math.inf)  # four prompts with events


@pytest.mark.parametrize("n", [8, 40])
def test_interval_and_p_never_contradict(n: int) -> None:
    """Just outside of either limit p is below 5%, at it and inside it is not."""
    for seed in range(8):
        generator = np.random.default_rng(seed)
        below = generator.gamma(2, 1, n)
        above = rare_events(generator, n, 1) if seed % 2 else below * generator.gamma(2, 1, n)
        low, high = ratio_interval(above, below)
        assert low <= above.sum() / below.sum() <= high
        width = high - low
        for inside in (low, high, low + 0.01 * width, high - 0.01 * width):
            assert p_value(above - inside * below) >= 0.05
        for outside in (low - 1e-6 * width, high + 1e-6 * width):
            if outside > 0:  # a lower limit of 0 is where ratios end
                assert p_value(above - outside * below) < 0.05


def test_interval_is_that_of_a_bisection_over_brute_force() -> None:
    generator = np.random.default_rng(2)
    below = generator.gamma(2, 1, 8)
    above = 0.5 * below + generator.gamma(1, 0.3, 8)
    ratio = above.sum() / below.sum()
    limits = []
    for outside in (0.0, 10 * ratio):
        accepted, rejected = ratio, outside
        for _ in range(40):
            middle = (accepted + rejected) / 2
            if brute_force(above - middle * below) < 0.05:
                rejected = middle
            else:
                accepted = middle
        limits.append(accepted)
    assert ratio_interval(above, below) == pytest.approx(tuple(limits), rel=1e-6)


def test_limits_that_few_pairs_cannot_give_are_infinite() -> None:
    above, below = np.array([1.0, 2, 3, 4, 5]), np.ones(5)
    assert ratio_interval(above, below) == (0, math.inf)
    assert ratio_interval(-above, below) == (-math.inf, math.inf)
    assert math.isfinite(ratio_interval(np.arange(1.0, 7), np.ones(6))[1])


@pytest.mark.parametrize(("n", "mean"), [(8, 0.3), (8, 2.0), (12, 0.1), (30, 0.3)])
def test_level_and_coverage_with_rare_events(n: int, mean: float) -> None:
    """Both sides alike: in at most 5% of repetitions p < 5%, and the interval holds 1 in 95%."""
    generator = np.random.default_rng(n)
    repetitions, rejected, covered, without = 200, 0, 0, 0
    for _ in range(repetitions):
        above, below = (rare_events(generator, n, mean) for _ in range(2))
        rejected += p_value(above - below) < 0.05
        if below.any():
            low, high = ratio_interval(above, below)
            covered += low <= 1 <= high
            without += not above.any()
        else:  # no interval; nothing is claimed
            covered += 1
    slack = 4 * math.sqrt(0.05 * 0.95 / repetitions)
    assert rejected / repetitions < 0.05 + slack
    assert covered / repetitions > 0.95 - slack
    assert n > 8 or mean > 1 or without > 5  # the case that this is about did come up


def test_what_is_no_pair_is_refused() -> None:
    for values in ([], [math.nan, 1], [[1.0]]):
        with pytest.raises(ValueError, match="finite"):
            ratio_interval(values, [1])
    for above, below in (([1, 2], [1]), ([1, 2], [0, 0]), ([1, 2], [1, -1])):
        with pytest.raises(ValueError, match="at least 0"):
            ratio_interval(above, below)
