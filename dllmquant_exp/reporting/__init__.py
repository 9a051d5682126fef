"""From result files to statistics and tables. Reads files only; imports no model code.

from dllmquant_exp.reporting import table

table("table1", runs_dir="runs")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllmquant_exp.reporting.frames import claim_verdicts, table, table_cells

__all__ = ["claim_verdicts", "table", "table_cells"]


def __getattr__(name: str) -> Any:
    """These need pandas, which takes longer to import than a sweep's own table to print."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dllmquant_exp.reporting import frames

    return getattr(frames, name)
