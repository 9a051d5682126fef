"""The row of a job: the one that was chosen, the one whose choices hold, or none."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from recognized_rows import ROWS as KNOWN
from recognized_rows import row_of

from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.config.folder import Folders, config_folder
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.config.rows import Row
from dllmquant_exp.config.rows import row_of as find_row
from dllmquant_exp.config.saved_model import described

CONF = config_folder()
ROWS = sorted(path.stem for path in (CONF / "row").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra_is_ready() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def made(*words: str) -> Experiment:
    words = (*words, "task=micro_arc")
    return resolve(to_mapping(compose("config", list(words))), words)


def recognized(experiment: Experiment) -> str | None:
    """The row as reports recognized it by parts of the configuration."""
    return row_of(experiment.cell_config(experiment.tasks[0]))


@pytest.mark.parametrize("row", ROWS)
def test_an_option_is_its_own_row(row: str) -> None:
    experiment = made(f"row={row}")
    assert experiment.row.name == row
    assert recognized(experiment) == (row if row in KNOWN else None)
    assert experiment.row.label and "_" not in experiment.row.label


@pytest.mark.parametrize("quant", ["", "quant=w8a8", "quant=w4a4_static"])
@pytest.mark.parametrize("method", METHODS)
def test_a_job_without_row_is_the_row_whose_choices_hold(method: str, quant: str) -> None:
    components = [["", f"+{name}=on"] for name in ("tmas", "cgq", "iaaq")]
    for words in product(*components):
        try:
            experiment = made(f"method={method}", *filter(None, (*words, quant)))
        except NoUse:
            continue
        known = recognized(experiment)
        assert experiment.row.name == known or (known is None and experiment.row.name not in KNOWN)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("row=awq +tmas=on", "awq_tmas"),  # what was run counts, not what it was called
        ("row=awq_tmas_cgq cgq.mask=false", "awq+tmas+cgq+cgq.mask=False"),
        ("row=quarot_tmas_cgq cgq.mask=false", "quarot_tmas_score"),
        ("row=quarot_tmas_cgq cgq.unmasked=0.5", "quarot_tmas_cgq"),  # a variant of its row
        ("method=quarot +tmas=off", "quarot"),
        ("method=quarot calibration=llm_qat", "quarot+llm_qat"),
        ("method=quarot calibration.samples=512", "quarot"),  # a control is its row's variant
        ("method=quarot_rtn", "quarot_rtn"),
        ("method=awq quant=w4a4_static", "awq+static"),
        ("method=awq +cgq=on", "awq+cgq"),
    ],
)
def test_rows_are_told_apart_by_what_they_state(words: str, name: str) -> None:
    experiment = made(*words.split())
    assert experiment.row.name == name
    assert (name if name in KNOWN else None) == recognized(experiment)


@pytest.mark.parametrize("row", ["quarot_tmas_mask", "dllmquant_plus", "rtn"])
def test_a_saved_model_is_of_the_row_that_it_was_made_as(row: str) -> None:
    experiment = made(f"row={row}")
    saved = replace(experiment, saved=SimpleNamespace(made=described(experiment), folder="kept"))
    config = to_mapping(compose("config"))
    assert find_row(saved, config, Overrides.read(["model=saved"])) == experiment.row


def test_a_users_row_has_its_own_label(tmp_path: Path) -> None:
    (tmp_path / "row").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /method: awq\n  - override /quant: w8a8\n"
    (tmp_path / "row" / "mild.yaml").write_text(f"{text}row: {{name: mild, label: AWQ at 8}}\n")
    (tmp_path / "row" / "plain.yaml").write_text("# @package _global_\nlimit: 3\n")
    folders = Folders((tmp_path,)).words
    assert made(*folders, "row=mild").row == Row("mild", "AWQ at 8")
    assert made(*folders, "method=awq", "quant=w8a8").row.name == "mild"
    assert made(*folders, "method=awq").row.name == "awq"
    assert made(*folders, "row=plain").row == Row("plain", "plain")
    assert made(*folders, "row=plain", "limit=4").row.name == "rtn"
