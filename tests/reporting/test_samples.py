"""Samples over seeds: what is averaged, what is paired with what, and what is left out."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dllmquant_exp.reporting.frame import Cell
from dllmquant_exp.reporting.samples import (
    MISSING,
    Sample,
    average,
    difference,
    p_value,
    sample_of,
)
from dllmquant_exp.reporting.statistics.intervals import wilson
from dllmquant_exp.reporting.statistics.paired import average_over_seeds, stratified_test

Made = Callable[..., Cell]


def sample(*runs: list[float], seeds: tuple[int, ...] | None = None, **changes: Any) -> Sample:
    items = tuple(("t", str(i)) for i in range(len(runs[0])))
    own = seeds or tuple(range(len(runs)))
    return Sample(**{"scores": np.array(runs), "seeds": own, "items": items, "calibrated": True,
                     **changes})  # fmt: skip


def test_runs_become_rows_by_seed_and_items_columns_by_name(made: Made) -> None:
    second, first = made("awq", "piqa", [1, 0], seed=1), made("awq", "piqa", [1, 1], seed=0)
    found = sample_of([second, first])
    assert found.scores.tolist() == [[1, 1], [1, 0]] and found.cells == (first, second)
    assert found.seeds == (0, 1) and found.calibrated and found.state == "finished"
    assert found.score is not None and found.score.estimate.value == 0.75
    assert not sample_of([made("fp", "piqa", [1])]).calibrated


def test_one_run_has_the_interval_of_its_result_file(made: Made) -> None:
    score = sample_of([made("awq", "piqa", [1, 1, 1, 0])]).score
    assert score is not None
    assert astuple(score.estimate) == pytest.approx(astuple(wilson(3, 4)))


def test_failed_seeds_are_named_beside_the_finished_ones(made: Made) -> None:
    found = sample_of([made("awq", "piqa", [1, 0]), made("awq", "piqa", None, seed=1)])
    assert found.state == "finished" and found.failures == [(1, "ValueError: it broke")]
    assert MISSING.state == "missing" and MISSING.score is None


def test_seeds_that_saw_other_items_make_no_average(made: Made) -> None:
    found = sample_of([made("awq", "piqa", [1]), made("awq", "piqa", [1], seed=1, first=5)])
    assert found.state == "failed" and found.scores.size == 0
    assert found.failures == [(seed, "its seeds saw different items") for seed in (0, 1)]


def test_an_average_takes_the_seeds_that_every_task_has() -> None:
    first, second = sample([1, 0], [1, 1], [0, 0]), sample([1, 1], [0, 0], seeds=(1, 2))
    found = average([first, second])
    assert found is not None and found.seeds == 2
    # Seeds 1 and 2: means (1 + 0) / 2 and (1 + 0) / 2.
    assert found.estimate.value == pytest.approx(0.5)
    assert average([first, MISSING]) is None and average([]) is None
    assert average([first, sample([1, 1], seeds=(7,))]) is None


def test_differences_are_paired_by_seed() -> None:
    better, worse = sample([1, 1, 0], [1, 1, 1]), sample([0, 1, 0], [1, 0, 1])
    expected = average_over_seeds([better.scores], [worse.scores])
    assert difference([better], [worse]) == expected
    swapped = sample([1, 0, 1], [0, 1, 0], seeds=(1, 0))
    assert difference([better], [swapped]) == expected
    assert expected.estimate.value == pytest.approx(2 / 6)


def test_only_what_calibrates_nothing_stands_for_seeds_it_lacks() -> None:
    ours = sample([1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1])
    plain = sample([1, 0, 1, 0], calibrated=False)
    assert difference([ours], [plain]) == average_over_seeds([ours.scores], [plain.scores])
    twice = sample([1, 0, 1, 0], [0, 0, 0, 0], calibrated=False)
    assert difference([ours], [twice]) == difference([ours], [plain]), "its first run stands in"
    calibrated = sample([1, 0, 1, 0])
    first = average_over_seeds([ours.scores[:1]], [calibrated.scores])
    assert difference([ours], [calibrated]) == first
    assert difference([ours], [sample([1, 0, 1, 0], seeds=(9,))]) is None


def test_other_items_are_not_compared() -> None:
    first = sample([1, 0])
    other = sample([1, 0], items=(("t", "0"), ("t", "9")))
    assert difference([first], [other]) is None
    assert p_value([first], [other]) == 1
    assert difference([first, MISSING], [first, first]) is None


def test_p_of_one_task_is_the_binomial_test_of_changed_items() -> None:
    better, worse = sample([1] * 9 + [0] * 3), sample([1] * 2 + [0] * 7 + [1] + [0] * 2)
    assert p_value([better], [worse]) == pytest.approx(stats.binomtest(7, 8).pvalue)


def test_p_of_several_tasks_is_the_stratified_test_and_of_seeds_that_of_the_interval() -> None:
    better, worse = sample([1, 1, 0], [1, 0, 1]), sample([0, 1, 0], [0, 0, 0])
    expected = average_over_seeds([better.scores] * 2, [worse.scores] * 2)
    assert p_value([better] * 2, [worse] * 2) == expected.p_beyond(0)
    once = sample([1, 1, 0])
    gaps = [np.array([1.0, 0.0, 0.0])] * 2  # of the seed that both have
    assert p_value([once] * 2, [worse] * 2) == stratified_test(gaps)
