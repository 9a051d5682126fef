"""Transfer schedules against the facts they state: totals, evenness, and Dream's test vector."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllmquant_exp.diffusion.schedule import dream_steps, llada_steps, steps_of, transfer_counts
from dllmquant_exp.diffusion.settings import DecodingSettings


@given(masks=st.integers(1, 300), steps=st.integers(1, 300))
def test_transfer_counts_commit_everything_evenly_and_larger_counts_first(
    masks: int, steps: int
) -> None:
    counts = transfer_counts(masks, steps)
    assert len(counts) == steps
    assert sum(counts) == masks
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)


@given(blocks=st.integers(1, 6), block_length=st.integers(1, 20), per_block=st.integers(1, 24))
def test_llada_steps_fill_one_block_after_the_other(
    blocks: int, block_length: int, per_block: int
) -> None:
    steps = llada_steps(blocks * block_length, block_length, blocks * per_block)
    assert len(steps) == blocks * per_block
    for block in range(blocks):
        of_block = steps[block * per_block : (block + 1) * per_block]
        assert {step.reach for step in of_block} == {(block + 1) * block_length}
        assert sum(step.count or 0 for step in of_block) == block_length


def reveals(gen_length: int, steps: int) -> list[int]:
    """How many masks each Dream step reveals when none is left over by the model."""
    left, numbers = gen_length, []
    for step in dream_steps(gen_length, steps):
        assert step.reach == gen_length
        numbers.append(int(step.commits(torch.tensor([left]))[0]))
        left -= numbers[-1]
    assert left == 0
    return numbers


@pytest.mark.parametrize("length", [2, 8, 32, 256, 512])
def test_dream_with_one_step_per_token_reveals_none_first_and_two_last(length: int) -> None:
    assert reveals(length, length) == [0] + [1] * (length - 2) + [2]


@given(gen_length=st.integers(1, 200), steps=st.integers(1, 200))
def test_dream_reveals_follow_the_published_float32_formula(gen_length: int, steps: int) -> None:
    time = torch.linspace(1, 1e-3, steps + 1).numpy()
    assert time.dtype == np.float32
    left, expected = gen_length, []
    for i in range(steps):
        share = np.float32(1) - time[i + 1] / time[i]
        k = int(np.float32(left) * share) if i < steps - 1 else left
        expected.append(k)
        left -= k
    assert reveals(gen_length, steps) == expected


def test_each_remasking_gets_the_schedule_of_its_architecture() -> None:
    llada = steps_of(DecodingSettings(8, 6, 4, "low_confidence"))
    assert [step.count for step in llada] == [2, 1, 1, 2, 1, 1]
    assert [step.reach for step in llada] == [4, 4, 4, 8, 8, 8]
    dream = steps_of(DecodingSettings(8, 4, 8, "entropy"))
    assert [step.count for step in dream] == [None] * 4
    assert dream[-1].share == 1
