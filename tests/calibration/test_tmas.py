"""TMAS against a count, by loops, over what a hook saw go into the model."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet
from dllmquant_exp.calibration.tmas import Tmas
from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.errors import Refusal

MASK = 39
DECODING = DecodingSettings(20, 20, 5, "low_confidence")  # 4 blocks of 5 tokens, one a step


def tmas(**settings: Any) -> Tmas:
    """The paper's Algorithm 1 on decodes of 128 tokens, unless `settings` say something else."""
    return Tmas(**{"name": "tmas", "texts": ("any",), "gen_length": 128, "steps": 64} | settings)


SMALL = tmas(samples=32, gen_length=20, steps=20)  # 8 a block: quotas 3 2 2 3
Sample = Callable[..., CalibrationSet]


@pytest.fixture
def sample(inputs: Any, prompts: list[list[int]]) -> Sample:
    """`sample(model, sampler, prompts, batch_size)`: the set that is collected from prompts."""

    def make(
        model: Any, sampler: Tmas = SMALL, given: list[list[int]] = prompts, batch_size: int = 8
    ) -> CalibrationSet:
        return sampler.sample(inputs(model, given, size=batch_size))

    return make


def _algorithm_1(rows: list[list[list[int]]], prompts: list[list[int]], settings: Tmas):
    """The states that Algorithm 1 keeps, and the counts, from the rows [prompt][step] of DECODING.

    Written from the paper's text, with pre-step states and ascending blocks.
    """
    n = settings.samples // 4
    p = [n * share for share in settings.proportions]
    counts = [[0, 0, 0, 0] for _ in range(4)]
    kept = []
    for x, (prompt, steps) in enumerate(zip(prompts, rows, strict=True)):
        for t, row in enumerate(steps):
            if t % settings.stride != x % settings.stride:
                continue
            block = t // 5
            response = row[len(prompt) :]
            scope = response
            if settings.ratio_scope == "block":
                scope = response[5 * block : 5 * block + 5]
            r = (len(scope) - scope.count(MASK)) / len(scope)
            m = (r >= 0.2) + (r >= 0.5) + (r >= 0.8)
            if counts[block][m] < (p[m] if settings.rounding == "ceil" else int(p[m])):
                counts[block][m] += 1
                kept.append(row)
    return kept, counts


@pytest.mark.parametrize(
    ("scope", "stride", "rounding"),
    [("block", 1, "ceil"), ("block", 3, "floor"), ("response", 1, "ceil")],
)
def test_counts_are_those_of_the_recorded_trajectories(
    scope: str,
    stride: int,
    rounding: str,
    tiny_model: Callable[..., Any],
    seen: Callable[..., list[list[int]]],
    prompts: list[list[int]],
    sample: Sample,
) -> None:
    prompts = prompts[:8]
    settings = replace(SMALL, ratio_scope=scope, stride=stride, rounding=rounding)  # type: ignore[arg-type]
    assert settings.decoding("llada") == DECODING
    made = sample(tiny_model(), settings, prompts, batch_size=4)
    model = tiny_model()
    rows = seen(model)
    for prompt in prompts:
        generate(model, [prompt], DECODING, seeds=[0], batch_size=1)
    assert len(rows) == 20 * len(prompts)
    steps = [rows[20 * i : 20 * i + 20] for i in range(len(prompts))]
    kept, counts = _algorithm_1(steps, prompts, settings)
    assert made.report["filled"] == counts
    assert [state.tokens.tolist() for state in made.states] == kept
    assert len(kept) == made.report["states"] == sum(map(sum, counts))


def test_states_carry_where_they_are_from_and_scores(
    tiny_model: Callable[..., Any], sample: Sample
) -> None:
    made = sample(tiny_model())
    for state in made.states:
        masks = (state.tokens == MASK).tolist()
        assert state.masked.tolist() == masks
        block = masks[state.prompt_length + 5 * state.block :][:5]
        assert state.ratio == (5 - sum(block)) / 5
        assert state.step // 5 == state.block
        assert state.is_scored
    assert made.report["warnings"] == []
    assert made.report["filled"] == made.report["quotas"] == [[3, 2, 2, 3]] * 4


