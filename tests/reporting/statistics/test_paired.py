"""Tests and power against scipy, enumeration and printed examples; coverage by simulation."""

import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from dllmquant_exp.reporting.statistics.intervals import Estimate, average, score_interval
from dllmquant_exp.reporting.statistics.paired import (
    SeededAverage,
    average_over_seeds,
    holm,
    mcnemar,
    paired_difference,
    paired_test,
    stratified_test,
)

# --- one task --------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test_of_the_changed_items(gained: int, lost: int) -> None:
    changed = gained + lost
    expected = stats.binomtest(gained, changed).pvalue if changed else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_outcomes_get_mcnemar_and_fractions_get_sign_flips() -> None:
    first, second = np.array([1, 1, 1, 0, 1, 1, 0.0]), np.array([0, 0, 1, 0, 0, 1, 1.0])
    assert paired_test(first, second) == mcnemar(3, 1)
    fractions = 0.75 * first + 0.25 * second
    assert paired_test(fractions, second) == stratified_test([fractions - second])


# --- averages over tasks ---------------------------------------------------------------------


def exact_stratified_test(tasks: list[list[float]]) -> float:
    """Every assignment of signs, counted."""
    observed = abs(sum(np.mean(task) for task in tasks))
    signs = itertools.product((-1, 1), repeat=sum(map(len, tasks)))
    extreme = count = 0
    for flips in signs:
        total, left = 0.0, list(flips)
        for task in tasks:
            total += sum(left.pop() * d for d in task) / len(task)
        extreme += abs(total) >= observed - 1e-9
        count += 1
    return extreme / count


@pytest.mark.parametrize(
    "tasks",
    [
        [[1, 1, 0, -1, 1, 1], [1, 0, 1, 0]],
        [[0.3, -0.2, 0.5, 0.3], [1.0, -1.0, 1.0], [2 / 3, 1 / 3, 1 / 3]],
        [[1, 1, 1, 1, 1, 1, 1, 1, 1]],
    ],
    ids=["outcomes", "fractions and seeds", "one task"],
)
def test_sign_flips_agree_with_enumeration(tasks: list[list[float]]) -> None:
    exact = exact_stratified_test(tasks)
    error = 4 * math.sqrt(exact * (1 - exact) / 9999) + 2e-4
    assert stratified_test(tasks, seed=3) == pytest.approx(exact, abs=error)


def test_tasks_count_alike_whatever_their_size() -> None:
    """Nine of ten items of a small task outweigh one of a hundred of a large one."""
    small, large = [1.0] * 9 + [0.0], [-1.0] * 5 + [0.0] * 95
    assert stratified_test([small, large]) < 0.01
    assert stratified_test([[*small, *large]]) > 0.2


# --- many comparisons ------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferronis(p: list[float]) -> None:
    """A hypothesis falls when every set of hypotheses that holds it does, each by Bonferroni."""
    every = [
        set(chosen)
        for size in range(1, len(p) + 1)
        for chosen in itertools.combinations(range(len(p)), size)
    ]
    expected = [
        max(min(1.0, len(one) * min(p[j] for j in one)) for one in every if i in one)
        for i in range(len(p))
    ]
    assert holm(p) == pytest.approx(expected)


# --- averages over tasks and seeds -----------------------------------------------------------


