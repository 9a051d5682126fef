"""The names of frame where figures and speed still look for them."""

from dllmquant_exp.reporting.frame import SPEED, commit_of, flat, read_result, read_sweep
from dllmquant_exp.reporting.frame import Cell as CellResult

__all__ = ["SPEED", "CellResult", "commit_of", "flat", "read_result", "read_sweep"]
