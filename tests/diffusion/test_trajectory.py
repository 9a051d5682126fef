"""Recorded states against what a hook saw go into the model."""

from collections.abc import Callable
from typing import Any

import pytest

from dllmquant_exp.diffusion.batching import DiffusionError
from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.diffusion.trajectory import states, trajectories

MASK = 39
BLOCKS = DecodingSettings(16, 8, 4, "low_confidence")  # 4 blocks of 4 tokens in 2 steps
DREAM = DecodingSettings(12, 12, 12, "entropy")
NEVER_ENDING = -50.0


def _recorded(model: Any, prompts: Any, settings: DecodingSettings, batch_size: int) -> list[Any]:
    made = trajectories(
        model, prompts, settings, seeds=list(range(len(prompts))), batch_size=batch_size
    )
    return [list(states(one, settings, MASK)) for one in made]


@pytest.mark.parametrize(
    "settings",
    [
        BLOCKS,
        DecodingSettings(16, 8, 4, "low_confidence", temperature=1.0),
        DecodingSettings(16, 8, 4, "random"),
        DecodingSettings(8, 24, 4, "low_confidence"),  # more steps than tokens
        DREAM,
        DecodingSettings(12, 6, 12, "maskgit_plus", temperature=0.5, top_p=0.9),
    ],
    ids=lambda s: f"{s.remasking} {s.steps} T={s.temperature}",
)
def test_states_are_what_the_model_is_given(
    settings: DecodingSettings,
    tiny_model: Callable[..., Any],
    call_log: Callable[..., Any],
    random_prompts: Callable[..., list[list[int]]],
) -> None:
    prompts = random_prompts(4)
    model = tiny_model(settings.architecture, eos_logit=NEVER_ENDING)
    recorded = _recorded(model, prompts, settings, batch_size=3)
    for i, prompt in enumerate(prompts):
        log = call_log(model)
        generate(model, [prompt], settings, seeds=[i], batch_size=1)
        rows = list(dict.fromkeys(map(tuple, log.rows)))
        # Steps that commit nothing are recorded with the state of the next one.
        assert list(dict.fromkeys(state.tokens for state in recorded[i])) == rows


def test_positions_blocks_and_ratios(
    tiny_model: Callable[..., Any], random_prompts: Callable[..., list[list[int]]]
) -> None:
    prompts = random_prompts(3)
    for prompt, visited in zip(
        prompts, _recorded(tiny_model(), prompts, BLOCKS, batch_size=2), strict=True
    ):
        assert [state.step for state in visited] == list(range(8))
        assert [state.block for state in visited] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert [state.block_ratio for state in visited] == [0, 0.5] * 4
        assert [state.response_ratio for state in visited] == [n / 8 for n in range(8)]
        for state in visited:
            assert list(state.tokens[: len(prompt)]) == prompt
            assert len(state.tokens) == len(state.masked) == len(prompt) + 16
            assert state.masked == tuple(token == MASK for token in state.tokens)


def test_steps_without_masks_are_left_out_and_dreams_first_one_is_not(
    tiny_model: Callable[..., Any], random_prompts: Callable[..., list[list[int]]]
) -> None:
    many = DecodingSettings(8, 24, 4, "low_confidence")
    (visited,) = _recorded(tiny_model(), random_prompts(1), many, batch_size=1)
    assert [state.step for state in visited] == [0, 1, 2, 3, 12, 13, 14, 15]
    (visited,) = _recorded(tiny_model("dream"), random_prompts(1), DREAM, batch_size=1)
    assert visited[0].tokens == visited[1].tokens
    assert [visited[0].response_ratio, visited[1].response_ratio] == [0, 0]


def test_a_model_that_predicts_masks_leaves_them(
    tiny_model: Callable[..., Any], random_prompts: Callable[..., list[list[int]]]
) -> None:
    model = tiny_model()
    model.head.register_forward_hook(
        lambda _module, _inputs, logits: logits.index_fill(-1, logits.new_tensor([MASK]).long(), 99)
    )
    for visited in _recorded(model, random_prompts(2), BLOCKS, batch_size=2):
        assert [state.response_ratio for state in visited] == [0] * 8


def test_no_early_end_and_mask_tokens_of_a_prompt_belong_to_it(
    tiny_model: Callable[..., Any],
) -> None:
    model = tiny_model(eos_logit=50.0)
    (visited,) = _recorded(model, [[5, MASK, 7]], BLOCKS, batch_size=1)
    assert len(visited) == 8
    assert not any(visited[0].masked[:3])


def test_decoding_is_lazy_and_batches_do_not_matter(
    tiny_model: Callable[..., Any],
    call_log: Callable[..., Any],
    random_prompts: Callable[..., list[list[int]]],
) -> None:
    prompts, model = random_prompts(6), tiny_model()
    alone, together = (_recorded(model, prompts, BLOCKS, batch_size=n) for n in (1, 6))
    assert alone == together
    log = call_log(model)
    next(trajectories(model, prompts, BLOCKS, seeds=[0] * 6, batch_size=2))
    assert len(log.rows) == 2 * 8


def test_prompts_are_checked_before_anything_is_decoded(tiny_model: Callable[..., Any]) -> None:
    with pytest.raises(DiffusionError, match="positions"):
        trajectories(tiny_model(), [[1], [1] * 60], BLOCKS, seeds=[0, 0], batch_size=1)
