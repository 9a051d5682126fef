"""Documents of a sweep, whatever printed them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.reports import claims_report, tables_report
from dllmquant_exp.reporting.tables.presets import read_presets

MODELS = [{"all": ["zeta", "alpha"], "first": ["zeta"]}]
PRESETS = replace(read_presets(config_folder()), models=MODELS)


@pytest.fixture
def runs(write_cell: Callable[..., Path], tmp_path: Path) -> Path:
    """Two models of a preset and two of none, with results of Table 3."""
    for model in ("alpha", "beta", "omega", "zeta"):
        write_cell("quarot_tmas_mask", "gsm8k", [1, 0] * 5, model=model)
    return tmp_path / "runs"


def test_models_stand_as_the_presets_name_them_others_behind_by_name(runs: Path) -> None:
    tables = tables_report("table3", runs, "tables", PRESETS).documents[0].sections
    claims = claims_report(runs, "tables", PRESETS).documents[0].sections
    for sections in (tables, claims):
        names = [section.title.partition(" ")[0] for section in sections]
        assert names == ["zeta", "alpha", "beta", "omega"]
