"""The other samplers and the models' confidences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dllmquant_exp.calibration import (
    CalibrationError,
    CalibrationSet,
    equal_tokens,
    random_segments,
    scored,
    scoring,
    self_generated,
    uniform_time,
)
from dllmquant_exp.calibration.states import unscored_state
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.diffusion.trajectory import states, trajectories

EOS, PAD, MASK = 37, 38, 39
DECODING = DecodingSettings(16, 16, 4, "low_confidence")
TEXTS = ["abcdefghij", "klmno", "pqrstuvwxyzABCDEF", "GHIJKLM", "NOPQ"]


def test_random_segments_are_cut_from_the_texts_in_random_order(tokenizer: Any) -> None:
    made = random_segments(TEXTS, tokenizer, count=4, length=9, seed=3)
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
    assert made.report["states"] == 4 and made.report["tokens"] == made.tokens == 36


def test_random_segments_depend_on_the_seed_only(tokenizer: Any) -> None:
    a, b, c = (random_segments(TEXTS, tokenizer, count=3, length=9, seed=s) for s in (0, 0, 1))
    assert a.digest == b.digest != c.digest


def test_random_segments_need_enough_text(tokenizer: Any) -> None:
    # 43 letters and five separators of two
    with pytest.raises(CalibrationError, match=r"53 tokens, enough for 5 segments of 10, not 6"):
        random_segments(TEXTS, tokenizer, count=6, length=10, seed=0)
    with pytest.raises(CalibrationError, match="at least 1"):
        random_segments(TEXTS, tokenizer, count=0, length=10, seed=0)


def test_uniform_time_takes_the_middles_of_equal_spans(
    tiny_model: Callable[..., Any], prompts: list[list[int]]
) -> None:
    made = uniform_time(
        tiny_model(), prompts, DECODING, count=7, steps_per_prompt=4, seed=0, batch_size=2
    )
    assert [state.step for state in made.states] == [2, 6, 10, 14, 2, 6, 10]
    assert [state.block for state in made.states] == [0, 1, 2, 3, 0, 1, 2]
    assert [state.ratio for state in made.states] == [0.5] * 7
    whole = trajectories(tiny_model(), prompts[:2], DECODING, seeds=[0, 0], batch_size=1)
    expected = [s.tokens for one in whole for s in list(states(one, DECODING, MASK))[2::4]]
    assert [tuple(state.tokens.tolist()) for state in made.states] == expected[:7]
    assert made.report["prompts_used"] == 2


def test_uniform_time_refuses_what_it_cannot_do(
    tiny_model: Callable[..., Any], prompts: list[list[int]]
) -> None:
    def sample(count: int, steps: int) -> CalibrationSet:
        return uniform_time(
            tiny_model(), prompts, DECODING,
            count=count, steps_per_prompt=steps, seed=0, batch_size=1,
        )  # fmt: skip

    with pytest.raises(CalibrationError, match="need 31 prompts"):
        sample(61, 2)
    with pytest.raises(CalibrationError, match="16 steps"):
        sample(34, 17)
    with pytest.raises(CalibrationError, match="at least 1"):
        sample(0, 1)


def test_self_generated_texts_end_with_their_end_of_text(
    tiny_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = tiny_model(eos_logit=2.0)
    sampled = DecodingSettings(12, 12, 12, "low_confidence", temperature=1.0)
    made, again = (
        self_generated(model, tokenizer, sampled, count=12, seed=0, batch_size=size)
        for size in (5, 5)
    )
    assert made.digest == again.digest
    ended = 0
    for state in made.states:
        tokens = state.tokens.tolist()
        assert tokens[0] < EOS and state.prompt_length == 1 and not state.masked.any()
        assert EOS not in tokens[:-1]
        assert len(tokens) == 13 or tokens[-1] == EOS
        ended += tokens[-1] == EOS
        assert state.is_scored
    assert ended > 0
    assert len({state.tokens[0].item() for state in made.states}) > 3


def test_equal_tokens_is_a_random_part_that_fits() -> None:
    lengths = [5, 9, 3, 7, 4, 6, 8, 2]
    whole = CalibrationSet(
        "some", tuple(unscored_state([n] * n, [False] * n, n) for n in lengths), {"seed": 0}
    )
    parts = [equal_tokens(whole, 20, seed=seed) for seed in range(20)]
    for part in parts:
        kept = [len(state.tokens) for state in part.states]
        assert 20 - 9 < part.tokens == sum(kept) <= 20  # nothing longer than 9 was left out
        assert kept == [n for n in lengths if n in kept]  # in their order
        assert part.report["tokens"] == part.tokens and part.report["seed"] == 0
    assert len({part.digest for part in parts}) > 5
    assert equal_tokens(whole, 20, seed=1).digest == parts[1].digest
    assert equal_tokens(whole, whole.tokens, seed=0).digest == whole.digest
    with pytest.raises(CalibrationError, match="44 tokens, fewer than 45"):
        equal_tokens(whole, 45, seed=0)
    with pytest.raises(CalibrationError, match="as short as 1"):
        equal_tokens(whole, 1, seed=0)


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_confidences_are_the_models_probabilities(
    architecture: str, tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 2 * 6 * 40)  # two of the longest at once
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