def test_quotas_and_intervals() -> None:
    assert tmas().quotas == (39, 26, 26, 39)  # 520 states in all
    assert tmas(rounding="floor").quotas == (38, 25, 25, 38)
    assert sum(tmas(blocks=8).quotas) * 8 == 528
    assert tmas(samples=40).quotas == (3, 2, 2, 3)  # whole numbers stay what they are
    assert tmas(samples=128).quotas == (10, 7, 7, 10)
    ratios = [0, 0.19, 1 / 5, 0.49, 5 / 10, 0.79, 12 / 15, 1]  # begin at their threshold
    assert [tmas().interval(ratio) for ratio in ratios] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_whole_response_reading_fills_182_of_520_states() -> None:
    """Counted by hand, for B = 4 and r before the step.

    Dream commits nothing in its first step: its third quarter begins at 63/128 < .5, which is one
    more cell of 26.
    """

    def states(sampler: Tmas, architecture: str) -> int:
        cells = sampler.visits(architecture)  # type: ignore[arg-type]
        return sum(sampler.quotas[m] for _, m in cells)

    assert states(tmas(), "llada") == 520
    assert states(tmas(ratio_scope="response"), "llada") == 182
    for scope in ("block", "response"):
        assert states(tmas(ratio_scope=scope, steps=128), "dream") == 182 + 26


def test_cells_out_of_reach_are_reported_and_not_waited_for(
    tiny_model: Callable[..., Any], sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = sample(tiny_model("dream"), batch_size=1)
    (warning,) = made.report["warnings"]
    assert "block 0 interval 3 (0/3)" in warning and warning in caplog.text
    assert made.report["prompts_used"] < 10
    assert all(state.block == state.step * 4 // 20 for state in made.states)


def test_too_few_prompts_are_reported(
    tiny_model: Callable[..., Any],
    prompts: list[list[int]],
    sample: Sample,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = sample(tiny_model(), SMALL, prompts[:1])
    # one prompt gives r = 0 | .2, .4 | .6 | .8 in every block
    assert made.report["filled"] == [[1, 2, 1, 1]] * 4
    (warning,) = made.report["warnings"]
    assert "all 1 prompts were decoded" in warning and "block 3 interval 2 (1/2)" in warning
    assert warning in caplog.text


def test_decoding_stops_when_the_quotas_are_full(
    tiny_model: Callable[..., Any], seen: Callable[..., list[list[int]]], sample: Sample
) -> None:
    model = tiny_model()
    rows = seen(model)
    made = sample(model, batch_size=2)
    assert made.report["prompts_used"] == 3  # interval 3 gets one of its 3 from every prompt
    assert len(rows) == 4 * 20 + len(made.states)  # two batches of two prompts, and the scores
    other = sample(tiny_model(), batch_size=8)  # changes no choice
    assert [s.tokens.tolist() for s in other.states] == [s.tokens.tolist() for s in made.states]
    assert other.digest == sample(tiny_model(), batch_size=8).digest
    assert SMALL.passes == 3 * 20 / 32 + 1, "decodes and scores, in passes over 32 states"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 0}, "stride = 0"),
        ({"proportions": (0.3, 0.3, 0.3, 0.3)}, "sum to 1"),
        ({"proportions": (-0.5, 0.5, 0.5, 0.5)}, "at least 0"),
        ({"proportions": (0.5, 0.5)}, "3 thresholds make 4 intervals"),
        ({"thresholds": (0.5, 0.2, 0.8)}, "increase strictly"),
        ({"ratio_scope": "prompt"}, "ratio_scope = 'prompt' is not one of"),
        ({"samples": 3, "rounding": "floor"}, "no state in any cell"),
        ({"steps": 3}, "3 steps cannot be cut into 4"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        tmas(**change)


def test_no_prompts_and_blocks_that_do_not_divide(
    tiny_model: Callable[..., Any], sample: Sample
) -> None:
    sampler = tmas(blocks=5, steps=100)
    sampler.check("dream")
    with pytest.raises(CalibrationError, match="blocks = 5 do not divide gen_length 128"):
        sampler.check("llada")
    with pytest.raises(CalibrationError, match="empty"):
        sample(tiny_model(), SMALL, [])
