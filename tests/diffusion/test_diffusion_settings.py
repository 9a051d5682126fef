"""Settings refuse what makes no sense, and say what would."""

from typing import Any

import pytest

from dllmquant_exp.diffusion import DecodingSettings, DiffusionError, LikelihoodSettings
from dllmquant_exp.errors import Refusal

GOOD: dict[str, Any] = dict(gen_length=12, steps=6, block_length=4, remasking="low_confidence")
GOOD_DREAM: dict[str, Any] = dict(gen_length=12, steps=5, block_length=12, remasking="entropy")


def test_good_settings_are_accepted() -> None:
    DecodingSettings(**GOOD).validate("llada")
    DecodingSettings(**GOOD_DREAM, top_p=0.95, temperature=0.2).validate("dream")
    LikelihoodSettings(mc_num=8, mc_batch_size=4, guidance=0.5).validate("llada")
    LikelihoodSettings(mc_num=1, mc_batch_size=1, estimator="dream_whole").validate("dream")


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (GOOD, {"gen_length": 0}, "gen_length = 0 must be at least 1"),
        (GOOD, {"block_length": 5}, r"block_length = 5 does not divide.*\[1, 2, 3, 4, 6, 12\]"),
        (GOOD, {"steps": 7}, "steps = 7 must be a multiple of the 3 blocks"),
        (GOOD, {"temperature": -1.0}, "temperature = -1.0"),
        (GOOD, {"guidance": -0.5}, "guidance = -0.5"),
        (GOOD, {"top_p": 0.9}, "LLaDA's decoding has no nucleus"),
        (GOOD, {"remasking": "confident"}, "llada: low_confidence, random; dream: origin"),
        (GOOD_DREAM, {"top_p": 0.0}, "top_p = 0.0"),
        (GOOD_DREAM, {"block_length": 4}, "set block_length to gen_length = 12"),
        (GOOD_DREAM, {"guidance": 1.0}, "Dream's published settings use no guidance"),
    ],
)
def test_bad_decoding_settings_name_the_value(
    base: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refusal, match=message):
        DecodingSettings(**{**base, **change})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mc_num": 0, "mc_batch_size": 1}, "mc_num = 0"),
        ({"mc_num": 6, "mc_batch_size": 4}, r"does not divide mc_num = 6.*\[1, 2, 3, 6\]"),
        ({"mc_num": 1, "mc_batch_size": 1, "estimator": "exact"}, "llada: llada; dream: dream"),
        ({"mc_num": 1, "mc_batch_size": 1, "guidance": -1.0}, "guidance = -1.0"),
        (
            {"mc_num": 1, "mc_batch_size": 1, "estimator": "dream", "guidance": 1.0},
            "Dream's published settings use no guidance",
        ),
    ],
)
def test_bad_likelihood_settings_name_the_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        LikelihoodSettings(**values)


def test_settings_of_the_other_architecture_are_refused() -> None:
    with pytest.raises(DiffusionError, match="'entropy' does not belong to a llada model"):
        DecodingSettings(**GOOD_DREAM).validate("llada")
    with pytest.raises(DiffusionError, match="'low_confidence' does not belong to a dream"):
        DecodingSettings(**GOOD).validate("dream")
    with pytest.raises(DiffusionError, match="'llada' does not belong to a dream model"):
        LikelihoodSettings(4, 4).validate("dream")
