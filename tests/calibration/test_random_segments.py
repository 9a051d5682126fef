"""Random segments: whole texts one after the other, in random order, cut to length."""

from typing import Any

import pytest

from dllmquant_exp.calibration.random_segments import RandomSegments
from dllmquant_exp.calibration.sampler import Inputs
from dllmquant_exp.calibration.sources import CalibrationText
from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet

EOS = 37
TEXTS = ["abcdefghij", "klmno", "pqrstuvwxyzABCDEF", "GHIJKLM", "NOPQ"]


def sampled(tokenizer: Any, count: int, length: int, seed: int = 0) -> CalibrationSet:
    sampler = RandomSegments(name="random", samples=count, length=length, texts=("letters",))

    def source(names: Any, count: int) -> list[CalibrationText]:
        assert names == ("letters",)
        if count > 2 * len(TEXTS):
            raise CalibrationError("no more texts")
        return [CalibrationText(text[:2], text[2:], ()) for text in TEXTS[:count]]

    return sampler.sample(Inputs(None, tokenizer, source, seed, 1))  # type: ignore[arg-type]


def test_segments_are_cut_from_the_texts_in_random_order(tokenizer: Any) -> None:
    made = sampled(tokenizer, count=4, length=9, seed=3)
    assert [len(state.tokens) for state in made.states] == [9] * 4
    joined = [token for state in made.states for token in state.tokens.tolist()]
    pieces = {tuple(ord(c) % EOS for c in text + "\n\n") for text in TEXTS}
    # Consume whole texts from the joined tokens until the last, cut one.
    while joined:
        match = [p for p in pieces if p == tuple(joined[: len(p)])]
        if not match:
            assert any(p[: len(joined)] == tuple(joined) for p in pieces)
            break
        pieces.remove(match[0])
        joined = joined[len(match[0]) :]
    for state in made.states:
        assert not state.masked.any() and state.prompt_length == 9 and state.ratio == 1
        assert (state.block, state.step) == (-1, -1) and not state.is_scored
    again, other = (sampled(tokenizer, count=4, length=9, seed=seed) for seed in (3, 4))
    assert made.digest == again.digest != other.digest
    assert made.report["states"] == 4 and made.report["tokens"] == made.tokens == 36


def test_more_texts_are_asked_for_until_they_hold_enough(tokenizer: Any) -> None:
    assert sampled(tokenizer, count=1, length=43).tokens == 43  # the letters of all five
    with pytest.raises(CalibrationError, match="no more texts"):
        sampled(tokenizer, count=1, length=44)
