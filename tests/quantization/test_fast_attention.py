"""Quantized attention's kernel against softmax and rounding in float64."""

import pytest
import torch

from dllmquant_exp.quantization.attention import QuantizedAttention
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.kernels import fast_attention, kernels
from dllmquant_exp.quantization.kernels.fast_attention import rounded_products
from dllmquant_exp.quantization.kernels.library import NO_MEMORY
from dllmquant_exp.quantization.quant_settings import AttentionSettings
from dllmquant_exp.quantization.quantizers import Quantizer

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C compiler or no AVX2 here")
P4 = Quantizer(4, False, "per_token")
SHAPES = {  # requests, heads, kv_heads, T, D
    "one token": (1, 1, 1, 1, 2),
    "small": (2, 2, 2, 5, 8),
    "micro": (3, 4, 4, 64, 48),
    "grouped": (2, 6, 2, 37, 24),
    "published": (1, 2, 1, 130, 128),  # rows in several chunks
}


def make(shape, seed=0):
    requests, heads, kv_heads, length, size = shape
    generator = torch.Generator().manual_seed(seed)
    q = 3 * torch.randn(requests, heads, length, size, generator=generator)
    k, v = torch.randn(2, requests, kv_heads, length, size, generator=generator)
    return q, k, v


def real_tokens(shape):
    """Request n without its last n tokens, and without its first one where that leaves any."""
    mask = torch.ones(shape[0], 1, 1, shape[3], dtype=torch.bool)
    for n in range(1, shape[0]):
        mask[n, ..., -n:] = False
        mask[n, ..., 0] = shape[3] < 4
    return mask


def softmax(q, k, mask):
    """P in float64, [B, kv_heads, G * T, T]."""
    rows = q.double().reshape(*k.shape[:2], -1, k.shape[3])
    scores = rows @ k.double().transpose(2, 3) / k.shape[3] ** 0.5
    return scores.softmax(-1) if mask is None else scores.where(mask, -torch.inf).softmax(-1)


