"""Figures 1 and 6: block outputs against single requests and numpy's quantiles."""

import numpy as np
import pytest
import torch
from made_probes import PROMPTS, STEPS, every_state, hooked

from dllmquant_exp.probes.block_outputs import (
    QUANTILES,
    block_output_range,
    channel_distance,
    chosen_tokens,
    ffn_channels,
    iteration_distances,
    sorted_quantiles,
)
from dllmquant_exp.probes.decodes import Subject

ITERATIONS = (0, STEPS // 2, STEPS - 1)


def test_block_output_quantiles_are_those_of_each_prompt_alone(subject: Subject) -> None:
    found = block_output_range(subject)
    for number in range(PROMPTS):
        for step, tokens in enumerate(every_state(subject, number)):
            (output,) = hooked(subject.model.blocks[0], lambda t=tokens: subject.model(t))  # type: ignore[misc]
            expected = np.quantile(output.double().numpy(), QUANTILES)
            assert found.arrays["quantiles"][number, step] == pytest.approx(expected, abs=1e-4)
    width = np.ptp(found.arrays["quantiles"], axis=2)
    first = found.numbers["range_first_step"]
    assert first["value"] == pytest.approx(width[:, 0].mean()) and first["n"] == PROMPTS
    assert found.numbers["range_last_over_first"]["value"] == pytest.approx(
        width[:, -1].mean() / width[:, 0].mean()
    )


def test_ffn_channels_are_those_of_all_tokens(subject: Subject) -> None:
    found = ffn_channels(subject)
    assert tuple(found.arrays["steps"]) == ITERATIONS
    for place, step in enumerate(ITERATIONS):
        rows = []
        for number in range(PROMPTS):
            tokens = every_state(subject, number)[step]
            block = subject.model.blocks[0]
            (output,) = hooked(block.down_proj, lambda t=tokens: subject.model(t))  # type: ignore[misc]
            rows.append(output[0].double().numpy())
        expected = np.quantile(np.concatenate(rows), QUANTILES, axis=0).T
        assert found.arrays["channels"][place] == pytest.approx(expected, abs=1e-5)
    ratio = found.numbers["first_to_last_over_chance"]
    for number in range(PROMPTS):
        block = subject.model.blocks[0]
        first, middle, last = (
            hooked(block.down_proj, lambda t=tokens: subject.model(t))[0][0].numpy()  # type: ignore[misc]
            for tokens in (every_state(subject, number)[step] for step in ITERATIONS)
        )
        _, above, below = iteration_distances(first, middle, last)
        assert (ratio["above"][number], ratio["below"][number]) == pytest.approx(
            (above, below), rel=1e-3
        )


def test_iterations_that_do_not_differ_are_as_far_apart_as_chance() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(60, 8)).astype(np.float32)
    middle, last, chance = iteration_distances(first, first, first + 2)
    assert middle == chance > 0.01
    wide = np.ptp(np.quantile(first, (0.01, 0.99), axis=0), axis=0)
    assert last == pytest.approx(float((2 / wide).mean()), rel=0.2)


def test_quantiles_distances_and_chosen_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    expected = np.quantile(values.double().numpy(), (0, 0.3, 1))
    assert sorted_quantiles(values, (0, 0.3, 1)) == pytest.approx(expected)
    rows = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    assert channel_distance(rows, rows) == pytest.approx(0)
    width = np.quantile(rows, 0.99, axis=0) - np.quantile(rows, 0.01, axis=0)
    assert channel_distance(rows, rows + 1) == pytest.approx(1 / width, rel=1e-4)
    kept = chosen_tokens([5, 2], 0)
    assert [k.tolist() for k in kept] == [[0, 1, 2, 3, 4], [0, 1]]
    monkeypatch.setattr("dllmquant_exp.probes.block_outputs.TOKENS_KEPT", 20)
    kept = chosen_tokens([30, 20], 1)
    assert sum(map(len, kept)) == 20 and all(k.unique().tolist() == k.tolist() for k in kept)
    assert int(kept[0].max()) < 30 and int(kept[1].max()) < 20
