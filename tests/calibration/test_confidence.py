"""Confidences of calibration states against the softmax of single rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dllmquant_exp.calibration import confidence
from dllmquant_exp.calibration.confidence import scored
from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet, unscored_state

MASK = 39


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_confidences_are_the_models_probabilities(
    architecture: str, tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidence, "LOGITS_AT_ONCE", 2 * 6 * 40)  # two of the longest at once
    model = tiny_model(architecture)
    rows = [[1, 2, MASK], [3, MASK, MASK, 4, 5, 6], [7], [8, 9, MASK, MASK]]
    bare = tuple(unscored_state(row, [t == MASK for t in row], 1) for row in rows)
    made = scored(model, CalibrationSet("x", bare, {}), batch_size=3)
    for row, state in zip(rows, made.states, strict=True):
        logits = model(torch.tensor([row]))[0]
        for position, token in enumerate(row):
            p = [z / sum(logits[position].exp().tolist()) for z in logits[position].exp().tolist()]
            expected = max(p) if token == MASK else p[token]
            assert state.confidence[position].item() == pytest.approx(expected, abs=1e-6)
            assert state.top[position].item() == pytest.approx(max(p), abs=1e-6)
    assert [state.tokens.tolist() for state in made.states] == rows


def test_states_the_model_cannot_read(tiny_model: Callable[..., Any]) -> None:
    def attempt(model: Any, tokens: list[int]) -> None:
        bare = unscored_state(tokens, [False] * len(tokens), 1)
        scored(model, CalibrationSet("x", (bare,), {}), batch_size=1)

    with pytest.raises(CalibrationError, match="65 tokens"):
        attempt(tiny_model(), [1] * 65)
    with pytest.raises(CalibrationError, match="token id 40"):
        attempt(tiny_model(), [1, 40])
    broken = tiny_model()
    broken.head.weight.fill_(torch.nan)
    with pytest.raises(CalibrationError, match="NaN"):
        attempt(broken, [1, 2])
