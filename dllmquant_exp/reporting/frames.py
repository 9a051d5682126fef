"""Tables of the paper and verdicts on its claims as pandas data frames, from a sweep's files."""

from pathlib import Path

import pandas as pd

from dllmquant_exp.reporting.claim_pages import claims_frame
from dllmquant_exp.reporting.claims import verdicts
from dllmquant_exp.reporting.figure_claims import of_model
from dllmquant_exp.reporting.figure_data import recorded_figures
from dllmquant_exp.reporting.paper_pages import long_frame, page
from dllmquant_exp.reporting.paper_tables import paper_table, table_number
from dllmquant_exp.reporting.results import read_sweep
from dllmquant_exp.reporting.selection import ModelResults, model_results

SWEEP = "tables"  # where table=table1 and the others put their cells


def _results(runs_dir: str | Path, sweep: str) -> list[ModelResults]:
    return model_results(read_sweep(Path(runs_dir), sweep)[0])


def table(name: str, runs_dir: str | Path = "runs", sweep: str = SWEEP) -> pd.DataFrame:
    """A table of the paper as text, from our result files; see paper_pages.page.

    Args:
        name: table1, table2, table3, table5 or table6.

    Raises:
        ResultError: no such table or sweep.
    """
    number = table_number(name)
    return page(paper_table(number, _results(runs_dir, sweep)))


def table_cells(name: str, runs_dir: str | Path = "runs", sweep: str = SWEEP) -> pd.DataFrame:
    """The numbers behind a table, one line per cell; see paper_pages.long_frame.

    Raises:
        ResultError: no such table or sweep.
    """
    number = table_number(name)
    return long_frame([paper_table(number, _results(runs_dir, sweep))])


def claim_verdicts(runs_dir: str | Path = "runs", sweep: str = SWEEP) -> pd.DataFrame:
    """The paper's claims, one line per model and claim; see claim_pages.claims_frame.

    Raises:
        ResultError: no such sweep.
    """
    figures, _ = recorded_figures(Path(runs_dir))
    results = _results(runs_dir, sweep)
    return claims_frame(
        {of.title: verdicts(of, of_model(figures, of.model, of.checkpoints)) for of in results}
    )
