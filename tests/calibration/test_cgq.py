"""CGQ: token weights by hand: Eq. 10's coefficients on states of three or four tokens."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dllmquant_exp.calibration.cgq import Cgq
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    batches,
    unscored_state,
)
from dllmquant_exp.calibration.weighting import batch_weights
from dllmquant_exp.errors import Refusal


def cgq(**settings: Any) -> Cgq:
    return Cgq(name="cgq", **settings)


MASKS = [0, 0, 1]  # a prompt token, a decoded one, a masked one
SCORES = [0.25, 0.81, 0.04]
TOPS = [0.36, 0.81, 0.04]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # (i + sqrt s)^2: (.7 + .5)^2, (.7 + .9)^2, (1 + .2)^2
        ({}, [1.44, 2.56, 1.44]),
        ({"formula": "product"}, [0.49 * 0.25, 0.49 * 0.81, 0.04]),
        ({"formula": "sum"}, [0.95, 1.51, 1.04]),
        ({"unmasked_score": "max"}, [1.69, 2.56, 1.44]),
        ({"unmasked_score": "zero"}, [0.49, 0.49, 1.44]),
        ({"unmasked_score": "one"}, [2.89, 2.89, 1.44]),
        ({"masked": 2.0, "unmasked": 0.5}, [1.0, 1.96, 4.84]),
        # Table 3, "w. mask"
        ({"score": False}, [0.49, 0.49, 1.0]),
        ({"score": False, "formula": "product"}, [0.49, 0.49, 1.0]),
        ({"score": False, "formula": "sum"}, [0.7, 0.7, 1.0]),
        # Table 3, "w. score"
        ({"mask": False}, [0.25, 0.81, 0.04]),
        ({"mask": False, "formula": "sum"}, [0.25, 0.81, 0.04]),
        ({"mask": False, "mask_off": "one"}, [2.25, 3.61, 1.44]),
        ({"mask": False, "mask_off": "one", "formula": "sum"}, [1.25, 1.81, 1.04]),
        ({"mask": False, "unmasked_score": "zero"}, [0.0, 0.0, 0.04]),
    ],
)
def test_weights(settings: dict[str, Any], expected: list[float], state: Callable) -> None:
    weights = cgq(**settings).weights(state([1, 2, 39], MASKS, SCORES, TOPS))
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)
    # The paper's example of an unmasked token that weighs more than a masked one.
    weights = cgq().weights(state([1, 39], [0, 1], [0.95, 0.2]))
    assert [round(w, 1) for w in weights.tolist()] == [2.8, 2.1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formula": "squared"}, "formula = 'squared' is not one of"),
        ({"unmasked": -0.1}, "unmasked = -0.1 must be at least 0"),
        ({"masked": float("nan")}, "at least 0"),
        ({"score": False, "mask": False}, "both off"),
        ({"score": False, "unmasked_score": "max"}, "unmasked_score has no effect with score off"),
        ({"mask": False, "unmasked": 0.5}, "unmasked has no effect with mask off"),
        ({"mask_off": "one"}, "mask_off has no effect with mask on"),
        ({"mask": False, "mask_off": "one", "formula": "product"}, "the same"),
    ],
)
def test_settings_without_sense_or_effect(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        cgq(**settings)


def test_missing_or_impossible_confidences(state: Callable) -> None:
    bare = unscored_state([1, 39], [False, True], 1)
    with pytest.raises(CalibrationError, match="call `scored`"):
        cgq().weights(bare)
    cgq(score=False).weights(bare)  # needs none
    with pytest.raises(CalibrationError, match="no probabilities"):
        cgq().weights(state([1, 2], [0, 0], [0.5, 1.5]))


def test_batch_weights_are_zero_at_padding(state: Callable) -> None:
    states = (state([5], [0], [0.49]), state([1, 2, 39], MASKS, SCORES))
    (batch,) = batches(CalibrationSet("two", states, {}), 2, pad_id=38)
    assert batch_weights(batch, None).tolist() == [[1, 1, 1], [1, 0, 0]]
    weights = batch_weights(batch, cgq())
    assert weights[1, 1:].tolist() == [0, 0]
    assert weights[1, 0].item() == pytest.approx(1.96)  # (.7 + .7)^2
    assert torch.equal(weights[0], cgq().weights(states[1]))


def test_report_means_by_class(state: Callable, caplog: pytest.LogCaptureFixture) -> None:
    states = (
        state([1, 2, 39], MASKS, SCORES, prompt_length=1),
        state([3, 39], [0, 1], [0.25, 0.0], prompt_length=1),
    )
    report = cgq().report(CalibrationSet("two", states, {}))
    assert report["masked"] == {"tokens": 2, "mean_weight": pytest.approx((1.44 + 1) / 2)}
    assert report["prompt"] == {"tokens": 2, "mean_weight": pytest.approx(1.44)}
    assert report["decoded"] == {"tokens": 1, "mean_weight": pytest.approx(2.56)}
    assert report["unmasked"] == {"tokens": 3, "mean_weight": pytest.approx(5.44 / 3)}
    assert not report["constant"] and report["warnings"] == [] and not caplog.records


def test_constant_weights_are_warned_about_and_zeros_refused(
    state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    plain = CalibrationSet("text", (state([1, 2, 3], prompt_length=3),), {})
    with caplog.at_level(logging.WARNING):
        report = cgq(score=False).report(plain)
    assert report["constant"] and report["masked"] == {"tokens": 0, "mean_weight": None}
    assert "same weight" in report["warnings"][0] and "same weight" in caplog.text
    with pytest.raises(CalibrationError, match="weight 0"):
        cgq(mask=False, unmasked_score="zero").report(plain)
