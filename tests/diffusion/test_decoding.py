"""Decoding against the published algorithms as plain loops; see official_algorithms.py."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from official_algorithms import Trace, decoded

from dllmquant_exp.diffusion import DecodingSettings, DiffusionError, generate

EOT, EOS, MASK, VOCAB = 36, 37, 39, 40
LLADA = {
    "one_block": DecodingSettings(12, 12, 12, "low_confidence"),
    "blocks": DecodingSettings(12, 6, 4, "low_confidence"),
    "uneven": DecodingSettings(12, 10, 6, "low_confidence"),
    "more_steps_than_tokens": DecodingSettings(8, 24, 4, "low_confidence"),
    "one_step": DecodingSettings(8, 1, 8, "low_confidence"),
    "random": DecodingSettings(12, 6, 6, "random"),
    "guided": DecodingSettings(12, 6, 6, "low_confidence", guidance=1.5),
    "warm": DecodingSettings(12, 6, 6, "low_confidence", temperature=0.8),
    "warm_random_guided": DecodingSettings(8, 4, 4, "random", temperature=1.2, guidance=0.5),
    "no_eos": DecodingSettings(12, 12, 6, "low_confidence", suppress_eos=True),
    "ends_last": DecodingSettings(
        12, 12, 6, "low_confidence", confidence_eos_eot_inf=True, end_of_turn=EOT
    ),
    "ends_last_warm": DecodingSettings(
        12, 6, 6, "low_confidence", temperature=0.9, confidence_eos_eot_inf=True, end_of_turn=EOT
    ),
    "ends_last_guided": DecodingSettings(
        12, 6, 12, "low_confidence", guidance=1.0, confidence_eos_eot_inf=True, end_of_turn=EOT
    ),
    "ends_last_no_eos": DecodingSettings(
        12, 12, 12, "low_confidence", suppress_eos=True, confidence_eos_eot_inf=True,
        end_of_turn=EOT,
    ),
}  # fmt: skip
DREAM = {
    "origin": DecodingSettings(12, 7, 12, "origin"),
    "origin_warm": DecodingSettings(12, 7, 12, "origin", temperature=0.7, top_p=0.9),
    "maskgit_plus": DecodingSettings(12, 12, 12, "maskgit_plus"),
    "maskgit_plus_warm": DecodingSettings(12, 5, 12, "maskgit_plus", temperature=0.5, top_p=0.8),
    "topk_margin": DecodingSettings(12, 8, 12, "topk_margin", top_p=0.95),
    "entropy": DecodingSettings(12, 8, 12, "entropy", top_p=0.95),
    "entropy_warm": DecodingSettings(12, 8, 12, "entropy", temperature=0.2, top_p=0.95),
    "more_steps_than_tokens": DecodingSettings(8, 20, 8, "entropy"),
    "top_k": DecodingSettings(12, 8, 12, "entropy", top_k=5),
    "top_k_warm": DecodingSettings(12, 8, 12, "topk_margin", temperature=0.9, top_p=0.9, top_k=3),
    "no_eos": DecodingSettings(12, 12, 12, "entropy", suppress_eos=True),
}
CASES = [("llada", s) for s in LLADA.values()] + [("dream", s) for s in DREAM.values()]
NAMES = [f"llada_{n}" for n in LLADA] + [f"dream_{n}" for n in DREAM]
each_case = pytest.mark.parametrize(("architecture", "settings"), CASES, ids=NAMES)


def prefix(response: list[int]) -> list[int]:
    return response[: response.index(MASK)] if MASK in response else response


def up_to_eos(response: list[int]) -> list[int]:
    return response[: response.index(EOS) + 1] if EOS in response else response


# ---------------------------------------------------------------- what is decoded


@each_case
def test_agrees_with_the_plain_loop(
    architecture: str, settings: DecodingSettings, tiny_model: Any, random_prompts: Any
) -> None:
    """Without end-of-text in the way, every token of every row is the reference's."""
    model = tiny_model(architecture, seed=1, eos_logit=-50.0)
    prompts = random_prompts(4, seed=2)
    out = generate(model, prompts, settings, seeds=range(4), batch_size=3)
    for i, prompt in enumerate(prompts):
        assert out.tokens[i] == decoded(model, prompt, settings, i)[-1]
        assert MASK not in out.tokens[i]


# response offsets where the model wants (end-of-text, end-of-turn)
WANTED = {
    **{f"end_at_{i}": ([i], []) for i in range(12)},
    "never": ([], []),
    "turn_then_text": ([5, 6, 7, 8], [4]),
    "repeated": ([1, 4, 9, 10], [2, 7]),
    "all_text": (list(range(12)), []),
    "all_turn": ([], list(range(12))),
}


ENDS = [name for name in LLADA if name.startswith("ends_last")]


