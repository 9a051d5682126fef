"""Words, ranges and help of the command's settings."""

import pytest

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.probes.arguments import (
    ProbeError,
    ProbeSettings,
    arguments,
    help_text,
    split_words,
)


def test_words_are_ours_or_hydras() -> None:
    assert split_words(["figure=2", "model=x", "seed=1", "noise=0.1"]) == (
        {"figure": "2", "noise": "0.1"},
        ["model=x", "seed=1"],
    )
    with pytest.raises(ConfigError, match="did you mean 'figure'"):
        split_words(["figur=1"])
    for words in (["figure"], ["prompts=1", "prompts=2"]):
        with pytest.raises(ConfigError):
            split_words(words)


def test_settings_have_limits() -> None:
    with pytest.raises(ProbeError, match="states"):
        ProbeSettings(prompts=1, gen_length=8, steps=4, states=5)


def test_help_names_every_setting_with_its_default() -> None:
    for name, (default, text) in arguments().items():
        assert f"  {name}={default}" in help_text() and text.split()[0] in help_text()
