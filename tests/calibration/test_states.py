"""Sets of calibration states: digest, batches, checks."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dllmquant_exp.calibration import CalibrationError, CalibrationSet, batches


def test_digest_depends_on_every_value_and_on_the_order(three: CalibrationSet) -> None:
    first = three.states[0]
    changes: list[dict[str, Any]] = [
        {"tokens": torch.tensor([1, 2, 38])},
        {"masked": torch.tensor([False, True, True])},
        {"confidence": torch.tensor([0.1, 0.2, 0.30001])},
        {"top": torch.tensor([0.4, 0.5, 0.31])},
        {"prompt_length": 2},
        {"block": 2},
        {"step": 3},
        {"ratio": 0.5},
    ]
    digests = {three.digest}
    for change in changes:
        states = (replace(first, **change), *three.states[1:])
        digests.add(replace(three, states=states).digest)
    digests.add(replace(three, states=three.states[::-1]).digest)
    digests.add(replace(three, states=three.states[:2]).digest)
    assert len(digests) == len(changes) + 3
    assert replace(three, name="other").with_report(seed=1).digest == three.digest
    assert three.tokens == 8


def test_batches_pad_on_the_right_longest_first(three: CalibrationSet) -> None:
    first, second = batches(three, 2, pad_id=9)
    assert first.tokens.tolist() == [[5, 39, 39, 7], [1, 2, 39, 9]]
    assert first.attention_mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert first.states == (three.states[2], three.states[0])
    assert second.tokens.tolist() == [[4]] and second.attention_mask.tolist() == [[True]]


def test_states_check_themselves(three: CalibrationSet) -> None:
    first = three.states[0]
    with pytest.raises(CalibrationError, match=r"masked must be torch.bool of shape \[3\]"):
        replace(first, masked=torch.tensor([0, 0, 1]))
    with pytest.raises(CalibrationError, match="confidence must be"):
        replace(first, confidence=torch.tensor([0.5]))
    with pytest.raises(CalibrationError, match="cannot have a prompt of 4"):
        replace(first, prompt_length=4)
    with pytest.raises(CalibrationError, match="'three' is empty"):
        replace(three, states=())
