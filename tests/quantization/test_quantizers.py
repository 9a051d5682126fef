"""The quantizers against closed forms, brute force over the grid, and their properties."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllmquant_exp.errors import Refusal
from dllmquant_exp.quantization.quantizers import (
    QuantizationError,
    Quantizer,
    fake_quantize,
    from_integers,
    parameters,
    to_integers,
)

GRIDS = ("full_range", "restricted", "max_over_7")


def kinds(granularity="per_channel", bits=4, **more):
    """Every kind of quantizer: three symmetric grids and the asymmetric one."""
    symmetric = [Quantizer(bits, True, granularity, grid=grid, **more) for grid in GRIDS]
    return [*symmetric, Quantizer(bits, False, granularity, **more)]


def holds_for(**strategies):
    """`given`, the same examples every time and without a deadline: machines may be busy."""
    return lambda test: settings(deadline=None, derandomize=True, max_examples=60)(
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
def test_the_error_is_at_most_half_a_step(x, bits):
    for quantizer in kinds(bits=bits):
        error = (fake_quantize(x, quantizer) - x).abs()
        steps = parameters(x, quantizer).scale
        assert bool((error <= steps * (0.5 + 1e-9)).all())


@holds_for(x=tensors(), bits=st.integers(2, 8))
def test_integers_are_whole_and_inside_the_grid(x, bits):
    for quantizer in kinds(bits=bits):
        measured = parameters(x, quantizer)
        integers = to_integers(x, quantizer, measured)
        assert torch.equal(integers, integers.round())
        assert float(integers.min()) >= quantizer.lowest
        assert float(integers.max()) <= quantizer.highest
        assert quantizer.highest - quantizer.lowest + 1 <= 2**bits
        again = from_integers(integers, quantizer, measured)
        assert torch.equal(again, fake_quantize(x, quantizer))
        assert bool((measured.zero >= quantizer.lowest).all())
        assert bool((measured.zero <= quantizer.highest).all())


@holds_for(x=tensors())
def test_zero_stays_zero(x):
    for quantizer in kinds():
        assert bool((fake_quantize(x, quantizer)[x == 0] == 0).all())


@holds_for(x=tensors(), exponent=st.integers(-20, 20))
def test_scaling_by_a_power_of_two_scales_the_result(x, exponent):
    for quantizer in kinds():
        expected = fake_quantize(x, quantizer) * 2.0**exponent
        assert torch.equal(fake_quantize(x * 2.0**exponent, quantizer), expected)


@holds_for(x=tensors())
def test_quantizing_twice_changes_nothing_where_the_maximum_is_on_the_grid(x):
    quantizer = Quantizer(4, True, "per_channel", grid="restricted")
    once = fake_quantize(x, quantizer)
    torch.testing.assert_close(fake_quantize(once, quantizer), once, rtol=1e-12, atol=0)
    assert torch.equal(fake_quantize(-x, quantizer), -once)


@holds_for(x=tensors())
def test_order_is_kept(x):
    for quantizer in kinds():
        ordered = x.sort(dim=-1).values
        assert bool((fake_quantize(ordered, quantizer).diff(dim=-1) >= 0).all())


@holds_for(x=tensors(min_rows=2), row=st.integers(0, 4))
def test_rows_do_not_see_each_other(x, row):
    row %= len(x)
    for granularity in ("per_channel", "per_token"):
        for quantizer in kinds(granularity):
            alone = fake_quantize(x[row : row + 1], quantizer)
            assert torch.equal(fake_quantize(x, quantizer)[row : row + 1], alone)


@holds_for(x=tensors())
def test_groups_are_rows_of_a_reshaped_tensor(x):
    columns = x.shape[1]
    for size in {1, columns, max(1, columns // 2)}:
        pairs = zip(kinds("per_group", group_size=size), kinds(), strict=True)
        for grouped, by_row in pairs:
            expected = fake_quantize(x.reshape(-1, size), by_row).reshape(x.shape)
            assert torch.equal(fake_quantize(x, grouped), expected)


@holds_for(x=tensors())
def test_one_range_for_a_tensor_and_for_a_request(x):
    whole = zip(kinds("per_tensor"), kinds(), kinds("per_request"), strict=True)
    for per_tensor, by_row, per_request in whole:
        flat = fake_quantize(x.reshape(1, -1), by_row).reshape(x.shape)
        assert torch.equal(fake_quantize(x, per_tensor), flat)
        batch = torch.stack((x, 3 * x, 0 * x))
        requests = torch.stack([fake_quantize(row, per_tensor) for row in batch])
        assert torch.equal(fake_quantize(batch, per_request), requests)


def test_padding_does_not_count():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 4, generator=generator)
    lengths = [7, 2, 5]
    keep = torch.arange(7)[None, :, None] < torch.tensor(lengths)[:, None, None]
    x = torch.where(keep, x, 100 * x + 7)
    for per_request, per_tensor in zip(kinds("per_request"), kinds("per_tensor"), strict=True):
        actual = fake_quantize(x, per_request, keep)
        for i, length in enumerate(lengths):
            alone = fake_quantize(x[i, :length], per_tensor)
            assert torch.equal(actual[i, :length], alone)


def test_more_bits_mean_less_error():
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kind in range(4):
        errors = [float((fake_quantize(x, kinds(bits=b)[kind]) - x).norm()) for b in range(2, 9)]
        assert all(after < 0.7 * before for before, after in pairwise(errors))


@pytest.mark.parametrize("value", [0.0, 1e-320, 3.0, -3.0])
def test_constant_tensors(value):
    x = torch.full((2, 4), value, dtype=torch.float64)
    for quantizer in kinds():
        quantized = fake_quantize(x, quantizer)
        assert bool(quantized.isfinite().all())
        step = 2 * 3 / 15 if quantizer.symmetric else 0
        torch.testing.assert_close(quantized, x, rtol=1e-12, atol=step / 2 + 1e-300)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ranges_are_measured_in_float32(dtype):
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    for quantizer in kinds():
        assert parameters(x, quantizer).scale.dtype == torch.float32
        quantized = fake_quantize(x, quantizer)
        assert quantized.dtype == dtype
        assert torch.equal(quantized, fake_quantize(x.float(), quantizer).to(dtype))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"bits": 1}, "bits = 1 must be at least 2 and at most 8"),
        ({"bits": 16}, "bits = 16"),
        ({"granularity": "per_row"}, "granularity = 'per_row' is not one of"),
        ({"grid": "nf4"}, "grid = 'nf4' is not one of: full_range"),
        ({"clip_ratio": 0.0}, "clip_ratio = 0.0 must be above 0 and at most 1"),
        ({"clip_ratio": 1.1}, "clip_ratio = 1.1"),
        ({"granularity": "per_group"}, "per_group needs a size"),
        ({"group_size": 8}, "group_size = 8 does not fit granularity = per_channel"),
    ],
)
def test_impossible_quantizers_are_named(arguments, named):
    with pytest.raises(Refusal, match=named):
        Quantizer(**({"bits": 4, "symmetric": True, "granularity": "per_channel"} | arguments))


def test_a_group_size_must_divide_the_features():
    quantizer = Quantizer(4, True, "per_group", group_size=5)
    with pytest.raises(QuantizationError, match="group_size = 5 does not divide 12 features"):
        fake_quantize(torch.ones(2, 12), quantizer)
