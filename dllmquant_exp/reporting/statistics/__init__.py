"""Intervals, paired tests and averages over seeds, on plain arrays; see the modules' docstrings."""

from dllmquant_exp.reporting.statistics.intervals import (
    ALPHA,
    Estimate,
    mean_interval,
    score_interval,
    t_quantile,
    z_quantile,
)
from dllmquant_exp.reporting.statistics.paired import (
    SeededAverage,
    alpha_of_limit,
    average_over_seeds,
    holm,
    mcnemar,
    paired_test,
    stratified_test,
)
from dllmquant_exp.reporting.statistics.sign_flip import RatioTest, ratio_interval, ratio_test

__all__ = [
    "ALPHA", "Estimate", "RatioTest", "SeededAverage", "alpha_of_limit", "average_over_seeds",
    "holm", "mcnemar", "mean_interval", "paired_test", "ratio_interval", "ratio_test",
    "score_interval", "stratified_test", "t_quantile", "z_quantile",
]  # fmt: skip
