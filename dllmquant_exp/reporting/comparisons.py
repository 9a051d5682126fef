"""The names of statistics where figures and speed still look for them."""

from dllmquant_exp.reporting.statistics import SeededAverage, mcnemar

__all__ = ["SeededAverage", "mcnemar"]
