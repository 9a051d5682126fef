"""The names of samples where figures and speed still look for them."""

from dllmquant_exp.reporting.samples import Sample, average, difference

__all__ = ["Sample", "average", "difference"]