@pytest.mark.parametrize("name", ["blocks", "warm", *ENDS[:3]])
def test_ends_anywhere_agree_with_the_plain_loop(
    name: str, tiny_model: Any, random_prompts: Any
) -> None:
    """Whole responses, nothing stopped early, whatever ends are in them."""
    settings, changed = LLADA[name], 0
    (prompt,) = random_prompts(1, seed=11)
    for ends, turns in WANTED.values():
        model = tiny_model(seed=3, eos_logit=-4.0)
        boost = torch.zeros(len(prompt) + settings.gen_length, VOCAB)
        boost[[len(prompt) + offset for offset in ends], EOS] = 9.0
        boost[[len(prompt) + offset for offset in turns], EOT] = 9.0
        _prefer(model, boost)
        expected = decoded(model, prompt, settings, 5)[-1]
        made = generate(
            model, [prompt], settings, seeds=[5], batch_size=1, finished=lambda _: False
        )
        assert made.tokens == [expected]
        if name in ENDS:
            changed += (
                decoded(model, prompt, replace(settings, confidence_eos_eot_inf=False), 5)[-1]
                != expected
            )
    assert (changed > 0) == (name in ENDS), "the option decides something"


def _prefer(model: Any, boost: torch.Tensor) -> None:
    """Add `boost` [length, vocabulary] to the logits, also where only chosen ones are asked for."""
    real = model.forward

    def forward(tokens: Any, attention_mask: Any = None, positions: Any = None) -> Any:
        logits = real(tokens, attention_mask) + boost
        return logits if positions is None else logits[positions]

    model.forward = forward


@each_case
def test_early_stop_changes_nothing_up_to_the_first_end_of_text(
    architecture: str, settings: DecodingSettings, tiny_model: Any, random_prompts: Any
) -> None:
    model = tiny_model(architecture, seed=3, eos_logit=6.0)
    prompts = random_prompts(4, seed=4)
    out = generate(model, prompts, settings, seeds=range(4), batch_size=3)
    expected = [decoded(model, prompt, settings, i)[-1] for i, prompt in enumerate(prompts)]
    for got, full in zip(out.tokens, expected, strict=True):
        assert len(got) == settings.gen_length
        assert up_to_eos(prefix(got)) == up_to_eos(full)
    assert any(EOS in full for full in expected) != settings.suppress_eos


@each_case
def test_a_row_does_not_depend_on_its_batch(
    architecture: str, settings: DecodingSettings, tiny_model: Any, random_prompts: Any
) -> None:
    model = tiny_model(architecture, seed=5, eos_logit=4.0)
    prompts, seeds = random_prompts(5, seed=6), [11, 5, 5, 0, 2**63]
    alone = generate(model, prompts, settings, seeds=seeds, batch_size=1)
    assert generate(model, prompts, settings, seeds=seeds, batch_size=32) == alone
    backwards = generate(model, prompts[::-1], settings, seeds=seeds[::-1], batch_size=3)
    assert backwards.tokens == alone.tokens[::-1]


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_a_predicted_mask_token_stays_a_mask_as_published(
    architecture: str, tiny_model: Any, random_prompts: Any
) -> None:
    model = tiny_model(architecture, seed=7, never_mask=False, eos_logit=-50.0)
    model.head.register_forward_hook(
        lambda _m, _i, logits: logits + 5.0 * (torch.arange(VOCAB) == MASK)
    )
    settings = {
        "llada": DecodingSettings(12, 6, 4, "low_confidence"),
        "dream": DecodingSettings(12, 9, 12, "entropy"),
    }[architecture]
    prompts = random_prompts(6, seed=8)
    traces = [decoded(model, prompt, settings, 0) for prompt in prompts]
    assert any(MASK in trace[-1] for trace in traces)  # otherwise this test shows nothing
    out = generate(model, prompts, settings, seeds=[0] * 6, batch_size=4)
    assert out.tokens == [trace[-1] for trace in traces]


def test_temperature_and_seed_matter_and_reproduce(tiny_model: Any) -> None:
    model, prompt = tiny_model(seed=1), [1, 2, 3]
    for settings in (LLADA["warm"], LLADA["random"]):
        first = generate(model, [prompt] * 3, settings, seeds=[1, 1, 2], batch_size=3).tokens
        assert first[0] == first[1]
        assert first[0] != first[2]
    cold = generate(model, [prompt] * 2, LLADA["blocks"], seeds=[1, 2], batch_size=2).tokens
    assert cold[0] == cold[1]


