"""Sizes of calibration sets and bits, as reports read them from recorded configurations."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from dllmquant_exp.__main__ import config_folder
from dllmquant_exp.config.experiment import resolve, to_mapping
from dllmquant_exp.reporting.comparable import has_usual_size, usual_samples
from dllmquant_exp.reporting.frame import bits_of

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


@pytest.mark.parametrize("row", OPTIONS)
def test_options_have_the_usual_sizes_and_bits(row: str) -> None:
    config = composed(f"row={row}")
    assert has_usual_size(config, SAMPLES), "of conf/calibration and conf/tmas"
    assert bits_of(config) == (None if row == "fp" else (4, 4, 4, 4, 16, 16, 16))


def test_sizes_and_bits_that_differ_are_seen() -> None:
    assert not has_usual_size(composed("method=awq", "calibration.samples=512"), SAMPLES)
    assert not has_usual_size(composed("method=awq", "calibration.tokens=4000"), SAMPLES)
    assert bits_of(composed("method=rtn", "quant=w8a8"))[:2] == (8, 8)  # type: ignore[index]
    open_attention = bits_of(composed("method=quarot", "quant.attention=null"))
    assert open_attention == (4, 4, None, None, None, 16, 16)
