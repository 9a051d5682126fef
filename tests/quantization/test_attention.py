"""Quantized attention against loops over requests, heads and tokens, with integer products.

Each reference request is cropped to its real tokens first, so that agreement with a padded batch
shows that padding has no influence and that requests do not see each other.
"""

import copy
import math

import numpy as np
import pytest
import torch
from small_models import padded_tokens, small_model

from dllmquant_exp.models.transformer import attention
from dllmquant_exp.quantization.attention import (
    QuantizedAttention,
    attention_weights,
    fix_alphas,
    quantize_probabilities,
    value_parameters,
)
from dllmquant_exp.quantization.blockwise import BlockBatch, TokenBatch, first_block_batches
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.quant_settings import AttentionSettings
from dllmquant_exp.quantization.quantizers import (
    OFF,
    QuantizationError,
    Quantizer,
    fake_quantize,
)

HEADS, HEAD_DIM = 4, 8
LENGTHS = (6, 3, 5)
GRANULARITIES = ("per_tensor", "per_head", "per_channel")
FULL = AttentionSettings(p_bits=OFF, v_bits=OFF, k_bits=OFF)


def tensors(kv_heads, lengths=LENGTHS, seed=0, dtype=torch.float64):
    """q, k, v and mask; peaked attention, and large values at padding."""
    generator = torch.Generator().manual_seed(seed)
    length = max(lengths)

    def draw(heads):
        return torch.randn(
            len(lengths), heads, length, HEAD_DIM, dtype=torch.float64, generator=generator
        )

    mask = (torch.arange(length)[None] < torch.tensor(lengths)[:, None])[:, None, None, :]
    real = mask.transpose(2, 3)
    q, k, v = 2 * draw(HEADS), draw(kv_heads), draw(kv_heads)
    return *(torch.where(real, x, 50 * x).to(dtype) for x in (q, k, v)), mask


def scale_and_zero(values, bits, symmetric, clip):
    low, high = clip * min(values.min(), 0), clip * max(values.max(), 0)
    if symmetric:
        return 2 * max(high, -low) / (2**bits - 1), 0
    scale = (high - low) / (2**bits - 1)
    return scale, int(np.rint(-low / scale))


def integers(values, scale, zero, bits, symmetric):
    low = -(2 ** (bits - 1)) if symmetric else 0
    return np.clip(np.rint(values / scale) + zero, low, low + 2**bits - 1).astype(np.int64)


