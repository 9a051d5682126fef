"""Pooled spreads against the sums of squares of a two-way layout; their level by simulation."""

import numpy as np
import pytest
from scipy import stats

from dllmquant_exp.reporting.claim_list import CLAIMS
from dllmquant_exp.reporting.comparisons import average_over_seeds
from dllmquant_exp.reporting.pooling import Pool, pooled
from dllmquant_exp.reporting.score_claims import METHODS, measure_score_claim
from dllmquant_exp.reporting.selection import model_results
from dllmquant_exp.reporting.tables import PAPER_COLUMNS

STEP = (1.0, -1.0, 0.0, 0.0)
TASKS = ("truthfulqa", "arc", "hellaswag", "winogrande", "piqa", "mmlu", "ceval", "humaneval",
         "gsm8k")  # fmt: skip


def without_noise(averages: np.ndarray) -> list[list[np.ndarray]]:
    """Rows of one task whose items all have the row's average: [rows, seeds] -> scores."""
    return [[np.repeat(row[:, None], 5, axis=1)] for row in averages]


def test_the_variance_is_the_mean_square_of_a_two_way_layout():
    """Fisher's residual mean square, from the sums of squares of rows, seeds and all."""
    averages = np.random.default_rng(1).normal(0.5, 0.03, (4, 3))
    rows, seeds = averages.shape
    total = ((averages - averages.mean()) ** 2).sum()
    of_rows = seeds * ((averages.mean(1) - averages.mean()) ** 2).sum()
    of_seeds = rows * ((averages.mean(0) - averages.mean()) ** 2).sum()
    mean_square = (total - of_rows - of_seeds) / ((rows - 1) * (seeds - 1))
    pool = Pool(without_noise(averages), STEP)
    assert pool.degrees == 6
    assert pool.variance([1.0]) == pytest.approx(2 * mean_square / seeds)
    halves = Pool(pool.scores, (0.5, 0.5, -0.5, -0.5))
    assert halves.variance([1.0]) == pytest.approx(mean_square / seeds)


def test_two_rows_are_their_own_difference():
    averages = np.random.default_rng(2).normal(0.5, 0.03, (2, 4))
    pool = Pool(without_noise(averages), (1.0, -1.0))
    expected = stats.sem(averages[0] - averages[1]) ** 2
    assert (pool.degrees, pool.variance([1.0])) == (3, pytest.approx(expected))


def test_what_a_seed_does_to_every_row_cancels():
    averages = np.random.default_rng(3).normal(0.5, 0.03, (4, 3))
    moved = averages + np.array([-0.2, 0.0, 0.3]) + np.array([[0.1], [0.2], [0.0], [0.4]])
    first, second = (Pool(without_noise(a), STEP).variance([1.0]) for a in (averages, moved))
    assert second == pytest.approx(first)


def test_tasks_are_averaged_and_their_items_noise_is_taken_off():
    """Two tasks of noise alone: what is left over is 0 on average, and cut off there."""
    generator = np.random.default_rng(4)
    left = []
    for _ in range(300):
        rows = [[generator.normal(0.5, 0.3, (3, n)) for n in (20, 30)] for _ in range(4)]
        left.append(Pool(rows, STEP).variance([0.5, 0.5]))
    noise = 2 * 0.3**2 / 3 * (0.25 / 20 + 0.25 / 30)
    assert min(left) == 0
    assert np.mean(left) < 0.3 * noise


def test_two_methods_add_up_with_satterthwaites_degrees():
    generator = np.random.default_rng(5)
    averages = [generator.normal(0.5, spread, (4, 3)) for spread in (0.03, 0.01)]
    pools = [Pool(without_noise(a), [c / 2 for c in STEP]) for a in averages]
    difference = [np.repeat(a[0] - a[1], 5).reshape(3, 5) for a in averages]
    alone = average_over_seeds([(difference[0] + difference[1]) / 2], [np.zeros((3, 5))])
    found = pooled(alone, pools, [1.0])
    first, second = (pool.variance([1.0]) for pool in pools)
    assert found.seed_error == pytest.approx(np.sqrt(first + second))
    assert found.degrees == pytest.approx((first + second) ** 2 / (first**2 / 6 + second**2 / 6))
    assert 6 <= found.degrees <= 12
    half = stats.t.ppf(0.975, found.degrees) * found.seed_error
    assert found.estimate.half_width == pytest.approx(half)
    assert found.value == alone.value and found.covers.endswith("that of 8 rows")


