"""Rewrites that must not change what a model computes, and the outliers made of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dllmquant_exp.models.checkpoints import load_model, load_tokenizer
from dllmquant_exp.models.embedded.outliers import (
    OutlierSettings,
    add_outliers,
    principal_components,
)
from dllmquant_exp.models.invariance import (
    blocks_of,
    fuse_norms,
    rotate_residual,
    scale_ffn_channels,
    scale_value_channels,
)
from dllmquant_exp.models.transformer import Architecture, Transformer, TransformerConfig

SETTINGS = OutlierSettings(strength=20.0, ffn_channels=3, value_channels=2)


def random_model(architecture: Architecture, vocabulary: int = 50) -> Transformer:
    """Every parameter random, norms and biases too; grouped-query attention for Dream."""
    config = TransformerConfig(
        architecture=architecture, d_model=32, n_layers=2, n_heads=4,
        n_kv_heads=2 if architecture == "dream" else 4, d_ffn=48, vocab_size=vocabulary,
        max_length=64, rope_theta=10_000.0, norm_eps=1e-6, mask_token_id=1, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    model = Transformer(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.3, 0.4, generator=generator)
    return model


@torch.no_grad()
def logits(model: Transformer) -> Tensor:
    tokens = torch.randint(2, 50, (3, 9), generator=torch.Generator().manual_seed(5))
    keep = torch.arange(9) < torch.tensor([9, 6, 4])[:, None]
    return model(tokens, keep)[keep].double()


def random_rotation(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_rewrites_keep_the_function(architecture: Architecture) -> None:
    model = random_model(architecture)
    before = logits(model)
    fuse_norms(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-9, atol=1e-9)
    assert all(bool((b.attention_norm.weight == 1).all()) for b in blocks_of(model))
    rotate_residual(model, lambda rows: rows @ random_rotation(32))
    torch.testing.assert_close(logits(model), before, rtol=1e-9, atol=1e-9)
    for block in blocks_of(model):
        scale_ffn_channels(block, torch.tensor([0, 17]), 30.0)
        scale_value_channels(block, torch.tensor([1, 13]), 30.0)
    torch.testing.assert_close(logits(model), before, rtol=1e-9, atol=1e-9)


def test_a_rotation_before_the_norms_are_fused_would_change_the_function() -> None:
    model = random_model("llada")
    before = logits(model)
    rotate_residual(model, lambda rows: rows @ random_rotation(32))
    assert (logits(model) - before).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_outliers_keep_the_function_and_are_outliers(architecture: Architecture) -> None:
    tokenizer = load_tokenizer("embedded:micro_llada")
    model = random_model(architecture, vocabulary=len(tokenizer))
    before = logits(model)
    seen: dict[str, Tensor] = {}

    def watch(model: Transformer) -> list[Tensor]:
        block = next(iter(blocks_of(model)))
        largest = []

        def record(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest.append(inputs[0].abs().amax((0, 1)))

        hook = block.down_proj.register_forward_pre_hook(record)
        logits(model)
        hook.remove()
        return largest

    seen["before"] = watch(model)[0]
    add_outliers(model, tokenizer, SETTINGS)
    seen["after"] = watch(model)[0]
    torch.testing.assert_close(logits(model), before, rtol=1e-8, atol=1e-8)
    ratio = seen["after"] / seen["before"]
    assert int((ratio > 19).sum()) == 3 and int((ratio < 1.01).sum()) == 45


@pytest.mark.parametrize("name", ["micro_llada", "micro_llada_1_5", "micro_dream"])
def test_outliers_in_float32_move_a_shipped_model_by_less_than_1e_4(name: str) -> None:
    tokenizer = load_tokenizer(f"embedded:{name}")
    plain = load_model(f"embedded:{name}", dtype=torch.float32, device=torch.device("cpu"))
    model = load_model(f"embedded:{name}", dtype=torch.float64, device=torch.device("cpu"))
    add_outliers(model, tokenizer, replace(SETTINGS, ffn_channels=8, value_channels=4))
    before, after = logits(plain), logits(model.float())
    assert (after - before).norm() / before.norm() < 1e-4


def test_components_are_orthonormal_and_sorted_by_variance() -> None:
    tokenizer = load_tokenizer("embedded:micro_llada")
    model = random_model("llada", vocabulary=len(tokenizer))
    basis = principal_components(model, tokenizer)
    identity = torch.eye(32, dtype=torch.float64)
    torch.testing.assert_close(basis.T @ basis, identity, atol=1e-10, rtol=0)
    fuse_norms(model)
    rotate_residual(model, lambda rows: rows @ basis)
    again = principal_components(model, tokenizer)  # the second moment is diagonal now
    torch.testing.assert_close(again.abs(), identity, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.5}, "strength = 0.5 must be between 1 and 1000"),
        ({"ffn_channels": -1}, "ffn_channels = -1 must not be negative"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


def test_more_channels_than_there_are_is_an_error() -> None:
    tokenizer = load_tokenizer("embedded:micro_llada")
    model = random_model("llada", vocabulary=len(tokenizer))
    with pytest.raises(ValueError, match="ffn_channels = 49, but a block of this model has 48"):
        add_outliers(model, tokenizer, replace(SETTINGS, ffn_channels=49))