def softmax_rows(q, k, settings):
    """P of one request: integers [heads, T, T] (floats when off) and scales [heads, T]."""
    heads, length, _ = q.shape
    p, scales = np.zeros((heads, length, length)), np.ones((heads, length))
    for h in range(heads):
        keys = k[h // (heads // len(k))].copy()
        for key in keys if settings.k_bits != OFF else ():
            for start in range(0, HEAD_DIM, settings.k_group):
                group = key[start : start + settings.k_group]
                how = (settings.k_bits, settings.symmetric)
                scale, zero = scale_and_zero(group, *how, settings.k_clip_ratio)
                group[:] = scale * (integers(group, scale, zero, *how) - zero)
        for t in range(length):
            scores = np.array([q[h, t] @ key for key in keys]) / math.sqrt(HEAD_DIM)
            row = np.exp(scores - scores.max())
            row /= row.sum()
            if settings.p_bits != OFF:
                scales[h, t] = settings.p_clip_ratio * row.max() / (2**settings.p_bits - 1)
                row = integers(row, scales[h, t], 0, settings.p_bits, False)
            p[h, t] = row
    return p, scales


def value_grids(v, settings):
    """Scale and zero of one request's V at every head and channel, [kv_heads, D] each."""
    how = (settings.v_bits, settings.symmetric, settings.v_clip_ratio)
    scale, zero = np.ones(v.shape[::2]), np.zeros(v.shape[::2], dtype=np.int64)
    for h in range(len(v)):
        for d in range(HEAD_DIM):
            shared = {"per_tensor": v, "per_head": v[h], "per_channel": v[h, :, d]}
            scale[h, d], zero[h, d] = scale_and_zero(shared[settings.v_granularity], *how)
    return scale, zero


def losses_by_loops(p, v, settings, iaaq):
    """|| P (V_hat - V) ||^2 per alpha, head of V and channel, of one request; P dequantized."""
    scale, zero = value_grids(v, settings)
    losses = np.zeros((len(iaaq.alphas), len(v), HEAD_DIM))
    for a, alpha in enumerate(iaaq.alphas):
        for h in range(len(p)):
            g = h // (len(p) // len(v))
            for d in range(HEAD_DIM):
                s, z = alpha * scale[g, d], zero[g, d]
                error = s * (integers(v[g, :, d], s, z, settings.v_bits, settings.symmetric) - z)
                error -= v[g, :, d]
                for row in p[h]:
                    losses[a, g, d] += (row @ error) ** 2
    return losses


def shared_losses(losses, granularity):
    """Summed over what shares an alpha, repeated for every head and channel."""
    axes = {"per_tensor": (1, 2), "per_head": (2,), "per_channel": ()}[granularity]
    return np.broadcast_to(losses.sum(axes, keepdims=True), losses.shape)


def reference(q, k, v, settings, iaaq=None, alpha=None):
    """One request, arrays [heads, T, D]: P V as a product of integers where both are quantized."""
    p, p_scale = softmax_rows(q, k, settings)
    if settings.v_bits == OFF:
        grid, values = (np.ones(v.shape[::2]), None), v
    else:
        scale, zero = value_grids(v, settings)
        if iaaq is not None and alpha is None:
            losses = losses_by_loops(p * p_scale[..., None], v, settings, iaaq)
            alpha = np.array(iaaq.alphas)[shared_losses(losses, iaaq.granularity).argmin(0)]
        grid = (scale if alpha is None else scale * alpha, zero)
        how = (settings.v_bits, settings.symmetric)
        values = integers(v, grid[0][:, None], zero[:, None], *how) - zero[:, None]
    output = np.zeros(q.shape)
    for h in range(len(q)):
        g = h // (len(q) // len(v))
        output[h] = p_scale[h][:, None] * (p[h] @ values[g]) * grid[0][g]
    return output, alpha


def check(module, kv_heads, alpha=None, seed=0):
    """A padded batch against the reference, request by request; returns the reference's alphas."""
    q, k, v, mask = tensors(kv_heads, seed=seed)
    output = module(q, k, v, mask)
    assert bool(output.isfinite().all())
    alphas = []
    for i, n in enumerate(LENGTHS):
        request = (x[i, :, :n].numpy() for x in (q, k, v))
        expected, chosen = reference(*request, module.settings, module.iaaq, alpha)
        torch.testing.assert_close(output[i, :, :n], torch.from_numpy(expected), rtol=0, atol=1e-10)
        alphas.append(chosen)
    return alphas


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [True, False])
def test_sixteen_bits_everywhere_are_full_precision(kv_heads, masked):
    q, k, v, mask = tensors(kv_heads, dtype=torch.float32)
    mask = mask if masked else None
    expected = attention(q, k, v, mask)
    assert torch.equal(QuantizedAttention(FULL)(q, k, v, mask), expected)
    # the explicit softmax, which the quantized product needs
    explicit = (attention_weights(q, k, mask) @ v).reshape(q.shape)
    torch.testing.assert_close(explicit, expected, rtol=1e-5, atol=1e-6 * float(v.abs().max()))


SETTINGS = {
    "default": AttentionSettings(),
    "per tensor": AttentionSettings(v_granularity="per_tensor"),
    "per channel": AttentionSettings(v_granularity="per_channel", v_clip_ratio=0.9),
    "symmetric": AttentionSettings(symmetric=True, k_bits=4),
    "all clipped": AttentionSettings(
        k_bits=4, p_clip_ratio=0.8, v_clip_ratio=0.9, k_clip_ratio=0.95
    ),
    "groups of K": AttentionSettings(p_bits=8, v_bits=3, k_bits=4, k_group=4),
    "P only": AttentionSettings(v_bits=OFF),
    "V only": AttentionSettings(p_bits=OFF),
    "K only": AttentionSettings(p_bits=OFF, v_bits=OFF, k_bits=4),
    "K and V": AttentionSettings(p_bits=OFF, k_bits=8),
    "K and P": AttentionSettings(v_bits=OFF, k_bits=2),
}


@pytest.mark.parametrize(
    ("kind", "kv_heads"), [*((kind, 2) for kind in SETTINGS), ("default", 1), ("symmetric", 4)]
)
def test_every_switch_matches_the_loops(kind, kv_heads):
    module = QuantizedAttention(SETTINGS[kind])
    check(module, kv_heads)
    q, k, v, mask = tensors(kv_heads)
    real = mask.transpose(2, 3).expand_as(q)
    error = (module(q, k, v, mask) - attention(q, k, v, mask))[real]
    assert float(error.norm() / attention(q, k, v, mask)[real].norm()) > 1e-3