def weights(q, k, mask, quantizer):
    """Q(P): its products with the columns of the identity, as many at once as a head is wide."""
    *_, length, size = k.shape
    identity = torch.eye(length, -(-length // size) * size).split(size, 1)
    columns = [part.expand(k.shape).contiguous() for part in identity]
    products = rounded_products(q, k, columns, mask, quantizer)
    return torch.cat(products, -1)[..., :length]


P2, P8 = Quantizer(2, False, "per_token"), Quantizer(8, False, "per_token", clip_ratio=0.8)
ROUNDED = [*((shape, P4, True) for shape in SHAPES), ("micro", P4, False), ("grouped", P4, False),
           ("published", P2, False), ("grouped", P2, True), ("micro", P8, True),
           ("grouped", P8, False)]  # fmt: skip


@pytest.mark.parametrize(("shape", "quantizer", "masked"), ROUNDED)
def test_weights_are_rounded_as_in_float64(shape, quantizer, masked):
    shape = SHAPES[shape]
    q, k, _ = make(shape)
    mask = real_tokens(shape) if masked else None
    p = softmax(q, k, mask)
    scale = p.amax(-1, keepdim=True) * quantizer.clip_ratio / quantizer.highest
    ratio = (p / scale).clamp(max=quantizer.highest)
    found = weights(q, k, mask, quantizer).double() / scale
    torch.testing.assert_close(found, found.round(), rtol=1e-5, atol=1e-6)
    tie = (ratio - ratio.floor() - 0.5).abs() < 1e-3  # float32 may fall on the other side
    assert tie.float().mean() < 0.02
    assert torch.equal(found.round()[~tie], ratio.round()[~tie])
    assert ((found.round() - ratio).abs()[tie] < 0.51).all()
    if masked:
        assert not found[~mask.expand_as(found)].any()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_products_are_those_of_the_rounded_weights(shape):
    q, k, v = make(shape)
    mask = real_tokens(shape)
    p = weights(q, k, mask, P4).double()
    numbers = (4 * v).round().clamp(-15, 15)
    products = rounded_products(q, k, [numbers, v], mask, P4)
    for found, value in zip(products, (numbers, v), strict=True):
        torch.testing.assert_close(found.double(), p @ value.double(), rtol=1e-5, atol=1e-6)


def test_neither_padding_nor_company_nor_threads_change_a_bit():
    shape = SHAPES["grouped"]
    q, k, v = make(shape)
    [alone] = rounded_products(q[:1], k[:1], [v[:1]], None, P4)
    mask = torch.ones(2, 1, 1, 53, dtype=torch.bool)
    mask[..., 37:] = False
    padded = [torch.cat((x, torch.full((*x.shape[:2], 16, 24), 1e3)), 2) for x in (q, k, v)]
    [found] = rounded_products(padded[0], padded[1], [padded[2]], mask, P4)
    rows = found.unflatten(2, (-1, 53))[:1, :, :, :37].flatten(2, 3)
    assert torch.equal(rows, alone)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(rounded_products(q[:1], k[:1], [v[:1]], None, P4)[0], alone)
    finally:
        torch.set_num_threads(threads)


def test_a_request_without_tokens_is_0_and_nan_stays_in_its_row():
    q, k, v = make(SHAPES["small"])
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    mask[1] = False
    q[0, 0, 2, 3] = torch.nan
    [found] = rounded_products(q, k, [v], mask, P4)
    assert not found[1].any()
    assert found[0, 0, 2].isnan().all()
    found[0, 0, 2] = 0
    assert found.isfinite().all()
    q, k, v = make(SHAPES["small"])
    k[0, 1, 4, 0] = torch.inf
    q[0, 1, :, 0] = torch.tensor([1.0, -1, 1, -1, -1])
    [found] = rounded_products(q, k, [v], None, P4)
    lost = softmax(q, k, None).isnan().any(-1)  # where the query's number is above 0
    assert 0 < lost.sum() < lost.numel()
    assert torch.equal(found.isnan().all(-1), lost)
    assert torch.equal(found.isfinite().all(-1), ~lost)


def test_scores_far_apart_and_all_alike():
    q, k, v = make(SHAPES["small"])
    [sharp] = rounded_products(1e4 * q, k, [v], None, P4)
    best = softmax(1e4 * q, k, None).argmax(-1, keepdim=True)
    torch.testing.assert_close(sharp, v.gather(2, best.expand_as(sharp)), rtol=1e-6, atol=0)
    [flat] = rounded_products(0 * q, k, [v], None, P4)
    torch.testing.assert_close(flat, v.mean(2, keepdim=True).expand_as(flat), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("iaaq", [None, Iaaq(), Iaaq(granularity="per_tensor")])
def test_attention_is_that_of_products_of_matrices(dtype, iaaq, monkeypatch):
    """With the kernel and without, but for weights that stand between two numbers."""
    shape = SHAPES["grouped"]
    q, k, v = (x.to(dtype) for x in make(shape))
    attention = QuantizedAttention(AttentionSettings(), iaaq)
    mask = real_tokens(shape)
    fast = attention(q, k, v, mask)
    with monkeypatch.context() as patch:
        patch.setattr(fast_attention, "kernels", lambda: None)
        slow = attention(q, k, v, mask)
    assert fast.dtype == dtype
    apart = (fast.float() - slow.float()).abs().amax(-1) > 1e-5
    assert apart.float().mean() < 0.01


def test_inputs_that_are_left_to_products_of_matrices():
    q, k, v = make(SHAPES["small"])
    assert rounded_products(q.double(), k.double(), [v.double()], None, P4) is None
    assert rounded_products(q, k, [v.double()], None, P4) is None
    numbers = torch.ones(2, 1, 1, 5, dtype=torch.int64)
    assert rounded_products(q, k, [v], numbers, P4) is None
    assert rounded_products(*(x.to("meta") for x in (q, k)), [v.to("meta")], None, P4) is None


def test_how_tensors_lie_in_memory_and_their_type():
    """Transposed, as a block hands them over, in half precision."""
    q, k, v = (x.half() for x in make(SHAPES["grouped"]))
    mask = real_tokens(SHAPES["grouped"])
    [expected] = rounded_products(q.float(), k.float(), [v.float()], mask, P4)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    [found] = rounded_products(turned[0], turned[1], [turned[2]], mask, P4)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_no_memory_is_said(monkeypatch):
    q, k, v = make(SHAPES["small"])
    monkeypatch.setattr(type(kernels()), "rounded_attention", lambda *_: NO_MEMORY)
    with pytest.raises(MemoryError, match="5 tokens of 8"):
        rounded_products(q, k, [v], None, P4)
