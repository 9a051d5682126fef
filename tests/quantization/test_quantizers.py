"""The quantizers against closed forms, brute force over grid and clip ratios, and properties."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllmquant_exp.quantization import quantizers
from dllmquant_exp.quantization.quantizers import (
    CLIP_RATIOS,
    QuantizationError,
    Quantizer,
    fake_quantize,
    from_integers,
    parameters,
    to_integers,
    value_range,
)

GRIDS = ("full_range", "restricted", "max_over_7")
PLAIN, SEARCH = {}, {"clip_search": 2.4}
both = pytest.mark.parametrize("clip", [PLAIN, SEARCH], ids=["plain", "searched"])


def kinds(granularity="per_channel", bits=4, **more):
    """Every kind of quantizer: three symmetric grids and the asymmetric one."""
    symmetric = [Quantizer(bits, True, granularity, grid=grid, **more) for grid in GRIDS]
    return [*symmetric, Quantizer(bits, False, granularity, **more)]


def heavy_tailed(*shape, seed=0):
    """Values with outliers, so that the best clip ratio is well below 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator) ** 3


def holds_for(**strategies):
    """`given`, the same examples every time and without a deadline: machines may be busy."""
    return lambda test: settings(deadline=None, derandomize=True, max_examples=40)(
        given(**strategies)(test)
    )


@st.composite
def tensors(draw, min_rows=1):
    rows = draw(st.integers(min_rows, 5))
    columns = draw(st.sampled_from([1, 2, 4, 12]))
    seed = draw(st.integers(0, 2**31))
    scale = 10.0 ** draw(st.integers(-6, 6))
    shift = draw(st.sampled_from([0.0, 0.0, 1.0, -3.0]))
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, dtype=torch.float64, generator=generator) + shift
    values[torch.rand(rows, columns, generator=generator) < 0.1] = 0
    return values * scale


@pytest.mark.parametrize(
    ("quantizer", "integers", "scale", "zero"),
    [
        # 1.0, -0.5, 0.2 with m = 1: x/s = 7.5, -3.75, 1.5; halves go to the even neighbour
        (Quantizer(4, True, "per_tensor"), [7, -4, 2], 2 / 15, 0),
        (Quantizer(4, True, "per_tensor", grid="restricted"), [7, -4, 1], 1 / 7, 0),
        (Quantizer(4, True, "per_tensor", grid="max_over_7"), [7, -4, 1], 1 / 7, 0),
        (Quantizer(4, False, "per_tensor"), [15, 0, 7], 0.1, 5),
        (Quantizer(2, True, "per_tensor"), [1, -1, 0], 2 / 3, 0),
        (Quantizer(8, False, "per_tensor"), [255, 0, 119], 1.5 / 255, 85),
        # half of the range is kept: m = 0.5, and [-0.25, 0.5] with zero 5
        (Quantizer(4, True, "per_tensor", clip_ratio=0.5), [7, -8, 3], 1 / 15, 0),
        (Quantizer(4, False, "per_tensor", clip_ratio=0.5), [15, 0, 9], 0.05, 5),
    ],
)
def test_closed_forms(quantizer, integers, scale, zero):
    x = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
    measured = parameters(x, quantizer)
    assert float(measured.scale) == pytest.approx(scale, rel=1e-12)
    assert float(measured.zero) == zero
    assert to_integers(x, quantizer, measured).tolist() == integers
    expected = [scale * (i - zero) for i in integers]
    assert fake_quantize(x, quantizer).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("bits", "grid", "ends"),
    [
        (4, "full_range", (-8, 7)),
        (4, "restricted", (-7, 7)),
        (4, "max_over_7", (-8, 7)),
        (2, "full_range", (-2, 1)),
        (3, "restricted", (-3, 3)),
        (8, "full_range", (-128, 127)),
    ],
)
def test_ends_of_the_symmetric_grids(bits, grid, ends):
    quantizer = Quantizer(bits, True, "per_tensor", grid=grid)
    assert (quantizer.lowest, quantizer.highest) == ends
    # -m reaches the lowest integer only where the scale gives the grid all of its steps
    m = torch.tensor([-5.0, 5.0], dtype=torch.float64)
    integers = to_integers(m, quantizer, parameters(m, quantizer)).tolist()
    assert integers == [ends[0] if grid == "full_range" else -ends[1], ends[1]]


