"""From result files to statistics, tables and claims. Reads files only; imports no model code.

from dllmquant_exp.reporting import results, table

results("runs", "tables")  # a data frame with a line per cell
table("table1", "runs")  # the paper's Table 1, from these results
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllmquant_exp.reporting.reports import claim_verdicts, results, table, table_cells

__all__ = ["claim_verdicts", "results", "table", "table_cells"]


def __getattr__(name: str) -> Any:
    """Imports the reports on first use: rooms below need none of what they import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dllmquant_exp.reporting import reports

    return getattr(reports, name)
