"""Growing outliers: what each of its steps does to a model."""

import pytest
import torch
from torch import Tensor

from dllmquant_exp.models.checkpoints import load_model, load_tokenizer
from dllmquant_exp.models.embedded.grown_outliers import (
    Growth,
    norm_inputs,
    plant,
    pull,
    sharpen,
)
from dllmquant_exp.models.embedded.outliers import training_inputs
from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import Transformer

CPU = torch.device("cpu")
TOKENIZER = load_tokenizer("embedded:micro_llada")


def shipped() -> Transformer:
    return load_model("embedded:micro_llada", dtype=torch.float32, device=CPU)


@torch.inference_mode()
def shares(model: Transformer) -> list[float]:
    """Mean share of the energy in the first two channels, at each norm of the blocks."""
    found: list[list[Tensor]] = []
    for tokens, keep in training_inputs(model, TOKENIZER):
        with norm_inputs(model) as seen:
            model.hidden(tokens, keep)
        squares = [x[keep].pow(2) for x in seen]
        found.append([x[:, :2].sum(-1) / x.sum(-1) for x in squares])
    return [float(torch.cat(parts).mean()) for parts in zip(*found, strict=True)]


def test_planted_channels_hold_much_of_the_energy_with_opposite_signs() -> None:
    model = shipped()
    before = shares(model)
    plant(model, TOKENIZER, Growth())
    assert len(before) == 12 and max(before) < 0.1 and min(shares(model)) > 0.3
    tokens, keep = next(iter(training_inputs(model, TOKENIZER)))
    with norm_inputs(model) as seen, torch.inference_mode():
        model.hidden(tokens, keep)
    for x in seen:
        first, second = x[keep][:, :2].mean(0)
        assert first > 0 > second


def test_the_pull_is_the_relative_distance_from_the_aim() -> None:
    model, growth = shipped(), Growth(share=0.5)
    d, keep = model.config.d_model, torch.tensor([[True, True, False]])
    rest = 1 / (d - 2)
    at_aim = torch.full((1, 3, d), (0.5 * d * rest) ** 0.5)
    at_aim[..., 0], at_aim[..., 1] = (0.25 * d) ** 0.5, -((0.25 * d) ** 0.5)
    assert pull(model, [at_aim, at_aim], keep, growth) == pytest.approx(0, abs=1e-6)
    turned = at_aim.clone()
    turned[:, 1, :2] *= -1  # one token of two is 2 aims away in both channels
    turned[:, 2] = 9  # padding
    assert pull(model, [turned, at_aim], keep, growth) == pytest.approx(4, rel=1e-4)
    halves = [at_aim, turned, turned]  # the last norm's input does not count
    assert pull(model, halves, keep, growth) == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize("name", ["micro_llada", "micro_dream"])
def test_sharpening_keeps_the_function(name: str) -> None:
    model = load_model(f"embedded:{name}", dtype=torch.float64, device=CPU)
    batches = list(training_inputs(model, TOKENIZER))
    tokens, keep = batches[0]

    def down_input() -> Tensor:
        seen = []
        hook = first.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.inference_mode():
            for tokens, keep in batches:
                model.hidden(tokens, keep)
        hook.remove()
        return torch.cat([x[keep] for x, (_, keep) in zip(seen, batches, strict=True)])

    first = next(iter(blocks_of(model)))
    with torch.inference_mode():
        logits = model(tokens, keep)[keep]
    norm, before = first.attention_norm.weight.clone(), down_input()
    growth = Growth(gain=2.0, evenness=0.0, steady=10.0, rare_channels=3, rare_factor=8.0)
    sharpen(model, TOKENIZER, growth)
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens, keep)[keep], logits, rtol=1e-8, atol=1e-8)
    ratio = first.attention_norm.weight / norm
    assert ratio[:2].tolist() == [2, 2] and bool((ratio[2:] == 1).all())
    after = down_input()
    grown = after.pow(2).sum(0).sqrt() / before.pow(2).sum(0).sqrt()
    rare = (before.abs().amax(0) / before.pow(2).mean(0).sqrt()).topk(3).indices
    assert grown[rare].tolist() == pytest.approx([8, 8, 8])
    (steady,) = set((grown - 1).abs().gt(1e-6).nonzero().flatten().tolist()) - set(rare.tolist())
    size = before.pow(2).mean(1).sqrt().median()
    assert float(after[:, steady].abs().median() / size) == pytest.approx(10)


def test_even_channels_have_one_size() -> None:
    model = load_model("embedded:micro_llada", dtype=torch.float64, device=CPU)
    sharpen(model, TOKENIZER, Growth(evenness=1.0, rare_channels=0))
    first, seen = next(iter(blocks_of(model))), []
    hook = first.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][keep]))
    for tokens, keep in training_inputs(model, TOKENIZER):
        model.hidden(tokens, keep)
    hook.remove()
    sizes = torch.cat(seen).pow(2).mean(0).sqrt().sort().values
    assert float(sizes[-2] / sizes[0]) == pytest.approx(1) and sizes[-1] > 2 * sizes[0]
