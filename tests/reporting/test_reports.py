"""Documents of a sweep, whatever printed them."""

from collections.abc import Callable
from pathlib import Path

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.reports import Sweep, claims_report, tables_report


def test_models_stand_as_the_presets_name_them_others_behind_by_name(
    write_cell: Callable[..., Path], tmp_path: Path
) -> None:
    """Two models of an option of conf/models and two of none, with results of Table 3."""
    option = tmp_path / "models" / "mine.yaml"
    option.parent.mkdir()
    option.write_text("all: zeta,alpha\nfirst: zeta\n")
    for model in ("alpha", "beta", "omega", "zeta"):
        write_cell("quarot_tmas_mask", "gsm8k", [1, 0] * 5, model=model)
    sweep = Sweep(tmp_path / "runs", folders=(config_folder(), tmp_path))
    for report in (tables_report("table3", sweep), claims_report(sweep)):
        sections = report.documents[0].sections
        names = [section.title.partition(" ")[0] for section in sections]
        assert names == ["zeta", "alpha", "beta", "omega"]