def test_ends_of_the_asymmetric_grid():
    quantizer = Quantizer(5, False, "per_tensor")
    assert (quantizer.lowest, quantizer.highest) == (0, 31)
    x = torch.linspace(-1, 30, 32, dtype=torch.float64)
    assert to_integers(x, quantizer, parameters(x, quantizer)).tolist() == list(range(32))
    torch.testing.assert_close(fake_quantize(x, quantizer), x)


@holds_for(x=tensors(), bits=st.integers(2, 8), clip=st.sampled_from([1.0, 0.9, 0.5]))
def test_every_value_goes_to_the_nearest_point_of_its_grid(x, bits, clip):
    for quantizer in kinds(bits=bits, clip_ratio=clip):
        measured = parameters(x, quantizer)
        quantized = fake_quantize(x, quantizer)
        points = np.arange(quantizer.lowest, quantizer.highest + 1)
        for r in range(len(x)):
            scale, zero = float(measured.scale[r]), float(measured.zero[r])
            grid = scale * (points - zero)
            nearest = np.abs(x[r].numpy()[:, None] - grid).min(1)
            actual = np.abs(x[r].numpy() - quantized[r].numpy())
            np.testing.assert_allclose(actual, nearest, rtol=0, atol=1e-9 * scale)


@holds_for(x=tensors(), bits=st.integers(2, 8))
def test_integers_are_whole_and_inside_the_grid_and_0_stays_0(x, bits):
    for quantizer in kinds(bits=bits):
        measured = parameters(x, quantizer)
        integers = to_integers(x, quantizer, measured)
        assert torch.equal(integers, integers.round())
        assert quantizer.lowest <= float(integers.min()) <= float(integers.max())
        assert float(integers.max()) <= quantizer.highest < quantizer.lowest + 2**bits
        again = from_integers(integers, quantizer, measured)
        assert torch.equal(again, fake_quantize(x, quantizer))
        assert bool((again[x == 0] == 0).all())
        assert bool(((again - x).abs() <= measured.scale * (0.5 + 1e-9)).all())
        assert bool((measured.zero >= quantizer.lowest).all())
        assert bool((measured.zero <= quantizer.highest).all())


@holds_for(x=tensors())
def test_order_and_signs_are_kept(x):
    for quantizer in kinds():
        ordered = x.sort(dim=-1).values
        assert bool((fake_quantize(ordered, quantizer).diff(dim=-1) >= 0).all())
    quantizer = Quantizer(4, True, "per_channel", grid="restricted")
    once = fake_quantize(x, quantizer)
    torch.testing.assert_close(fake_quantize(once, quantizer), once, rtol=1e-12, atol=0)
    assert torch.equal(fake_quantize(-x, quantizer), -once)


@both
@pytest.mark.parametrize("exponent", [-120, -7, 120])
def test_scaling_by_a_power_of_two_scales_the_result(exponent, clip):
    x = heavy_tailed(4, 32).float()
    for quantizer in kinds(**clip):
        expected = fake_quantize(x, quantizer) * 2.0**exponent
        assert torch.equal(fake_quantize(x * 2.0**exponent, quantizer), expected)


@both
def test_each_granularity_is_rows_of_a_reshaped_tensor(clip):
    x = heavy_tailed(3, 4, 10)
    cases = {
        "per_tensor": x.reshape(1, -1),
        "per_request": x.reshape(3, -1),
        "per_channel": x.reshape(12, -1),
        "per_token": x.reshape(12, -1),
        "per_group": x.reshape(24, 5),
    }
    for granularity, rows in cases.items():
        size = {"group_size": 5} if granularity == "per_group" else {}
        for quantizer, by_row in zip(
            kinds(granularity, **size, **clip), kinds(**clip), strict=True
        ):
            alone = torch.cat([fake_quantize(row[None], by_row) for row in rows])
            assert torch.equal(fake_quantize(x, quantizer), alone.reshape(x.shape))


