"""Settings of a measurement: defaults, refusals, and which of them decide a recording."""

import functools
from typing import Any

import pytest

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.probes import logit_error
from dllmquant_exp.probes.arguments import ProbeError, ProbeSettings, figure_settings
from dllmquant_exp.probes.probe import (
    changed_settings,
    check_read,
    figure_config,
    read_probe,
)
from dllmquant_exp.reporting.figures.catalog import catalog

MEASURED = [name for name, kind in catalog().items() if kind.measure]


@pytest.mark.parametrize(
    ("given", "words", "message"),
    [
        ({"prompts": 0}, [], "at least 1"),
        ({"prompts": "few"}, [], "whole number"),
        ({"prompt": 64}, [], "between 0 and 63"),
        ({"steps": 64}, [], "at most one step per token"),
        ({"blocks": 5}, [], "must divide"),
        ({"noise": 0}, [], "above 0"),
        ({"layer": -2}, [], "at least -1"),
        ({"noise": 11}, [], "at most 10"),
        ({"states": 33}, [], "states = 33 per prompt, but there are 32 steps"),
        ({}, ["model=nonsense"], "nonsense"),
        ({"task": "micro_nine"}, [], "one task"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    given: dict[str, str], words: list[str], message: str
) -> None:
    with pytest.raises((ProbeError, ConfigError), match=message):
        read_probe(given, words)


def test_words_are_numbers_of_their_field() -> None:
    settings = figure_settings()
    assert settings["noise"].read("noise", "0.1") == 0.1
    assert settings["layer"].read("layer", "-1") == -1
    assert {*ProbeSettings.__dataclass_fields__} <= {*settings}


def test_defaults_fit_the_model() -> None:
    embedded = read_probe({}, [])
    assert (embedded.settings.prompts, embedded.settings.gen_length) == (64, 32)
    assert embedded.decoding.block_length == 8
    assert embedded.experiment.tasks[0].name == "micro_gsm8k"
    paper = read_probe({}, ["model=llada_8b"])
    assert (paper.settings.prompts, paper.settings.steps, paper.settings.blocks) == (1000, 100, 4)
    assert paper.experiment.tasks[0].name == "piqa"


OTHER_VALUES = {
    **dict.fromkeys(("prompts", "layer"), 2),
    **dict.fromkeys(("gen_length", "steps", "states"), 16),
    **dict.fromkeys(("prompt", "head", "seed"), 1),
    **{"blocks": 2, "noise": 0.25, "task": "micro_humaneval"},
    **{"dtype": "float64", "batch_size": "7", "threads": "1"},
}


def asked(name: str, architecture: str) -> tuple[dict[str, str], list[str]]:
    """A setting with another value than its default, ours and Hydra's, of an embedded model."""
    model = ["model=micro_dream"] if architecture == "dream" else []
    if name in ("task", *ProbeSettings.__dataclass_fields__):
        steps = {"steps": 16} if name == "gen_length" else {}
        return {name: OTHER_VALUES[name], **steps}, model
    return {}, [*model, f"{name}={OTHER_VALUES[name]}"]


@functools.cache
def configs(given: tuple[tuple[str, str], ...], words: tuple[str, ...]) -> dict[str, Any]:
    """The configuration that names the recording of each figure."""
    probe = read_probe(dict(given), words)
    return {figure: figure_config(probe, figure) for figure in MEASURED}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [*((name, "llada") for name in OTHER_VALUES), ("blocks", "dream"), ("seed", "dream")],
)
def test_a_figure_takes_what_changes_its_recording_and_nothing_else(
    name: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits, rows = logit_error.BITS["INT4"], logit_error.ROWS["quarot"]
    monkeypatch.setattr(logit_error, "BITS", {"INT4": bits})  # one of Figure 2's 8 models
    monkeypatch.setattr(logit_error, "ROWS", {"quarot": rows})
    given, words = asked(name, architecture)
    probe = read_probe(given, words)
    plain = configs(
        tuple(item for item in given.items() if item[0] != name),
        tuple(word for word in words if word.startswith("model=")),
    )
    for figure in catalog():
        if figure in MEASURED and figure_config(probe, figure) != plain[figure]:
            check_read([figure], [name], architecture)
            check_read(["figure7", figure], [name], architecture)
        else:
            with pytest.raises(ConfigError, match=f"{name}: figure {figure[6:]} would not change"):
                check_read([figure], [name], architecture)


def test_figures_of_results_read_their_sweep_alone() -> None:
    words = ["sweep", "model=micro_llada", "runs_dir=runs"]
    check_read(["figure7"], words, "llada")
    check_read(["figure8", "figure1"], [*words, "model.checkpoint=x"], "llada")
    for figure, word in (("figure1", "sweep"), ("figure7", "model.checkpoint=x")):
        with pytest.raises(ConfigError, match="would not change with it; leave it out"):
            check_read([figure], [word], "llada")
    with pytest.raises(ConfigError, match="read by figures 1, 2, 3, 4, 5, 6, 9"):
        check_read(["figure7", "figure8"], ["prompts"], "llada")


def test_settings_that_are_not_the_models_own_are_named() -> None:
    def changed(figure: str, given: dict[str, str], *words: str) -> dict[str, Any]:
        return changed_settings(read_probe(given, words), figure)

    usual = {"prompts": 3, "prompt": 2}
    where = ("threads=1", "dtype=bfloat16", "batch_size=2", "model.checkpoint=elsewhere")
    for figure in MEASURED:
        assert changed(figure, usual, "model=micro_dream", *where) == {}
    assert changed("figure4", {"noise": 0.25, "blocks": 2}) == {"noise": 0.25, "blocks": 2}
    assert changed("figure6", {"noise": 0.25}, "seed=1") == {}
    assert changed("figure9", {"task": "micro_humaneval"}) == {"task": "micro_humaneval"}
    found = changed("figure1", {"steps": 16}, "model.outliers.strength=5")
    assert found == {"steps": 16, "model.outliers.strength": 5}
    assert "model.outliers" in changed("figure1", {}, "model.outliers=null")
