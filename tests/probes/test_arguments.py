"""Ranges and help of the command's settings."""

import pytest

from dllmquant_exp.probes.arguments import ProbeError, ProbeSettings, figure_settings


def test_settings_have_limits() -> None:
    with pytest.raises(ProbeError, match="states"):
        ProbeSettings(prompts=1, gen_length=8, steps=4, states=5)


def test_words_are_numbers_of_their_field() -> None:
    settings = figure_settings()
    assert settings["noise"].read("noise", "0.1") == 0.1
    assert settings["layer"].read("layer", "-1") == -1
    assert {*ProbeSettings.__dataclass_fields__} <= {*settings}
    assert "(default: 0.5)" in settings["noise"].help