@pytest.mark.parametrize(
    ("granularity", "kv_heads"),
    [("per_tensor", 2), ("per_head", 2), ("per_channel", 2), ("per_head", 1), ("per_head", 4)],
)
def test_online_alphas_are_the_best_of_all(granularity, kv_heads):
    settings = AttentionSettings(v_bits=2, v_granularity="per_channel")
    iaaq = Iaaq(granularity=granularity, alphas=(1.0, 0.9, 0.8, 0.7))
    alphas = [
        a
        for seed in range(3)
        for a in check(QuantizedAttention(settings, iaaq), kv_heads, seed=seed)
    ]
    assert len(np.unique(alphas)) > 1  # or the search would not be tested


@pytest.mark.parametrize(
    ("settings", "iaaq"),
    [
        (AttentionSettings(), Iaaq()),
        (AttentionSettings(p_bits=OFF, k_bits=4), Iaaq(granularity="per_tensor")),
        (AttentionSettings(v_granularity="per_tensor"), Iaaq(granularity="per_tensor")),
        (AttentionSettings(symmetric=True), Iaaq(alphas=(0.6, 0.8, 1.0))),
    ],
)
def test_alphas_with_other_quantizers(settings, iaaq):
    check(QuantizedAttention(settings, iaaq), 2)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_losses_are_those_of_the_loops(granularity):
    settings = AttentionSettings(v_granularity="per_channel")
    iaaq = Iaaq(granularity=granularity)
    q, k, v, mask = tensors(2)
    losses = QuantizedAttention(settings, iaaq).losses(q, k, v, mask)
    for i, n in enumerate(LENGTHS):
        p, scales = softmax_rows(q[i, :, :n].numpy(), k[i, :, :n].numpy(), settings)
        expected = losses_by_loops(p * scales[..., None], v[i, :, :n].numpy(), settings, iaaq)
        expected = shared_losses(expected, granularity)
        actual = losses[:, i, :, 0].broadcast_to(expected.shape)
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_iaaq_changes_alpha_and_nothing_else():
    q, k, v, mask = tensors(2)
    settings = AttentionSettings()
    losses = QuantizedAttention(settings, Iaaq(alphas=(1.0, 0.8))).losses(q, k, v, mask)
    assert losses.shape == (2, len(LENGTHS), 2, 1, 1)
    measured = value_parameters(v, mask, settings)
    assert measured.scale.shape == (len(LENGTHS), 2, 1, 1)  # no scale per token
    # where alpha = 1 wins for every head of a request, its output is that without IA-AQ
    without = QuantizedAttention(settings)(q, k, v, mask)
    with_it = QuantizedAttention(settings, Iaaq(alphas=(1.0, 0.01)))(q, k, v, mask)
    torch.testing.assert_close(with_it, without, rtol=0, atol=0)


