"""Tests and power against scipy, enumeration and printed examples; coverage by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dllmquant_exp.reporting.comparisons import (
    average_over_seeds,
    detectable_difference,
    holm,
    mcnemar,
    mcnemar_power,
    p_beyond,
    paired_test,
    stratified_test,
)
from dllmquant_exp.reporting.statistics import Estimate, average, paired_difference, score_interval

# --- one task --------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test_of_the_changed_items(gained: int, lost: int) -> None:
    changed = gained + lost
    expected = stats.binomtest(gained, changed).pvalue if changed else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(1, 6) == pytest.approx(2 * (1 + 7) / 128)
    assert mcnemar(4, 4) == 1


def test_outcomes_get_mcnemar_and_fractions_get_sign_flips() -> None:
    first, second = np.array([1, 1, 1, 0, 1, 1, 0.0]), np.array([0, 0, 1, 0, 0, 1, 1.0])
    assert paired_test(first, second) == mcnemar(3, 1)
    fractions = first - 0.25 * second
    assert paired_test(fractions, second) == stratified_test([fractions - second])


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [1.0, 0.0]), ([], []), ([[1.0]], [[0.0]])], ids=str
)
def test_a_paired_test_needs_pairs(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_test(first, second)


def test_counts_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="not counts"):
        mcnemar(-1, 3)


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


def test_sign_flips_agree_with_scipys_permutation_test() -> None:
    generator = np.random.default_rng(4)
    differences = generator.normal(0.12, 0.3, 60)
    expected = stats.permutation_test(
        (differences, np.zeros(60)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        rng=generator,
    ).pvalue
    assert 0.001 < expected < 0.2
    assert stratified_test([differences]) == pytest.approx(expected, abs=0.01)


def test_tasks_count_alike_whatever_their_size() -> None:
    """Nine of ten items of a small task outweigh one of a hundred of a large one."""
    small, large = [1.0] * 9 + [0.0], [-1.0] * 5 + [0.0] * 95
    assert stratified_test([small, large]) < 0.01
    assert stratified_test([[*small, *large]]) > 0.2


def test_the_same_seed_gives_the_same_p() -> None:
    tasks = [np.random.default_rng(5).choice([-1, 0, 1], 50) for _ in range(3)]
    assert stratified_test(tasks, seed=1) == stratified_test(tasks, seed=1)


def test_false_alarms_of_the_average_are_5_of_100() -> None:
    generator = np.random.default_rng(6)
    alarms = sum(
        stratified_test([generator.choice([-1, 0, 1], n) for n in (30, 60)], seed=i) <= 0.05
        for i in range(300)
    )
    assert 0.02 <= alarms / 300 <= 0.085


def test_a_test_without_items_is_refused() -> None:
    for tasks in ([], [[1.0], []]):
        with pytest.raises(ValueError, match="at least one task"):
            stratified_test(tasks)


# --- many comparisons ------------------------------------------------------------------------


def test_holm_is_rs_p_adjust() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.04, 0.01, 0.9, 0.01]) == pytest.approx([0.08, 0.04, 0.9, 0.04])


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


def test_holm_refuses_what_is_no_probability() -> None:
    for bad in ([0.5, 1.5], [math.nan]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(bad)
    assert holm([]) == []


# --- averages over tasks and seeds -----------------------------------------------------------


def outcomes(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return (generator.random(shape) < 0.7).astype(float)


def test_one_seed_is_the_average_of_the_tasks_intervals() -> None:
    generator = np.random.default_rng(7)
    scores = [outcomes(generator, 1, n) for n in (40, 25)]
    reference = [outcomes(generator, 1, n) for n in (40, 25)]
    alone, against = average_over_seeds(scores), average_over_seeds(scores, reference)
    assert alone.estimate == average([score_interval(s[0].tolist()) for s in scores])
    pairs = zip(scores, reference, strict=True)
    expected = average([paired_difference(a[0].tolist(), b[0].tolist()) for a, b in pairs])
    assert against.estimate == expected
    assert (
        against.covers == "other items of these 2 tasks, with the one calibration seed that was run"
    )


def test_seeds_that_change_nothing_widen_nothing() -> None:
    generator = np.random.default_rng(8)
    scores = [outcomes(generator, 1, n) for n in (40, 25)]
    reference = [outcomes(generator, 1, n) for n in (40, 25)]
    once = average_over_seeds(scores, reference)
    thrice = average_over_seeds([np.repeat(s, 3, axis=0) for s in scores], reference)
    assert (thrice.estimate.low, thrice.estimate.high) == pytest.approx(
        (once.estimate.low, once.estimate.high)
    )
    assert thrice.covers == "other items of these 2 tasks and other calibration seeds (3 were run)"


def test_a_seed_that_hurts_every_task_widens_the_average() -> None:
    """Fractions without any other noise: the seeds' averages alone, by Student's t."""
    seeds = np.array([-0.1, 0.0, 0.1])
    scores = [0.5 + seeds[:, None] * np.ones((3, n)) for n in (4, 9)]
    found = average_over_seeds(scores)
    expected = stats.t.interval(0.95, 2, loc=0.5, scale=stats.sem(seeds))
    assert (found.estimate.low, found.estimate.high) == pytest.approx(expected)
    assert found.standard_error == pytest.approx(stats.sem(seeds))


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


@pytest.mark.parametrize("seed_spread", [0.0, 0.1, 0.4], ids=["no luck", "some", "much"])
def test_the_interval_covers_new_items_and_new_seeds(seed_spread: float) -> None:
    generator = np.random.default_rng(9)
    spread, shift = math.hypot(1, 0.6), 0.3
    truth = stats.norm.sf((shift - 0.6) / math.hypot(spread, seed_spread)) - stats.norm.sf(
        -0.6 / spread
    )
    covered, rounds = 0, 800
    for _ in range(rounds):
        scores, reference = latent_scores(generator, seed_spread, shift)
        estimate = average_over_seeds(scores, reference).estimate
        covered += estimate.low <= truth <= estimate.high
    assert 0.935 <= covered / rounds <= 0.99


def test_the_detectable_difference_is_found_80_times_of_100() -> None:
    """A true difference of the size that the intervals name is told from 0 at about that rate."""
    generator = np.random.default_rng(10)
    named = np.mean(
        [average_over_seeds(*latent_scores(generator, 0.0, 0.3)).detectable for _ in range(100)]
    )
    spread = math.hypot(1, 0.6)
    shift = 0.6 + spread * stats.norm.isf(stats.norm.sf(-0.6 / spread) - named)
    found, rounds = 0, 500
    for _ in range(rounds):
        scores, reference = latent_scores(generator, 0.0, shift)
        found += average_over_seeds(scores, reference).estimate.excludes_zero
    assert 0.72 <= found / rounds <= 0.9


def test_shapes_that_do_not_fit_are_refused() -> None:
    for bad in ([], [np.ones(3)], [np.ones((2, 3)), np.ones((3, 3))], [np.ones((2, 0))]):
        with pytest.raises(ValueError, match=r"\[seeds, items\] per task"):
            average_over_seeds(bad)
    for bad in ([], [np.ones((2, 4))], [np.ones((3, 5))], [np.ones((1, 4))]):
        with pytest.raises(ValueError, match="reference must be"):
            average_over_seeds([np.ones((2, 5))], bad)


# --- power -----------------------------------------------------------------------------------


def enumerated_power(n: int, gained: float, lost: float) -> float:
    """Sum over every table of items gained, lost and unchanged."""
    total = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if b + c and stats.binomtest(b, b + c).pvalue <= 0.05:
                total += stats.multinomial.pmf(
                    (b, c, n - b - c), n, (gained, lost, 1 - gained - lost)
                )
    return total


@pytest.mark.parametrize(("gained", "lost"), [(0.5, 0.1), (0.6, 0.0), (0.2, 0.2), (1.0, 0.0)])
def test_power_is_the_enumerated_one(gained: float, lost: float) -> None:
    expected = enumerated_power(14, gained, lost)
    assert mcnemar_power(14, gained + lost, gained - lost) == pytest.approx(expected, abs=1e-9)


def test_power_of_a_large_task_is_the_simulated_one() -> None:
    generator = np.random.default_rng(11)
    tables = generator.multinomial(1319, (0.14, 0.10, 0.76), 3000)
    found = np.mean([mcnemar(int(b), int(c)) <= 0.05 for b, c, _ in tables])
    assert mcnemar_power(1319, 0.24, 0.04) == pytest.approx(found, abs=0.03)


@pytest.mark.parametrize(("n", "discordance"), [(164, 0.2), (500, 0.1), (1319, 0.25), (14042, 0.3)])
def test_the_detectable_difference_is_near_connors_and_has_its_power(
    n: int, discordance: float
) -> None:
    """Connor (1987): n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2, for the test without
    continuity correction; the exact test needs a little more."""
    found = detectable_difference(n, discordance)
    z_a, z_b = stats.norm.isf(0.025), stats.norm.isf(0.2)
    needed = ((z_a * math.sqrt(discordance) + z_b * math.sqrt(discordance - found**2)) / found) ** 2
    assert 0.85 * n <= needed <= n
    assert mcnemar_power(n, discordance, found) >= 0.8 > mcnemar_power(n, discordance, 0.98 * found)


def test_what_few_items_can_show() -> None:
    """Six items must all change, and all one way; five cannot show anything."""
    assert detectable_difference(6, 0.1) == pytest.approx(0.8 ** (1 / 6), abs=1e-4)
    assert detectable_difference(5, 0.5) == math.inf


def test_impossible_differences_are_refused() -> None:
    for n, discordance, difference in ((0, 0.2, 0.1), (10, 0.1, 0.2), (10, 1.2, 0.1)):
        with pytest.raises(ValueError, match="at most the discordance"):
            mcnemar_power(n, discordance, difference)


@pytest.mark.parametrize("threshold", [0.0, 0.02, -0.05, 0.3])
def test_p_belongs_to_the_interval(threshold: float) -> None:
    z = stats.norm.ppf(0.975)
    found = Estimate(0.03, 0.03 - z * 0.01, 0.03 + z * 0.02)
    error = 0.01 if threshold < 0.03 else 0.02  # the side towards the threshold
    expected = 2 * stats.norm.sf(abs(0.03 - threshold) / error)
    assert p_beyond(found, threshold) == pytest.approx(expected)
    excluded = not found.low <= threshold <= found.high
    assert (p_beyond(found, threshold) < 0.05) == excluded


def test_p_without_a_distance_or_without_a_margin() -> None:
    flat = Estimate(0.1, 0.1, 0.1)
    assert p_beyond(flat, 0.1) == 1 and p_beyond(flat, 0.0) == 0


def test_p_of_a_ratio_is_of_its_logarithm() -> None:
    """A ratio and its inverse are the same finding."""
    found, inverse = Estimate(2.0, 1.6, 3.0), Estimate(1 / 2.0, 1 / 3.0, 1 / 1.6)
    error = np.log(2.0 / 1.6) / stats.norm.ppf(0.975)
    p = p_beyond(found, 1.0, ratio=True)
    assert p == pytest.approx(2 * stats.norm.sf(np.log(2.0) / error))
    assert p == pytest.approx(p_beyond(inverse, 1.0, ratio=True))
