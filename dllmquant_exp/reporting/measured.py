"""The names of claims where figures and speed still look for them."""

from dllmquant_exp.reporting.claims import Measured

__all__ = ["Measured"]
