"""Figures 3 and 5: maps and values against what attention hands on, and known maps."""

from dataclasses import replace

import pytest
import torch
from made_probes import STEPS, with_settings
from torch import Tensor

from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.attention_maps import (
    NEAR,
    attention_of,
    keys_for_mass,
    near_diagonal,
    softmax_and_values,
    softmax_over_blocks,
    spaced_layers,
)
from dllmquant_exp.probes.decodes import Subject


@pytest.mark.parametrize("name", ["subject", "dream"])
def test_softmax_times_values_is_what_attention_hands_on(
    name: str, request: pytest.FixtureRequest
) -> None:
    one: Subject = request.getfixturevalue(name)
    model, config = one.model, one.model.config
    (batch,) = replace(one, trajectories=one.trajectories[:1]).states(1, [3])
    before = [block.attention for block in model.blocks]
    found = attention_of(model, batch)
    assert [block.attention for block in model.blocks] == before
    for block, (softmax, values) in zip(model.blocks, found, strict=True):
        seen: list[Tensor] = []
        hook = block.o_proj.register_forward_pre_hook(lambda _m, args, s=seen: s.append(args[0]))  # type: ignore[union-attr, misc]
        model(batch.tokens)
        hook.remove()
        heads = values.unflatten(1, (config.n_kv_heads, -1)).transpose(0, 1)
        heads = heads.repeat_interleave(config.n_heads // config.n_kv_heads, dim=0)
        mixed = (softmax @ heads).transpose(0, 1).flatten(1)
        torch.testing.assert_close(mixed, seen[0][0], atol=1e-4, rtol=1e-4)


def test_sparsity_of_known_maps() -> None:
    uniform, peaked = torch.full((2, 20, 20), 0.05), torch.eye(20)[None]
    assert keys_for_mass(uniform) == pytest.approx(18 / 20)
    assert keys_for_mass(peaked) == 1 / 20
    assert near_diagonal(peaked) == 1
    near = sum(abs(i - j) <= NEAR for i in range(20) for j in range(20))
    assert near_diagonal(uniform) == pytest.approx(near / 400)
    assert spaced_layers(32, 4) == [0, 10, 21, 31] and spaced_layers(2, 4) == [0, 1]


def test_attention_figures_hold_the_prompt_that_was_asked_for(subject: Subject) -> None:
    chosen = replace(subject, probe=with_settings(subject.probe, prompt=1, layer=2, head=3))
    _, batch, _ = subject.states(1, [STEPS // 2])
    softmax, values = attention_of(subject.model, batch)[2]
    found = softmax_and_values(chosen)
    assert found.arrays["softmax"] == pytest.approx(softmax[3].numpy(), abs=1e-6)
    assert found.arrays["values"] == pytest.approx(values.numpy(), abs=1e-5)
    blocks = softmax_over_blocks(chosen)
    assert blocks.arrays["maps"][2] == pytest.approx(softmax[3].numpy(), abs=1e-6)
    assert blocks.arrays["keys_for_mass"][2, 1] == pytest.approx(keys_for_mass(softmax))
    with pytest.raises(ProbeError, match="below the model's 3 layers"):
        softmax_and_values(replace(chosen, probe=with_settings(chosen.probe, layer=3)))
