"""Every option of conf/row is recognised by its configuration, as itself and as nothing else."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from dllmquant_exp.__main__ import config_folder
from dllmquant_exp.config.experiment import resolve, to_mapping
from dllmquant_exp.reporting.comparable import has_usual_size, usual_samples
from dllmquant_exp.reporting.frame import bits_of
from dllmquant_exp.reporting.paper import paper_rows
from dllmquant_exp.reporting.rows import ROWS, row_of

SAMPLES = usual_samples(config_folder())
OPTIONS = sorted(path.stem for path in (config_folder() / "row").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra_is_ready() -> Iterator[None]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def composed(*words: str) -> dict[str, Any]:
    """The configuration that a result file of this command line holds."""
    words = (*words, "task=micro_arc")
    experiment = resolve(to_mapping(compose("config", list(words))), words)
    return experiment.cell_config(experiment.tasks[0])


def test_each_option_has_a_recipe_of_its_own() -> None:
    assert sorted(ROWS) == OPTIONS
    assert len(set(ROWS.values())) == len(ROWS)
    for table in (1, 2, 3, 5, 6):
        assert set(paper_rows(table)) <= set(ROWS)


@pytest.mark.parametrize("row", OPTIONS)
def test_exactly_its_own_row_recognises_an_option(row: str) -> None:
    config = composed(f"row={row}")
    assert row_of(config) == row
    assert has_usual_size(config, SAMPLES), "of conf/calibration and conf/tmas"
    assert bits_of(config) == (None if row == "fp" else (4, 4, 4, 4, 16, 16, 16))


@pytest.mark.parametrize(
    ("words", "row"),
    [
        (["method=quarot", "+tmas=on"], "quarot_tmas"),
        (["method=quarot_rtn"], None),
        (["method=awq", "+cgq=on"], None),  # CGQ on plain text is no row of the paper
        (["row=awq_tmas_cgq", "cgq.mask=false"], None),
        (["method=awq", "quant=w4a4_static"], None),
        (["method=quarot", "calibration=llm_qat"], None),
        (["method=quarot", "calibration.samples=512"], "quarot"),  # a control is its row's variant
        (["method=rtn", "quant=w8a8"], "rtn"),  # bits are told apart by bits_of
    ],
    ids=str,
)
def test_what_was_run_counts_and_not_what_it_was_called(words: list[str], row: str | None) -> None:
    assert row_of(composed(*words)) == row


def test_a_methods_name_alone_makes_no_row() -> None:
    config = composed("method=quarot")
    rotation, gptq = config["method"]["steps"]
    assert row_of({**config, "method": {"name": "quarot", "steps": [rotation]}}) is None
    assert row_of({**config, "method": {"name": "quarot", "steps": [gptq]}}) == "gptq"


def test_sizes_and_bits_that_differ_are_seen() -> None:
    assert not has_usual_size(composed("method=awq", "calibration.samples=512"), SAMPLES)
    assert not has_usual_size(composed("method=awq", "calibration.tokens=4000"), SAMPLES)
    assert bits_of(composed("method=rtn", "quant=w8a8"))[:2] == (8, 8)  # type: ignore[index]
    open_attention = bits_of(composed("method=quarot", "quant.attention=null"))
    assert open_attention == (4, 4, None, None, None, 16, 16)