@pytest.mark.parametrize(
    ("spreads", "most"),
    [((1, 1, 1, 1), 0.065), ((2, 1, 1, 1), 0.11), ((1, 1, 2, 1), 0.045)],
    ids=["equal", "twice in a compared row", "twice in another row"],
)
def test_false_alarms_of_a_step(spreads, most):
    """No true difference between two rows of four, on three seeds, with 0/1 outcomes."""
    generator, alarms, rounds = np.random.default_rng(6), [], 1000
    for _ in range(rounds):
        ease = generator.normal(0, 1, 150)
        shared = generator.normal(0, 0.2, 3)
        rows = []
        for spread in spreads:
            luck = shared + generator.normal(0, 0.2 * spread, 3)
            noise = generator.normal(0, 0.5, (3, 150))
            rows.append([(ease + luck[:, None] + noise > -0.6).astype(float)])
        found = average_over_seeds(rows[0], rows[1])
        alarms.append(pooled(found, [Pool(rows, STEP)], [1.0]).p_beyond(0.0))
    assert np.mean(np.array(alarms) < 0.05) <= most
    assert np.mean(np.array(alarms) < 0.0026) <= 0.02


def test_rows_that_do_not_fit_are_refused():
    row, short = [np.ones((3, 4))], [np.ones((2, 4))]
    with pytest.raises(ValueError, match="the same tasks, seeds and items"):
        Pool([row, short], (1, -1))
    with pytest.raises(ValueError, match="the same tasks, seeds and items"):
        Pool([row], (0,))
    for bad in ((1, 1), (1, -1, 0)):
        with pytest.raises(ValueError, match="one per row and add up to 0"):
            Pool([row, row], bad)


def rows_of(made, seeds, tasks):
    """Cells of both methods' rows, whose seeds and items differ by chance."""
    generator, cells = np.random.default_rng(7), []
    for method in METHODS:
        for row in method:
            for seed in seeds:
                for task in tasks:
                    scores = (generator.random(40) < 0.6 + 0.1 * generator.normal()).astype(int)
                    cells.append(made(row, task, scores.tolist(), seed=seed))
    return cells


def test_claims_about_steps_are_decided_with_the_spread_of_all_rows(made):
    cells = rows_of(made, (0, 1, 2), TASKS)
    (results,) = model_results(cells)
    claims = {claim.name: claim for claim in CLAIMS}

    def found(name):
        return measure_score_claim(claims[name], results).found

    for name in ("tmas_on_awq", "plusplus_beats_quarot", "arithmetic_gain"):
        assert found(name).degrees == 6 and "that of 4 rows" in found(name).covers
    assert 6 <= found("average_gain").degrees <= 12
    assert "that of 8 rows" in found("average_gain").covers
    # Between methods a seed moves each side by itself.
    assert found("rotation_beats_awq").degrees == 2

    step = [claims["tmas_on_awq"].better[0], claims["tmas_on_awq"].worse[0]]
    order = [*step, *(row for row in METHODS[0] if row not in step)]
    scores = [[results.variant(row).entry(t).sample.scores for t in PAPER_COLUMNS] for row in order]
    expected = pooled(average_over_seeds(*scores[:2]), [Pool(scores, STEP)], [1 / 9] * 9)
    assert found("tmas_on_awq").estimate == expected.estimate


def test_rows_with_other_seeds_or_settings_are_no_part_of_the_pool(made):
    cells = rows_of(made, (0, 1, 2), TASKS)
    cells = [c for c in cells if c.seed < 2 or c.config["iaaq"] is None]  # + has two seeds of three
    (results,) = model_results(cells)
    step = next(claim for claim in CLAIMS if claim.name == "tmas_on_awq")
    assert measure_score_claim(step, results).found.degrees == 4
    one = [c for c in cells if c.seed == 0]
    (results,) = model_results(one)
    assert "seeds' spread" not in measure_score_claim(step, results).found.covers