def test_suppressed_end_of_text_never_appears(tiny_model: Any, random_prompts: Any) -> None:
    for architecture, settings in (("llada", LLADA["no_eos"]), ("dream", DREAM["no_eos"])):
        model, prompts = tiny_model(architecture, eos_logit=100.0), random_prompts(4)
        out = generate(model, prompts, settings, seeds=range(4), batch_size=4)
        assert all(EOS not in row and MASK not in row for row in out.tokens)
        allowed = replace(settings, suppress_eos=False)
        out = generate(model, prompts, allowed, seeds=range(4), batch_size=4)
        assert all(EOS in row for row in out.tokens)


# ---------------------------------------------------------------- when it stops, what it costs


def over_after(trace: Trace, stop: Callable[[list[int]], bool]) -> int:
    """Steps of a reference until its committed prefix satisfies `stop`."""
    for step, response in enumerate(trace, start=1):
        if stop(prefix(response)):
            return step
    return len(trace)


@pytest.mark.parametrize("name", ["one_block", "blocks", "guided"])
def test_rows_leave_the_batch_at_the_first_step_that_decides_them(
    name: str, tiny_model: Any, call_log: Any, random_prompts: Any
) -> None:
    model, settings = tiny_model(seed=3, eos_logit=4.0), LLADA[name]
    prompts = random_prompts(8, seed=9)
    needed = [
        over_after(decoded(model, prompt, settings, 0), lambda tokens: EOS in tokens)
        for prompt in prompts
    ]
    assert len(set(needed)) > 1  # rows must leave at different times to show anything
    log = call_log(model)
    out = generate(model, prompts, settings, seeds=[0] * 8, batch_size=8)
    rows_per_step = 2 if settings.guidance else 1
    assert out.forwards == len(log.rows) == rows_per_step * sum(needed)
    lengths = [len(prompt) + settings.gen_length for prompt in prompts]
    expected = rows_per_step * sum(n * length for n, length in zip(needed, lengths, strict=True))
    assert out.token_forwards == log.tokens == expected
    assert log.calls == max(needed)


def test_finished_sees_only_the_decided_prefix_and_ends_its_row(
    tiny_model: Any, call_log: Any, random_prompts: Any
) -> None:
    """A stop 'string' of two tokens in a row above 18, found in the text before the first mask."""
    model, settings = tiny_model(seed=3, eos_logit=-50.0), LLADA["blocks"]
    prompts = random_prompts(8, seed=10)
    seen: list[list[int]] = []

    def has_stop(tokens: list[int]) -> bool:
        return any(a > 18 and b > 18 for a, b in pairwise(tokens))

    def finished(tokens: list[int]) -> bool:
        seen.append(list(tokens))
        return has_stop(tokens)

    traces = [decoded(model, prompt, settings, 0) for prompt in prompts]
    needed = [over_after(trace, has_stop) for trace in traces]
    log = call_log(model)
    out = generate(model, prompts, settings, seeds=[0] * 8, batch_size=5, finished=finished)
    assert out.forwards == len(log.rows) == sum(needed) < 8 * settings.steps
    for tokens, trace, steps in zip(out.tokens, traces, needed, strict=True):
        assert tokens == trace[steps - 1]
    assert seen and all(tokens and MASK not in tokens for tokens in seen)


def test_finished_is_asked_only_when_there_is_something_new(tiny_model: Any) -> None:
    seen: list[int] = []

    def finished(tokens: list[int]) -> bool:
        seen.append(len(tokens))
        return False

    model = tiny_model(seed=3, eos_logit=-50.0)
    generate(model, [[4, 5]], LLADA["one_block"], seeds=[0], batch_size=1, finished=finished)
    assert 1 < len(seen) < LLADA["one_block"].steps  # surest first is not left to right
    assert seen == sorted(set(seen)) and seen[-1] == 12


@pytest.mark.parametrize(
    ("architecture", "settings", "forwards"),
    [
        # the first step reveals nothing, so 11 of 12 steps are forward passes
        ("dream", DecodingSettings(12, 12, 12, "maskgit_plus"), 11),
        # 12 steps for a block of 4 tokens: 8 of them have nothing to commit
        ("llada", DecodingSettings(8, 24, 4, "low_confidence"), 8),
    ],
)
def test_steps_that_commit_nothing_are_not_computed(
    architecture: str, settings: DecodingSettings, forwards: int, tiny_model: Any, call_log: Any
) -> None:
    model = tiny_model(architecture, eos_logit=-50.0)
    log = call_log(model)
    out = generate(model, [[1, 2], [3]], settings, seeds=[0, 1], batch_size=2)
    assert out.forwards == len(log.rows) == 2 * forwards