@both
def test_padding_does_not_count(clip):
    lengths = (7, 2, 5)
    keep = torch.arange(7)[None, :, None] < torch.tensor(lengths)[:, None, None]
    x = torch.where(keep, heavy_tailed(3, 7, 4), torch.inf)
    whole = zip(kinds("per_request", **clip), kinds("per_tensor", **clip), strict=True)
    for per_request, per_tensor in whole:
        together = parameters(x, per_request, keep)
        for i, length in enumerate(lengths):
            alone = parameters(x[i, :length], per_tensor)
            assert together.scale[i].item() == alone.scale.item()
            assert together.zero[i].item() == alone.zero.item()
            expected = fake_quantize(x[i, :length], per_tensor)
            assert torch.equal(fake_quantize(x, per_request, keep)[i, :length], expected)


def test_more_bits_and_a_search_mean_less_error():
    x = heavy_tailed(16, 64)

    def errors(kind, **clip):
        rounded = [fake_quantize(x, kinds(bits=bits, **clip)[kind]) for bits in range(2, 9)]
        return [float((y - x).norm()) for y in rounded]

    for kind in range(4):
        plain, searched = errors(kind), errors(kind, clip_search=2.0)
        assert searched == sorted(searched, reverse=True)
        assert all(after < 0.8 * before for before, after in pairwise(plain))
        assert all(s <= p for s, p in zip(searched, plain, strict=True))


@both
@pytest.mark.parametrize("value", [0.0, 1e-320, 3.0, -3.0])
def test_constant_tensors(value, clip):
    x = torch.full((2, 4), value, dtype=torch.float64)
    for quantizer in kinds(**clip):
        torch.testing.assert_close(fake_quantize(x, quantizer), x, rtol=1 / 15 + 1e-9, atol=1e-300)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ranges_are_measured_in_float32(dtype):
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    for quantizer in kinds():
        assert parameters(x, quantizer).scale.dtype == torch.float32
        quantized = fake_quantize(x, quantizer)
        assert quantized.dtype == dtype
        assert torch.equal(quantized, fake_quantize(x.float(), quantizer).to(dtype))


def test_a_group_size_must_divide_the_features():
    quantizer = Quantizer(4, True, "per_group", group_size=5)
    with pytest.raises(QuantizationError, match="group_size = 5 does not divide 12 features"):
        fake_quantize(torch.ones(2, 12), quantizer)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_no_range_covers_are_an_error(bad):
    x = torch.ones(2, 3)
    x[1, 2] = bad
    for quantizer in (*kinds("per_tensor"), *kinds("per_request"), *kinds()):
        with pytest.raises(QuantizationError, match=r"shape \(2, 3\) holds NaN, infinite"):
            fake_quantize(x, quantizer)


# The clip search


def errors_by_hand(values, quantizer):
    """sum |error|^p of a flat array at each ratio, with the range shrunk first."""
    low, high = min(values.min(), 0), max(values.max(), 0)
    errors = []
    for ratio in (1 - i / 100 for i in range(80)):
        if quantizer.symmetric:
            m = ratio * max(high, -low)
            scale = (
                m / quantizer.highest
                if quantizer.grid != "full_range"
                else 2 * m / (2**quantizer.bits - 1)
            )
            zero = 0
        else:
            scale = (ratio * high - ratio * low) / (2**quantizer.bits - 1)
            zero = np.rint(-ratio * low / scale)
        integers = np.clip(np.rint(values / scale) + zero, quantizer.lowest, quantizer.highest)
        error = np.abs(scale * (integers - zero) - values)
        errors.append(np.sum(error**quantizer.clip_search))
    return np.array(errors)


