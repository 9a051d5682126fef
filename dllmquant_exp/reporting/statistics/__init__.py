"""Intervals, paired tests and averages over seeds, on plain arrays; see the modules' docstrings."""

from dllmquant_exp.reporting.statistics.intervals import (
    ALPHA,
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
from dllmquant_exp.reporting.statistics.paired import (
    SeededAverage,
    average_over_seeds,
    holm,
    mcnemar,
    paired_difference,
    paired_test,
    stratified_test,
)
from dllmquant_exp.reporting.statistics.sign_flip import RatioTest, ratio_interval, ratio_test

__all__ = [
    "ALPHA",
    "Estimate",
    "RatioTest",
    "SeededAverage",
    "adjusted_difference",
    "average",
    "average_over_seeds",
    "averaged_proportion",
    "holm",
    "mcnemar",
    "mean_interval",
    "paired_difference",
    "paired_test",
    "ratio_interval",
    "ratio_test",
    "score_interval",
    "stratified_test",
    "t_quantile",
    "wilson",
    "z_quantile",
]
