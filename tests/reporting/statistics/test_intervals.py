"""Intervals against scipy, published examples, and their coverage in simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dllmquant_exp.reporting.statistics.intervals import (
    Estimate,
    adjusted_difference,
    average,
    averaged_proportion,
    mean_interval,
    score_interval,
    t_quantile,
    wilson,
    z_quantile,
)
from dllmquant_exp.reporting.statistics.paired import paired_difference


@pytest.mark.parametrize(("degrees", "alpha"), [(1, 0.05), (4, 0.01), (7, 0.5), (120, 0.0026)])
def test_quantiles_are_scipys(degrees: int, alpha: float) -> None:
    assert t_quantile(degrees, alpha) == pytest.approx(stats.t.isf(alpha / 2, degrees))
    assert z_quantile(alpha) == pytest.approx(stats.norm.isf(alpha / 2))


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (7, 10), (250, 500), (1, 1319)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    estimate = wilson(successes, n)
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert estimate.value == successes / n


def test_repetitions_that_agree_add_no_items_and_independent_ones_do() -> None:
    outcomes = np.array([0.0] * 90 + [1.0] * 60)
    assert averaged_proportion(outcomes.tolist()).low == pytest.approx(wilson(60, 150).low)
    assert averaged_proportion([0.0] * 150) == wilson(0, 150)
    assert averaged_proportion([1.0] * 150) == wilson(150, 150)
    one_of_450 = averaged_proportion([1 / 3] + [0.0] * 149)
    assert one_of_450.high == pytest.approx(wilson(1, 450).high, rel=0.01)


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.95])
@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
def test_averaged_proportions_cover(rate: float, agreement: float) -> None:
    """Three repetitions of 150 items, each like its first one with a chance of `agreement`."""
    dice = np.random.default_rng(0)
    draws = dice.random((2000, 3, 150)) < rate
    copied = dice.random(draws.shape) < agreement
    outcomes = np.where(copied, draws[:, :1], draws)
    found = [averaged_proportion(means.tolist()) for means in outcomes.mean(axis=1)]
    covered = np.mean([estimate.low <= rate <= estimate.high for estimate in found])
    assert 0.925 < covered < 0.985  # Student's t: .81 to .95


def test_a_mean_of_fractions_gets_students_interval() -> None:
    values = [0.1, 0.25, 0.7, 0.3, 0.45]
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    estimate = score_interval(values)
    assert (estimate.low, estimate.high) == pytest.approx(expected, abs=1e-12)


def test_one_fractional_item_says_nothing() -> None:
    assert score_interval([0.4]) == Estimate(0.4, 0.0, 1.0)


def test_intervals_stay_inside_their_bounds() -> None:
    estimate = mean_interval([0.9, 0.95, 1.0, 0.2], (0.0, 1.0))
    assert estimate.high == 1.0
    assert estimate.low > 0


def test_a_paired_difference_of_outcomes_is_bonett_and_prices() -> None:
    """Table of 25: both right 9, only first 3, only second 11, both wrong 2."""
    first = [1.0] * 9 + [1.0] * 3 + [0.0] * 11 + [0.0] * 2
    second = [1.0] * 9 + [0.0] * 3 + [1.0] * 11 + [0.0] * 2
    estimate = paired_difference(first, second)
    p12, p21 = 4 / 27, 12 / 27  # (count + 1) / (n + 2)
    half = 1.959964 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / 27)
    assert estimate.value == pytest.approx(-8 / 25)
    assert (estimate.low, estimate.high) == pytest.approx(
        (-8 / 27 - half, -8 / 27 + half), abs=1e-6
    )


def test_differences_averaged_over_seeds_get_the_same_pseudo_items() -> None:
    """One item gained in two of three seeds, one lost in one: Wald's interval with +1 and -1."""
    differences = [2 / 3, -1 / 3, 0.0, 0.0, 0.0, 0.0]
    padded = np.array([*differences, 1.0, -1.0])
    half = 1.959964 * padded.std() / math.sqrt(8)
    estimate = adjusted_difference(differences)
    assert estimate.value == pytest.approx(1 / 18)
    assert (estimate.low, estimate.high) == pytest.approx(
        (padded.mean() - half, padded.mean() + half), abs=1e-6
    )


def test_agreeing_everywhere_is_not_certainty() -> None:
    estimate = paired_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert estimate.value == 0
    assert estimate.low < -0.1 < 0.1 < estimate.high


def test_a_paired_difference_of_fractions_is_the_paired_t_test() -> None:
    first, second = [0.2, 0.5, 0.9, 0.4], [0.1, 0.55, 0.6, 0.35]
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    estimate = paired_difference(first, second)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_a_paired_difference_turns_its_sign_with_its_sides(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.low <= there.value <= there.high
    assert (there.value, there.low, there.high) == pytest.approx(
        (-back.value, -back.high, -back.low), abs=1e-12
    )


def test_a_paired_difference_needs_pairs() -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_difference([1.0], [1.0, 0.0])


def test_the_average_of_symmetric_intervals_adds_in_squares() -> None:
    mean = average([Estimate(0.5, 0.4, 0.6), Estimate(0.7, 0.5, 0.9)])
    half = math.hypot(0.1, 0.2) / 2
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half))


def test_what_is_taken_off_turns_its_limits() -> None:
    found = average([Estimate(0.5, 0.4, 0.8), Estimate(0.7, 0.5, 0.75)], [1, -0.5])
    below, above = math.hypot(0.1, 0.025), math.hypot(0.3, 0.1)
    assert (found.value, found.low, found.high) == pytest.approx((0.15, 0.15 - below, 0.15 + above))


@pytest.mark.parametrize("rates", [(0.5, 0.9, 0.97), (0.02, 0.5, 0.25)])
def test_the_average_covers_the_truth_95_times_of_100(rates: tuple[float, ...]) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        mean = average([wilson(int(generator.binomial(100, rate)), 100) for rate in rates])
        covered += mean.low <= np.mean(rates) <= mean.high
    assert 0.935 <= covered / 1000 <= 0.975


@pytest.mark.parametrize(
    ("lost", "gained", "at_least"),
    [(0.15, 0.3, 0.94), (0.5, 0.25, 0.94), (0.15, 0.0, 0.92)],
    ids=["mild", "harsh", "one-sided, where the interval is known to lean towards zero"],
)
def test_the_paired_difference_covers_the_truth(
    lost: float, gained: float, at_least: float
) -> None:
    """`lost` of what the reference gets right is lost, `gained` of the rest is won."""
    generator = np.random.default_rng(2)
    covered, rounds, truth = 0, 1000, 0.2 * gained - 0.8 * lost
    for _ in range(rounds):
        first = generator.random(60) < 0.8
        change = generator.random(60)
        second = np.where(first, change >= lost, change < gained)
        estimate = paired_difference([float(x) for x in second], [float(x) for x in first])
        covered += estimate.low <= truth <= estimate.high
    assert at_least <= covered / rounds <= 0.985


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, 1.5])
def test_what_is_no_score_has_no_interval(wrong: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        score_interval([1.0, wrong, 0.0])