@pytest.mark.parametrize("exponent", [2.0, 2.4, 1.0])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_ratio_is_the_best_of_all_for_every_row(bits, exponent):
    assert len(CLIP_RATIOS) == 80  # of the GPTQ reference
    x = heavy_tailed(3, 40)
    for quantizer in kinds(bits=bits, clip_search=exponent):
        plain = Quantizer(bits, quantizer.symmetric, "per_channel", grid=quantizer.grid)
        ratio = parameters(x, quantizer).scale / parameters(x, plain).scale
        assert torch.equal(parameters(x, quantizer).zero, parameters(x, plain).zero)
        for row, chosen, quantized in zip(x, ratio, fake_quantize(x, quantizer), strict=True):
            errors = errors_by_hand(row.numpy(), quantizer)
            best = errors <= errors.min() * (1 + 1e-12)  # plateaus have several
            assert min(abs(np.array(CLIP_RATIOS)[best] - float(chosen))) < 1e-9
            actual = float(((quantized - row).abs() ** exponent).sum())
            assert actual == pytest.approx(errors.min(), rel=1e-9)


@pytest.mark.parametrize("tile", [7, 64])
def test_tiles_do_not_change_the_choice(monkeypatch, tile):
    x = heavy_tailed(5, 24)
    expected = [fake_quantize(x, q) for q in kinds(**SEARCH)]
    monkeypatch.setattr(quantizers, "_TILE", tile)
    for quantizer, before in zip(kinds(**SEARCH), expected, strict=True):
        assert torch.equal(fake_quantize(x, quantizer), before)


def test_known_values_are_fixed_points_and_the_error_is_half_a_step_inside_the_range():
    x = heavy_tailed(8, 48)
    for quantizer in kinds(**SEARCH):
        measured = parameters(x, quantizer)
        once = from_integers(to_integers(x, quantizer, measured), quantizer, measured)
        again = from_integers(to_integers(once, quantizer, measured), quantizer, measured)
        assert torch.equal(once, again)
        low = measured.scale * (quantizer.lowest - measured.zero)
        high = measured.scale * (quantizer.highest - measured.zero)
        assert bool(((once >= low) & (once <= high)).all())
        inside = (x >= low) & (x <= high)
        assert bool(inside.any()) and not bool(inside.all())
        assert bool(((once - x).abs() <= measured.scale * (0.5 + 1e-9))[inside].all())
        clipped = torch.where(x < low, low, high)
        torch.testing.assert_close(once[~inside], clipped[~inside])


def test_a_weight_that_is_trained_leaves_no_graph_behind():
    x = heavy_tailed(2, 8).requires_grad_()
    for quantizer in kinds(**SEARCH):
        detached = parameters(x.detach(), quantizer)
        assert torch.equal(parameters(x, quantizer).scale, detached.scale)


# Ranges


def test_a_merged_range_is_that_of_all_values():
    parts = [heavy_tailed(3, 5, seed=seed) + seed - 1 for seed in range(3)]
    ranges = [value_range(part, (0, 1)) for part in parts]
    merged = ranges[0].merged(ranges[1]).merged(ranges[2])
    whole = torch.cat(parts)
    assert float(merged.low) == min(float(whole.min()), 0)
    assert float(merged.high) == max(float(whole.max()), 0)
    for clip in (1.0, 0.9):
        for symmetric in (True, False):
            quantizer = Quantizer(4, symmetric, "per_tensor", clip_ratio=clip)
            expected, actual = parameters(whole, quantizer), merged.parameters(quantizer)
            assert torch.equal(actual.scale, expected.scale)
            assert torch.equal(actual.zero, expected.zero)


def test_a_range_always_contains_zero():
    measured = value_range(torch.tensor([[2.0, 3.0], [-3.0, -2.0]]), (1,))
    assert measured.low.tolist() == [[0.0], [-3.0]]
    assert measured.high.tolist() == [[3.0], [0.0]]
    nothing = value_range(torch.ones(1, 2), (1,), torch.tensor([[False, False]]))
    assert (float(nothing.low), float(nothing.high)) == (0, 0)
