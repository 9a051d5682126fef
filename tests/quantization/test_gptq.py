"""GPTQ against the textbook recursion, closed-form re-optimization and brute-force sums."""

import importlib.util
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.gptq import gptq as gptq_shared
from dllmquant_exp.quantization.hessian import Hessian
from dllmquant_exp.quantization.quantizers import (
    QuantizationError,
    Quantizer,
    fake_quantize,
    parameters,
)

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
QUANTIZERS = (
    Quantizer(4, True, "per_channel"),
    Quantizer(3, True, "per_channel", grid="restricted"),
    Quantizer(4, True, "per_tensor", grid="max_over_7", clip_ratio=0.8),
    Quantizer(4, True, "per_group", group_size=4),
    Quantizer(3, False, "per_group", group_size=8),
)
WIDE = Gptq(dtype="float64")
ROW = QUANTIZERS[0]


PLAIN = Gptq()


def gptq(weight, matrix, quantizer, settings=PLAIN):
    """The rounded values of one weight, and what is reported of them."""
    return named(weight, *gptq_shared([weight], matrix, quantizer, settings))


def named(weight, rounded):
    return SimpleNamespace(weight=rounded.weight.values(weight.dtype), **rounded.report)


def textbook(weight, matrix, quantizer, act_order=False):
    spec = importlib.util.spec_from_file_location("textbook", BENCHMARKS / "textbook_gptq.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    measured = parameters(weight, quantizer)
    size = quantizer.group_size or 1
    scale, zero = (
        t.squeeze(-1).repeat_interleave(size, -1) if t.dim() == 3 else t
        for t in (measured.scale, measured.zero)
    )
    ends = (quantizer.lowest, quantizer.highest)
    return module.textbook_gptq(weight, matrix, scale, zero, ends, act_order=act_order, block=8)


def problem(rows=12, columns=24, tokens=200, seed=0, dtype=torch.float64):
    """A weight, correlated inputs and token weights."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator)

    x = randn(tokens, columns) @ randn(columns, columns) / columns**0.5
    return randn(rows, columns), x, torch.rand(tokens, dtype=dtype, generator=generator) + 0.1


def hessian(x, weights=None, dtype=torch.float64):
    H = Hessian(x.shape[-1], dtype)
    H.add(x, weights)
    return H.matrix()


def output_error(x, weight, rounded, weights=None):
    """Weighted mean over tokens of ||W x - Wq x||^2, token by token."""
    weights = torch.ones(len(x)) if weights is None else weights
    each = [
        float(w) * float(((weight - rounded) @ t).square().sum())
        for t, w in zip(x, weights, strict=True)
    ]
    return sum(each) / len(each)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize(
    ("act_order", "block_size"), [(False, 7), (True, 7), (True, 1), (True, 128)]
)
def test_same_values_as_the_textbook(quantizer, act_order, block_size):
    weight, x, weights = problem()
    H = hessian(x, weights)
    settings = Gptq(act_order=act_order, block_size=block_size, dtype="float64")
    actual = gptq(weight, H, quantizer, settings).weight
    expected = textbook(weight, H, quantizer, act_order)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_same_values_as_closed_form_reoptimization():
    """Round a column, re-solve the later ones by least squares with the rounded ones fixed."""
    weight, x, _ = problem(rows=5, columns=10)
    H = hessian(x)
    measured = parameters(weight, ROW)
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(10, dtype=H.dtype)
    expected = weight.clone()
    for r in range(5):
        w, scale = weight[r].clone(), measured.scale[r, 0]
        for k in range(10):
            rounded = (w[k] / scale).round().clamp(ROW.lowest, ROW.highest) * scale
            expected[r, k] = rounded
            delta = expected[r, : k + 1] - weight[r, : k + 1]
            rest = torch.linalg.solve(damped[k + 1 :, k + 1 :], damped[k + 1 :, : k + 1] @ delta)
            w[k + 1 :] = weight[r, k + 1 :] - rest
    actual = gptq(weight, H, ROW, WIDE).weight
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("act_order", [False, True])
def test_uncorrelated_inputs_make_it_round_to_nearest(act_order, dtype):
    weight, _, _ = problem(dtype=dtype)
    H = torch.diag(torch.arange(1.0, 25)).to(dtype)
    for quantizer in QUANTIZERS:
        result = gptq(weight, H, quantizer, Gptq(act_order=act_order, dtype=str(dtype)[6:]))
        assert torch.equal(result.weight, fake_quantize(weight, quantizer))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_less_error_than_round_to_nearest_and_the_loss_is_that_error(quantizer):
    weight, x, weights = problem()
    for act_order in (False, True):
        settings = Gptq(act_order=act_order, dtype="float64")
        result = gptq(weight, hessian(x, weights), quantizer, settings)
        error = output_error(x, weight, result.weight, weights)
        assert result.loss == pytest.approx(error, rel=1e-9)
        assert error < 0.8 * output_error(x, weight, fake_quantize(weight, quantizer), weights)
        assert (result.escalations, result.dead_columns) == (0, 0)


def test_the_hessian_is_the_weighted_mean_of_outer_products():
    _, x, weights = problem(columns=300, tokens=36)  # wider than one strip
    H = Hessian(300, torch.float64)
    H.add(x[:20].reshape(4, 5, 300), weights[:20].reshape(4, 5))
    H.add(x[20:], weights[20:])
    outer = [w * torch.outer(t, t) for t, w in zip(x, weights, strict=True)]
    torch.testing.assert_close(H.matrix(), 2 / 36 * sum(outer), rtol=1e-12, atol=1e-12)
    assert torch.equal(H.matrix(), H.matrix().T)
    assert H.tokens == 36
    assert H.total_weight == pytest.approx(float(weights.sum()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_one_change_no_bit(dtype):
    weight, x, _ = problem(dtype=dtype)
    plain, ones = hessian(x, None, dtype), hessian(x, torch.ones(len(x)), dtype)
    assert torch.equal(plain, ones)
    results = [gptq(weight, H, ROW, Gptq(dtype=str(dtype)[6:])).weight for H in (plain, ones)]
    assert torch.equal(*results)


def test_a_constant_weight_keeps_the_result_and_scales_the_loss():
    weight, x, weights = problem()
    for factor in (1e-4, 7.0):
        a = gptq(weight, hessian(x, weights), ROW, WIDE)
        b = gptq(weight, hessian(x, factor * weights), ROW, WIDE)
        assert torch.equal(a.weight, b.weight)
        assert b.loss == pytest.approx(factor * a.loss, rel=1e-6)


def test_padding_leaves_no_trace():
    _, x, weights = problem()
    padded = torch.cat((x[:50], torch.full((9, 24), float("nan")), x[50:])).to(x.dtype)
    longer = torch.cat((weights[:50], torch.zeros(9), weights[50:]))
    assert torch.equal(hessian(padded, longer), hessian(x, weights))


def test_weight_on_one_token_lowers_that_token_s_error():
    weight, x, _ = problem()
    for token in range(5):
        weights = torch.ones(len(x), dtype=x.dtype)
        errors = []
        for weights[token] in (1, 100, 10_000):
            rounded = gptq(weight, hessian(x, weights), ROW, WIDE).weight
            errors.append(output_error(x[token : token + 1], weight, rounded))
        assert all(after < before / 2 for before, after in pairwise(errors))


def test_weights_that_share_an_input_are_rounded_as_if_alone():
    weight, x, _ = problem(rows=20)
    H = hessian(x)
    parts = weight.split((5, 12, 3))
    for quantizer in QUANTIZERS:
        for part, result in zip(parts, gptq_shared(parts, H, quantizer, WIDE), strict=True):
            result, alone = named(part, result), gptq(part, H, quantizer, WIDE)
            torch.testing.assert_close(result.weight, alone.weight, rtol=1e-12, atol=1e-12)
            assert result.loss == pytest.approx(alone.loss, rel=1e-9)


@pytest.mark.parametrize("act_order", [False, True])
def test_dead_columns_become_zero_and_do_not_disturb_the_others(act_order):
    weight, x, _ = problem()
    x[:, [0, 5, 23]] = 0
    alive = x.abs().sum(0) > 0
    settings = Gptq(act_order=act_order, dtype="float64")
    result = gptq(weight, hessian(x), ROW, settings)
    assert result.dead_columns == 3
    assert bool((result.weight[:, ~alive] == 0).all())
    without = gptq(weight[:, alive], hessian(x[:, alive]), ROW, settings)
    torch.testing.assert_close(result.weight[:, alive], without.weight, rtol=1e-12, atol=1e-12)
    assert result.loss == pytest.approx(without.loss, rel=1e-9)
    nothing = gptq(weight, torch.zeros(24, 24), ROW)
    assert nothing.dead_columns == 24
    assert not bool(nothing.weight.any())


def test_damping_escalates_step_by_step_and_says_so():
    weight, x, _ = problem()
    H = hessian(x)
    mean = float(H.diagonal().mean())
    # the smallest eigenvalue is -0.3 of the mean diagonal: 0.01 and 0.1 fail, 1 succeeds
    lowest = float(torch.linalg.eigvalsh(H)[0])
    shifted = H - (lowest + 0.3 * mean) * torch.eye(24, dtype=H.dtype)
    result = gptq(weight, shifted, ROW, WIDE)
    assert result.escalations == 2
    assert result.damping == pytest.approx(float(shifted.diagonal().mean()), rel=1e-9)
    few = gptq(weight, hessian(x[:3], dtype=torch.float32), ROW)  # singular: the damping helps
    assert few.escalations == 0 and bool(few.weight.isfinite().all())
    indefinite = torch.ones(24, 24) * 1e9 + torch.eye(24) * (1 - 1e9)
    with pytest.raises(QuantizationError, match=r"not positive definite even with .* tokens"):
        gptq(weight, indefinite, ROW, Gptq(damp=1e-9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_value_is_on_the_grid_of_the_original_weight_and_of_its_type(dtype):
    weight, x, _ = problem()
    weight = weight.to(dtype)
    before, H = weight.clone(), hessian(x.to(dtype))
    kept = H.clone()
    for quantizer in QUANTIZERS:
        result = gptq(weight, H, quantizer, Gptq(act_order=True))
        assert result.weight.dtype == dtype
        assert result.weight.is_contiguous()
        assert torch.equal(weight, before)
        assert torch.equal(H, kept)
        size = quantizer.group_size or weight.shape[1]
        measured = parameters(weight, quantizer)
        scale, zero = measured.scale.reshape(-1, 1), measured.zero.reshape(-1, 1)
        points = torch.arange(quantizer.lowest, quantizer.highest + 1)
        grid = (scale * (points - zero)).to(dtype)  # [ranges or 1, points]
        values = result.weight.reshape(-1, size)
        assert bool((values[:, :, None] == grid[:, None, :]).any(-1).all())


def test_bad_input_is_an_error():
    weight, x, _ = problem()
    H = Hessian(24)
    H.add(x, torch.zeros(len(x)))
    with pytest.raises(QuantizationError, match="no calibration token"):
        H.matrix()
    H.add(torch.full((1, 24), 1e30))
    with pytest.raises(QuantizationError, match=r"not finite in torch\.float32; .* use float64"):
        H.matrix()
    with pytest.raises(QuantizationError, match="group_size = 5 does not divide 24"):
        gptq(weight, hessian(x), Quantizer(4, True, "per_group", group_size=5))
    weight[1, 2] = torch.nan
    with pytest.raises(QuantizationError, match="holds NaN"):
        gptq(weight, hessian(x), ROW)
