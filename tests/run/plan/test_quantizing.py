"""Counted operations of quantization against those that PyTorch counts while it really runs."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.run.plan.forwards import Load, Precision
from dllmquant_exp.run.plan.quantizing import quantize_work, weights_disk

CONFIG = TransformerConfig(
    architecture="llada",
    d_model=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=4,
    d_ffn=96,
    vocab_size=61,
    max_length=64,
    rope_theta=1e4,
    norm_eps=1e-5,
    mask_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
)
BATCHES, ROWS, LENGTH = 3, 4, 40
STATES = Load(
    calls=BATCHES,
    rows=BATCHES * ROWS,
    tokens=BATCHES * ROWS * LENGTH,
    squares=BATCHES * ROWS * LENGTH**2,
    longest=LENGTH,
    batch=ROWS,
)
GPTQ = Gptq(block_size=8)  # passes errors on by products, which are counted
METHODS = {
    "awq": Method("awq", {"awq": Awq(), "round": Nearest()}),
    "gptq": Method("gptq", {"gptq": GPTQ}),
    "awq_gptq": Method("awq_gptq", {"awq": Awq(), "gptq": GPTQ}),
    "quarot": Method("quarot", {"rotation": Rotation(), "gptq": GPTQ}),
}


def batches() -> list[TokenBatch]:
    ones = torch.ones(ROWS, LENGTH)
    return [
        TokenBatch(torch.randint(3, 60, (ROWS, LENGTH)), ones.bool(), ones) for _ in range(BATCHES)
    ]


@pytest.mark.parametrize("name", METHODS)
def test_products(name: str) -> None:
    torch.manual_seed(0)
    model = Transformer(CONFIG).eval().requires_grad_(False)
    quant, method = QuantSettings(), METHODS[name]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        quantize(model, method, quant, calibration=batches())
    how = Precision(4, linears=True, rotated=method.online)
    work = quantize_work(CONFIG, method, quant, how, STATES)
    assert work.flops + work.wide_flops == pytest.approx(counter.get_total_flops(), rel=0.2)


def test_rounding_to_the_nearest_multiplies_nothing_and_searches_clips() -> None:
    how, method = Precision(4, linears=True), Method("rtn", {"round": Nearest()})
    plain = quantize_work(CONFIG, method, QuantSettings(), how, None)
    searched = quantize_work(CONFIG, method, QuantSettings(weight_clip_search=2.4), how, None)
    assert plain.flops == plain.powers == 0
    weights = 2 * (4 * 64 * 64 + 3 * 64 * 96)
    assert searched.powers == 80 * weights


def test_more_states_cost_more() -> None:
    how = Precision(4, linears=True)
    twice = replace(STATES, calls=2 * BATCHES, tokens=2 * STATES.tokens, squares=2 * STATES.squares)
    for method in METHODS.values():
        few, many = (
            quantize_work(CONFIG, method, QuantSettings(), how, states)
            for states in (STATES, twice)
        )
        assert few.flops < many.flops < 2.01 * few.flops
        assert few.moved < many.moved


def test_rounded_blocks_take_a_byte_per_weight() -> None:
    weights = 2 * (4 * 64 * 64 + 3 * 64 * 96)
    assert weights < weights_disk(CONFIG, QuantSettings()) < 1.5 * weights