def test_logits_are_computed_only_where_a_token_may_be_committed(
    tiny_model: Any, call_log: Any
) -> None:
    def predicted(architecture: str, settings: DecodingSettings) -> int:
        model = tiny_model(architecture, eos_logit=-50.0)
        log = call_log(model)
        generate(model, [[1, 2], [3]], settings, seeds=[0, 1], batch_size=2)
        return int(log.predicted)

    # two rows; two blocks of 3, one token a step: 3 + 2 + 1 masks in reach, twice
    assert predicted("llada", DecodingSettings(6, 6, 3, "low_confidence")) == 2 * 2 * 6
    # positions chosen blindly: each of the 6 is predicted once
    assert predicted("llada", DecodingSettings(6, 6, 3, "random")) == 2 * 6
    assert predicted("dream", DecodingSettings(6, 4, 6, "origin")) == 2 * 6


def test_progress_counts_every_prompt_once(tiny_model: Any, random_prompts: Any) -> None:
    counts: list[float] = []
    model = tiny_model(seed=3, eos_logit=4.0)
    generate(
        model,
        random_prompts(7),
        LLADA["blocks"],
        seeds=range(7),
        batch_size=3,
        progress=counts.append,
    )
    assert sum(counts) == pytest.approx(7)
    assert all(count > 0 for count in counts) and len(counts) > 3  # after each step, not batch


# ---------------------------------------------------------------- edges and refusals


def test_no_prompts_and_an_empty_prompt(tiny_model: Any) -> None:
    for architecture, settings in (("llada", LLADA["blocks"]), ("dream", DREAM["entropy"])):
        model = tiny_model(architecture, eos_logit=-50.0)
        nothing = generate(model, [], settings, seeds=[], batch_size=4)
        assert (nothing.tokens, nothing.forwards, nothing.token_forwards) == ([], 0, 0)
        # Masks alone have equal values, and so equal logits wherever they stand: rounding would
        # decide which is the surest. With a vector of its own at each position none are alike.
        generator = torch.Generator().manual_seed(0)
        places = torch.randn(64, 32, generator=generator, dtype=torch.float64)
        model.embedding.register_forward_hook(lambda _m, _i, x, at=places: x + at[: x.shape[1]])
        out = generate(model, [[], [1, 2]], settings, seeds=[0, 1], batch_size=4)
        for i, prompt in enumerate(([], [1, 2])):
            assert out.tokens[i] == decoded(model, prompt, settings, i)[-1]


def test_bfloat16_decodes_to_complete_responses(tiny_model: Any, random_prompts: Any) -> None:
    model = tiny_model(dtype=torch.bfloat16, eos_logit=-50.0)
    out = generate(model, random_prompts(3), LLADA["blocks"], seeds=range(3), batch_size=2)
    assert all(len(row) == 12 and MASK not in row for row in out.tokens)


@pytest.mark.parametrize(
    ("prompts", "changes", "message"),
    [
        ([[1], [2]], {"seeds": [0]}, "2 prompts have 1 seeds"),
        ([[1], [2] * 53], {}, "prompt 1 needs 65 positions and the model has max_length = 64"),
        ([[1, 40]], {"seeds": [0]}, "prompt 0 has token ids from 1 to 40, outside the vocabulary"),
        ([[1], [2]], {"batch_size": 0}, "batch_size = 0"),
        ([[1], [2]], {"settings": DREAM["entropy"]}, "does not belong to a llada model"),
    ],
)
def test_bad_requests_are_refused_before_any_forward(
    prompts: list[list[int]], changes: dict[str, Any], message: str, tiny_model: Any, call_log: Any
) -> None:
    model = tiny_model()
    log = call_log(model)
    arguments: dict[str, Any] = {"settings": LLADA["one_block"], "seeds": [0, 1], "batch_size": 2}
    with pytest.raises(DiffusionError, match=message):
        generate(model, prompts, **{**arguments, **changes})
    assert log.calls == 0


def test_a_broken_model_is_reported_not_decoded(tiny_model: Any) -> None:
    model = tiny_model()
    model.blocks[1].down_proj.weight[3, 5] = float("nan")
    with pytest.raises(DiffusionError, match="NaN or infinite logits"):
        generate(model, [[1, 2]], LLADA["one_block"], seeds=[0], batch_size=1)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llada", LLADA["guided"]),
        ("llada", LLADA["warm_random_guided"]),
        ("dream", DREAM["origin_warm"]),
        ("dream", DREAM["entropy_warm"]),
    ],
)
def test_every_tensor_is_made_where_the_model_is(
    architecture: str, settings: DecodingSettings, tiny_model: Any
) -> None:
    """A tensor made on the default device would not mix with the model's; on a GPU likewise."""
    model = tiny_model(architecture, seed=3, eos_logit=4.0)
    expected = generate(model, [[1, 2], [3]], settings, seeds=[0, 1], batch_size=2)
    with torch.device("meta"):
        again = generate(model, [[1, 2], [3]], settings, seeds=[0, 1], batch_size=2)
    assert again == expected
