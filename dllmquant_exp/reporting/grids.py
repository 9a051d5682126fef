"""The names of render where figures and speed still look for them."""

from dllmquant_exp.reporting.render import AVERAGE, Grid, Line, show

__all__ = ["AVERAGE", "Grid", "Line", "show"]
