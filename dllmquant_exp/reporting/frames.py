"""Tables of the paper and verdicts on its claims as pandas data frames, from a sweep's files.

They hold what the commands write: `report table=...` and `report claims`.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.presets import read_presets
from dllmquant_exp.reporting.reports import TABLE_NAMES, Report, claims_report, tables_report
from dllmquant_exp.store.results import TABLES_SWEEP, ResultError


def table(
    name: str, runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """A table of the paper as text; see paper_pages.page, and speed_document for Table 4.

    Rows and models that are missing have `-`; files that cannot be read are warned of.

    Args:
        name: table1, ..., table6.
        models: of these alone; of all that the sweep holds, or should hold, where none is named.

    Raises:
        ResultError: no such table or sweep, or a model without results in it.
    """
    return _table(name, runs_dir, sweep, models).documents[0].frame


def table_cells(
    name: str, runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """The numbers behind a table, one line each; see paper_pages.long_frame and speed_frame.

    Args and Raises: as `table`.
    """
    return _table(name, runs_dir, sweep, models).cells[f"{name}_cells"]


def claim_verdicts(
    runs_dir: str | Path = "runs", sweep: str = TABLES_SWEEP, models: Sequence[str] = ()
) -> pd.DataFrame:
    """The paper's claims, one line per model and claim; see claim_pages.claims_frame.

    Args:
        models: as for `table`.

    Raises:
        ResultError: no such sweep, or a model without results in it.
    """
    report = claims_report(Path(runs_dir), sweep, read_presets(config_folder()), models)
    _warn(report)
    return report.documents[0].frame.reset_index()


def _table(name: str, runs_dir: str | Path, sweep: str, models: Sequence[str]) -> Report:
    if name not in TABLE_NAMES:
        raise ResultError(f"table = {name!r} is not one of: {', '.join(TABLE_NAMES)}")
    report = tables_report(name, Path(runs_dir), sweep, read_presets(config_folder()), models)
    _warn(report)
    return report


def _warn(report: Report) -> None:
    for problem in report.unreadable:
        warnings.warn(f"unreadable: {problem}", stacklevel=4)