def outcomes(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return (generator.random(shape) < 0.7).astype(float)


def test_one_seed_is_the_average_of_the_tasks_intervals() -> None:
    generator = np.random.default_rng(7)
    scores = [outcomes(generator, 1, n) for n in (40, 25)]
    reference = [outcomes(generator, 1, n) for n in (40, 25)]
    alone, against = average_over_seeds(scores), average_over_seeds(scores, reference)
    of_tasks = average([score_interval(s[0].tolist()) for s in scores])
    assert astuple(alone.estimate) == pytest.approx(astuple(of_tasks), abs=1e-12)
    pairs = zip(scores, reference, strict=True)
    expected = average([paired_difference(a[0].tolist(), b[0].tolist()) for a, b in pairs])
    assert against.estimate == expected
    assert against.covers == "other items of these 2 tasks, with the one seed that was run"


def test_seeds_that_change_nothing_widen_nothing() -> None:
    generator = np.random.default_rng(8)
    scores = [outcomes(generator, 1, n) for n in (40, 25)]
    reference = [outcomes(generator, 1, n) for n in (40, 25)]
    once = average_over_seeds(scores, reference)
    thrice = average_over_seeds([np.repeat(s, 3, axis=0) for s in scores], reference)
    assert (thrice.estimate.low, thrice.estimate.high) == pytest.approx(
        (once.estimate.low, once.estimate.high)
    )
    assert thrice.covers == "other items of these 2 tasks and other seeds (3 were run)"


def test_a_seed_that_hurts_every_task_widens_the_average() -> None:
    """Fractions without any other noise: the seeds' averages alone, by Student's t."""
    seeds = np.array([-0.1, 0.0, 0.1])
    scores = [0.5 + seeds[:, None] * np.ones((3, n)) for n in (4, 9)]
    found = average_over_seeds(scores)
    expected = stats.t.interval(0.95, 2, loc=0.5, scale=stats.sem(seeds))
    assert (found.estimate.low, found.estimate.high) == pytest.approx(expected)
    assert found.seed_error == pytest.approx(stats.sem(seeds))


def latent_scores(
    generator: np.random.Generator, seed_spread: float, shift: float, seeds: int = 3
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """0/1 outcomes: an item's ease, a seed's luck (the same in every task) and noise."""
    luck = generator.normal(0, seed_spread, seeds)
    scores, reference = [], []
    for n in (50, 80):
        ease = generator.normal(0, 1, n)
        noise = generator.normal(0, 0.6, (seeds + 1, n))
        reference.append((ease + noise[:1] > -0.6).astype(float))
        scores.append((ease + noise[1:] + luck[:, None] > -0.6 + shift).astype(float))
    return scores, reference


def true_difference(seed_spread: float, shift: float) -> float:
    """Of `latent_scores`, over all items and seeds."""
    spread = math.hypot(1, 0.6)
    better = stats.norm.sf((shift - 0.6) / math.hypot(spread, seed_spread))
    return float(better - stats.norm.sf(-0.6 / spread))


SPREADS = pytest.mark.parametrize("seed_spread", [0.0, 0.1, 0.4], ids=["no luck", "some", "much"])


@SPREADS
def test_interval_and_p_cover_new_items_and_new_seeds(seed_spread: float) -> None:
    generator = np.random.default_rng(9)
    truth = true_difference(seed_spread, 0.3)
    covered, p_values, rounds = 0, [], 1500
    for _ in range(rounds):
        found = average_over_seeds(*latent_scores(generator, seed_spread, 0.3))
        covered += found.estimate.low <= truth <= found.estimate.high
        p_values.append(found.p_beyond(truth))
    assert 0.935 <= covered / rounds <= 0.99
    # Far out, where corrected tests decide; a normal tail would say p < .002 in 2 of 100.
    for alpha in (0.05, 0.01, 0.002):
        assert np.mean(np.array(p_values) < alpha) <= 1.3 * alpha + 0.006


def test_three_seeds_that_vary_much_are_too_sure() -> None:
    """A limit that is known, see `average_over_seeds`: false alarms where each row's luck is large
    and rows are equally good. Five seeds have fewer."""

    def alarms(seeds: int) -> list[float]:
        generator, p_values = np.random.default_rng(11), []
        for _ in range(1200):
            ease, shared = generator.normal(0, 1, 150), generator.normal(0, 0.2, (seeds, 1))
            first, second = (
                ease + shared + generator.normal(0, 0.2, (seeds, 1))
                + generator.normal(0, 0.5, (seeds, 150)) > -0.6
                for _ in range(2)
            )  # fmt: skip
            found = average_over_seeds([first.astype(float)], [second.astype(float)])
            p_values.append(found.p_beyond(0.0))
        return [float(np.mean(np.array(p_values) < level)) for level in (0.05, 0.0026)]

    often, far_out = alarms(3)
    assert 0.05 < often < 0.1 and 0.01 < far_out < 0.045
    assert alarms(5)[1] < far_out / 1.5


@SPREADS
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_the_detectable_difference_is_found_80_times_of_100(
    seed_spread: float, alpha: float
) -> None:
    """A true difference of the size that is named is told from 0 at about that rate. Few seeds
    vary much in the spread that they show, and the average of what they name is then high."""
    generator = np.random.default_rng(10)
    made = [average_over_seeds(*latent_scores(generator, seed_spread, 0.3, 6)) for _ in range(200)]
    named = float(np.mean([found.detectable(alpha) for found in made]))
    shift = optimize.brentq(lambda s: true_difference(seed_spread, s) + named, 0, 5)
    found, rounds = 0, 400
    for _ in range(rounds):
        of = average_over_seeds(*latent_scores(generator, seed_spread, shift, 6))
        found += of.p_beyond(0.0) < alpha
    assert 0.65 <= found / rounds <= 0.95


@pytest.mark.parametrize("threshold", [0.0, 0.02, -0.05, 0.3, 9.0])
def test_p_is_the_normal_one_without_seeds(threshold: float) -> None:
    z = stats.norm.ppf(0.975)
    found = SeededAverage(Estimate(0.03, 0.03 - z * 0.01, 0.03 + z * 0.02))
    error = 0.01 if threshold < 0.03 else 0.02  # the side towards the threshold
    expected = 2 * stats.norm.sf(abs(0.03 - threshold) / error)
    assert found.p_beyond(threshold) == pytest.approx(max(expected, 1e-12))


def test_p_is_students_where_seeds_alone_vary() -> None:
    runs = np.array([0.3, 0.32, 0.36, 0.31])
    found = SeededAverage(Estimate(*[float(runs.mean())] * 3), float(stats.sem(runs)), len(runs))
    for threshold in (0.2, 0.3, 0.5):
        expected = stats.ttest_1samp(runs, threshold).pvalue
        assert found.p_beyond(threshold) == pytest.approx(expected)


@settings(deadline=None)
@given(st.floats(0, 0.05), st.floats(0.001, 0.05), st.floats(0.001, 0.05), st.integers(2, 8))
def test_p_at_a_limit_is_5_of_100(error: float, below: float, above: float, seeds: int) -> None:
    found = SeededAverage(Estimate(0.1, 0.1 - below, 0.1 + above), error, seeds)
    for limit in (found.estimate.low, found.estimate.high):
        assert found.p_beyond(limit) == pytest.approx(0.05, rel=1e-4)


def test_p_without_a_distance_or_without_a_margin() -> None:
    flat = SeededAverage(Estimate(0.1, 0.1, 0.1))
    assert flat.p_beyond(0.1) == 1 and flat.p_beyond(0.0) == pytest.approx(1e-12)


def test_a_weight_below_0_takes_a_task_off() -> None:
    """Seeds that move two tasks alike leave their difference alone."""
    luck = np.array([-0.2, 0.0, 0.2])[:, None]
    first, second = 0.5 + luck * np.ones((3, 40)), 0.4 + luck * np.ones((3, 50))
    noise = np.random.default_rng(12).normal(0, 0.02, 50)
    found = average_over_seeds([first, second + noise], weights=[1, -1])
    half = stats.t.ppf(0.975, 49) * stats.sem(noise)
    value = 0.1 - noise.mean()
    assert (found.value, found.estimate.low, found.estimate.high) == pytest.approx(
        (value, value - half, value + half)
    )
    assert average_over_seeds([first, second + noise]).seed_error > 0.1


def test_shapes_that_do_not_fit_are_refused() -> None:
    for bad in ([], [np.ones(3)], [np.ones((2, 3)), np.ones((3, 3))], [np.ones((2, 0))]):
        with pytest.raises(ValueError, match=r"\[seeds, items\] per task"):
            average_over_seeds(bad)
    for bad in ([], [np.ones((2, 4))], [np.ones((3, 5))], [np.ones((1, 4))]):
        with pytest.raises(ValueError, match=r"the same items|shorter"):
            average_over_seeds([np.ones((2, 5))], bad)
