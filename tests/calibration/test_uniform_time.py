"""Uniform time: which steps of a decode are taken."""

from collections.abc import Callable
from typing import Any

import pytest

from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet
from dllmquant_exp.calibration.uniform_time import UniformTime
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.diffusion.trajectory import states, trajectories

MASK = 39
DECODING = DecodingSettings(16, 16, 4, "low_confidence")


@pytest.fixture
def sample(tiny_model: Callable[..., Any], inputs: Any) -> Callable[[int, int], CalibrationSet]:
    def make(count: int, steps: int) -> CalibrationSet:
        sampler = UniformTime(
            name="uniform_time", samples=count, texts=("any",), gen_length=16, steps=16, blocks=4,
            steps_per_prompt=steps,
        )  # fmt: skip
        assert sampler.decoding("llada") == DECODING
        return sampler.sample(inputs(tiny_model(), size=2))

    return make


def test_the_middles_of_equal_spans(
    sample: Callable[[int, int], CalibrationSet],
    tiny_model: Callable[..., Any],
    prompts: list[list[int]],
) -> None:
    made = sample(7, 4)
    assert [state.step for state in made.states] == [2, 6, 10, 14, 2, 6, 10]
    assert [state.block for state in made.states] == [0, 1, 2, 3, 0, 1, 2]
    assert [state.ratio for state in made.states] == [0.5] * 7
    whole = trajectories(tiny_model(), prompts[:2], DECODING, seeds=[0, 0], batch_size=1)
    expected = [s.tokens for one in whole for s in list(states(one, DECODING, MASK))[2::4]]
    assert [tuple(state.tokens.tolist()) for state in made.states] == expected[:7]
    assert made.report["prompts_used"] == 2 and made.is_scored


def test_more_states_than_a_decode_has_steps_are_refused(
    sample: Callable[[int, int], CalibrationSet],
) -> None:
    with pytest.raises(CalibrationError, match="16 steps"):
        sample(34, 17)