def test_a_request_of_padding_only_gives_zeros():
    q, k, v, mask = tensors(2)
    mask[1] = False
    for iaaq in (None, Iaaq()):
        output = QuantizedAttention(AttentionSettings(), iaaq)(q, k, v, mask)
        assert bool((output[1] == 0).all())
        assert bool(output.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types(dtype):
    q, k, v, mask = tensors(2, dtype=dtype)
    for settings in SETTINGS.values():
        module = QuantizedAttention(settings)
        output = module(q, k, v, mask)
        assert output.dtype == dtype
        wide = module(q.float(), k.float(), v.float(), mask)
        torch.testing.assert_close(output.float(), wide, rtol=0.1, atol=0.5)


# Static alphas


def block_and_batches(kv_heads, iaaq):
    model = small_model("dream", torch.float64, n_kv_heads=kv_heads, seed=1)
    settings = AttentionSettings(v_bits=2, v_granularity="per_channel")
    model.blocks[0].attention = QuantizedAttention(settings, iaaq)
    given = [padded_tokens(lengths, n) for n, lengths in enumerate([(6, 3), (5,), (2, 7, 4)])]
    states = [TokenBatch(tokens, mask, mask.double()) for tokens, mask in given]
    return model.blocks[0], first_block_batches(model, states)


@pytest.mark.parametrize(
    ("granularity", "kv_heads"),
    [("per_tensor", 2), ("per_head", 2), ("per_channel", 2), ("per_head", 4)],
)
def test_static_alphas_are_the_best_over_all_requests(granularity, kv_heads):
    iaaq = Iaaq(alphas=(1.0, 0.85, 0.7), granularity=granularity, mode="static")
    block, batches = block_and_batches(kv_heads, iaaq)
    calls = []
    handle = block.attention.register_forward_pre_hook(lambda _, args: calls.append(args))
    alphas = fix_alphas(block, iter(batches))
    handle.remove()
    losses = 0
    for q, k, v, mask in calls:
        for i in range(len(q)):
            n = q.shape[2] if mask is None else int(mask[i].sum())
            request = [x[i, :, :n].detach().numpy() for x in (q, k, v)]
            p, scales = softmax_rows(*request[:2], block.attention.settings)
            losses += losses_by_loops(
                p * scales[..., None], request[2], block.attention.settings, iaaq
            )
    best = np.array(iaaq.alphas)[shared_losses(losses, granularity).argmin(0)]
    assert len(calls) == len(batches)
    assert np.array_equal(np.broadcast_to(alphas[0, :, 0], best.shape), best)
    assert granularity == "per_tensor" or len(np.unique(best)) > 1
    # and later calls use them, whatever would be best there
    check(block.attention, kv_heads, alpha=best)


def test_static_alphas_are_saved_and_not_rounded():
    iaaq = Iaaq(granularity="per_channel", mode="static")
    block, batches = block_and_batches(2, iaaq)
    fix_alphas(block, batches)
    module = block.attention
    assert "choice" in module.state_dict()
    twin = copy.deepcopy(module).to(torch.bfloat16)
    q, k, v, mask = tensors(2)
    assert torch.equal(twin(q, k, v, mask), module(q, k, v, mask))


def test_static_alphas_must_be_fixed_first():
    block, batches = block_and_batches(2, Iaaq(mode="static"))
    with pytest.raises(QuantizationError, match="no alphas yet: call fix_alphas"):
        batches[0].run(block)
    broken = BlockBatch(**(vars(batches[0]) | {"hidden": batches[0].hidden * torch.nan}))
    with pytest.raises(QuantizationError, match="NaN"):
        fix_alphas(block, [batches[1], broken])
    # a failure leaves nothing behind
    with pytest.raises(QuantizationError, match="no alphas yet"):
        batches[0].run(block)
    assert not block.attention._forward_pre_hooks


# Whole models


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_a_model_takes_it_in_place_of_its_attention(architecture):
    model = small_model(architecture, torch.float64, seed=2)
    tokens, mask = padded_tokens()
    exact = model(tokens, mask)
    for settings, iaaq in ((FULL, None), (AttentionSettings(k_bits=4), Iaaq())):
        for block in model.blocks:
            block.attention = QuantizedAttention(settings, iaaq)
        logits = model(tokens, mask)
        assert torch.equal(logits[mask], exact[mask]) == (settings == FULL)
        for row, real, together in zip(tokens, mask, logits, strict=True):
            alone = model(row[real][None])[0]
            torch.testing.assert_close(together[real], alone, rtol=0, atol=1e-10)


def test_groups_of_keys_must_divide_a_head():
    module = QuantizedAttention(AttentionSettings(k_bits=4, k_group=3))
    with pytest.raises(QuantizationError, match="group_size = 3 does not divide 8 features"):
        module(*tensors(2))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("clip_ratio", [1.0, 0.8])
def test_probabilities_are_rounded_as_any_other_tensor_is(bits: int, clip_ratio: float) -> None:
    generator = torch.Generator().manual_seed(bits)
    p = (4 * torch.randn(3, 2, 9, 11, generator=generator)).softmax(-1)
    p[0, 1, 2] = 0  # a row of zeros, as at padding
    quantizer = Quantizer(bits, False, "per_token", clip_ratio=clip_ratio)
    wanted = fake_quantize(p, quantizer)
    integers, scale = quantize_probabilities(p.clone(), quantizer)
    assert torch.equal(integers, integers.round())
    assert torch.equal(integers * scale, wanted)


@pytest.mark.parametrize("at_once", [1, 2 * 4 * 36])
@pytest.mark.parametrize("rows", [1, 4, 64])
@pytest.mark.parametrize("padded", [True, False])
def test_parts_of_p_are_the_same_as_all_at_once(
    at_once: int, rows: int, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v, mask = tensors(2)
    module = QuantizedAttention(AttentionSettings(), Iaaq())
    arguments = (q, k, v, mask if padded else None)
    whole, losses = module(*arguments), module.losses(*arguments)
    monkeypatch.setattr("dllmquant_exp.quantization.attention._P_AT_ONCE", at_once)
    monkeypatch.setattr("dllmquant_exp.quantization.attention._ROWS_AT_ONCE", rows)
    torch.testing.assert_close(module(*arguments), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(module.losses(*arguments), losses, rtol=1e-9, atol=1e-12)
