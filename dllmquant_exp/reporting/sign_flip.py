"""The names of statistics where figures and speed still look for them."""

from dllmquant_exp.reporting.statistics import RatioTest, ratio_interval, ratio_test

__all__ = ["RatioTest", "ratio_interval", "ratio_test"]
