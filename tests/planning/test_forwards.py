"""Counted operations against those that PyTorch counts while a model really runs."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dllmquant_exp.models.published_shapes import DREAM_7B, LLADA_8B
from dllmquant_exp.models.transformer import (
    LANES,
    Architecture,
    Transformer,
    TransformerConfig,
)
from dllmquant_exp.planning.forwards import (
    Load,
    Precision,
    activation_bytes,
    forward_work,
    weight_bytes,
)
from dllmquant_exp.planning.shapes import all_parameters, block_parameters
from dllmquant_exp.quantization.attention_settings import AttentionSettings, IaaqSettings
from dllmquant_exp.quantization.hadamard import OnlineHadamard
from dllmquant_exp.quantization.kernels import fast_attention
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings

ROWS, LENGTH = 3, 2 * LANES  # keys up to whole lanes, which a CPU adds, are not counted


def shape(architecture: Architecture) -> TransformerConfig:
    return TransformerConfig(
        architecture=architecture,
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=4 if architecture == "llada" else 2,
        d_ffn=48,
        vocab_size=61,
        max_length=64,
        rope_theta=1e4,
        norm_eps=1e-5,
        mask_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def model_of(config: TransformerConfig) -> Transformer:
    torch.manual_seed(0)
    return Transformer(config).eval().requires_grad_(False)


def run(model: Transformer) -> tuple[float, Load]:
    """FLOPs that PyTorch counts in one call, and that call as a load."""
    tokens = torch.randint(3, 60, (ROWS, LENGTH))
    asked = torch.rand(ROWS, LENGTH) < 0.3
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, None, asked)
    squares = ROWS * LENGTH**2
    load = Load(1, ROWS, ROWS * LENGTH, squares, int(asked.sum()), LENGTH, ROWS, int(asked.sum()))
    return float(counter.get_total_flops()), load


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_products_in_full_precision(architecture: Architecture) -> None:
    model = model_of(shape(architecture))
    counted, load = run(model)
    assert forward_work(model.config, Precision(4), load).flops == counted


@pytest.mark.parametrize("iaaq", [None, IaaqSettings()])
def test_products_when_quantized(
    iaaq: IaaqSettings | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As products of matrices; those of the C kernel of a CPU are not counted by PyTorch."""
    monkeypatch.setattr(fast_attention, "kernels", lambda: None)
    model = model_of(shape("llada"))
    quant = QuantSettings(attention=AttentionSettings())
    quantize(model, MethodSettings("rtn"), quant, iaaq=iaaq)
    counted, load = run(model)
    alphas = 1 if iaaq is None else len(iaaq.alphas)
    how = Precision(4, linears=True, attention=True, alphas=alphas)
    assert forward_work(model.config, how, load).flops == counted


def test_products_of_online_rotations() -> None:
    """As products of matrices; the C kernel of a CPU takes fewer operations."""
    config, load = shape("llada"), Load(1, ROWS, ROWS * LENGTH, ROWS * LENGTH**2)
    with FlopCounterMode(display=False) as counter:
        OnlineHadamard(config.n_heads, inner=config.head_dim)(torch.randn(ROWS * LENGTH, 32))
        OnlineHadamard(config.d_ffn)(torch.randn(ROWS * LENGTH, 48))
    plain, rotated = (
        forward_work(config, Precision(4, linears=True, rotated=r), load).flops
        for r in (False, True)
    )
    assert rotated - plain == config.n_layers * counter.get_total_flops()


def test_quantized_passes_cost_more_and_packed_ones_less() -> None:
    load = Load(1, 1, 100, 1e4, 10, 100, 1, 10)
    config = shape("llada")
    plain, fake = Precision(4), Precision(4, linears=True)
    packed = replace(fake, packed=True)
    moved = [forward_work(config, how, load).moved for how in (plain, packed, fake)]
    assert moved == sorted(moved) and len(set(moved)) == 3
    assert weight_bytes(config, packed) < weight_bytes(config, plain)


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_parameters_are_the_modules(architecture: Architecture) -> None:
    config = shape(architecture)
    with torch.device("meta"):
        model = Transformer(config)
    assert all_parameters(config) == sum(p.numel() for p in model.parameters())
    linears = [m for m in model.blocks[0].modules() if isinstance(m, torch.nn.Linear)]
    assert block_parameters(config) == sum(m.weight.numel() for m in linears)


def test_parameters_are_the_published_ones() -> None:
    assert all_parameters(LLADA_8B) == 8_015_581_184
    assert all_parameters(DREAM_7B) == 7_615_616_512


def test_many_logits_decide_the_memory() -> None:
    config = LLADA_8B
    load = Load(1, 32, 32 * 256, 32 * 256**2, 32 * 256, 256, 32, 32 * 256)
    few = replace(load, asked_at_once=32)
    how = Precision(2)
    # In bfloat16 once and in float32 three times: logits, what is exponentiated, what is drawn.
    assert activation_bytes(config, how, load) > 32 * 256 * 126464 * (2 + 3 * 4)
    assert activation_bytes(config, how, few) < 4e9
