"""The clip search against loops over ratios, and what every tensor that is measured must obey."""

import numpy as np
import pytest
import torch

from dllmquant_exp.errors import Refusal
from dllmquant_exp.quantization import quantizers
from dllmquant_exp.quantization.quantizers import (
    CLIP_RATIOS,
    QuantizationError,
    Quantizer,
    Range,
    fake_quantize,
    from_integers,
    parameters,
    to_integers,
    value_range,
)

GRIDS = ("full_range", "restricted", "max_over_7")


def searching(granularity="per_channel", bits=4, exponent=2.0, **more):
    symmetric = [
        Quantizer(bits, True, granularity, grid=grid, clip_search=exponent, **more)
        for grid in GRIDS
    ]
    return [*symmetric, Quantizer(bits, False, granularity, clip_search=exponent, **more)]


def heavy_tailed(*shape, seed=0):
    """Values with outliers, so that the best ratio is well below 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator) ** 3


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


def test_candidates_are_those_of_the_gptq_reference():
    assert len(CLIP_RATIOS) == 80
    assert CLIP_RATIOS[0] == 1
    assert CLIP_RATIOS[-1] == pytest.approx(0.21)


@pytest.mark.parametrize("exponent", [2.0, 2.4, 1.0])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_ratio_is_the_best_of_all_for_every_row(bits, exponent):
    x = heavy_tailed(3, 40)
    for quantizer in searching(bits=bits, exponent=exponent):
        plain = Quantizer(bits, quantizer.symmetric, "per_channel", grid=quantizer.grid)
        ratio = parameters(x, quantizer).scale / parameters(x, plain).scale
        assert torch.equal(parameters(x, quantizer).zero, parameters(x, plain).zero)
        for row, chosen, quantized in zip(x, ratio, fake_quantize(x, quantizer), strict=True):
            errors = errors_by_hand(row.numpy(), quantizer)
            best = errors <= errors.min() * (1 + 1e-12)  # plateaus have several
            assert min(abs(np.array(CLIP_RATIOS)[best] - float(chosen))) < 1e-9
            actual = float(((quantized - row).abs() ** exponent).sum())
            assert actual == pytest.approx(errors.min(), rel=1e-9)


def test_a_range_of_each_granularity_is_searched_on_its_own():
    x = heavy_tailed(3, 4, 10)
    cases = {
        "per_tensor": x.reshape(1, -1),
        "per_request": x.reshape(3, -1),
        "per_channel": x.reshape(12, -1),
        "per_group": x.reshape(24, 5),
    }
    for granularity, rows in cases.items():
        size = {"group_size": 5} if granularity == "per_group" else {}
        by_row = searching()
        for i, quantizer in enumerate(searching(granularity, **size)):
            expected = fake_quantize(rows, by_row[i]).reshape(x.shape)
            assert torch.equal(fake_quantize(x, quantizer), expected)


@pytest.mark.parametrize("tile", [7, 64])
def test_tiles_do_not_change_the_choice(monkeypatch, tile):
    x = heavy_tailed(5, 24)
    expected = [fake_quantize(x, q) for q in searching()]
    monkeypatch.setattr(quantizers, "_TILE", tile)
    for quantizer, before in zip(searching(), expected, strict=True):
        assert torch.equal(fake_quantize(x, quantizer), before)


def test_padding_counts_neither_for_the_range_nor_for_the_error():
    x = heavy_tailed(2, 7, 4)
    keep = torch.arange(7)[None, :, None] < torch.tensor([7, 3])[:, None, None]
    x = torch.where(keep, x, torch.inf)
    for quantizer in searching("per_request"):
        together = parameters(x, quantizer, keep)
        for i, length in enumerate((7, 3)):
            alone = parameters(x[i : i + 1, :length], quantizer)
            assert torch.equal(together.scale[i], alone.scale[0])
            assert torch.equal(together.zero[i], alone.zero[0])


@pytest.mark.parametrize("exponent", [-120, 120])
def test_the_choice_does_not_depend_on_the_size_of_the_values(exponent):
    x = heavy_tailed(4, 32).float()
    for quantizer in searching(exponent=2.4):
        scaled = fake_quantize(x * 2.0**exponent, quantizer)
        assert torch.equal(scaled, fake_quantize(x, quantizer) * 2.0**exponent)


def test_more_bits_and_a_search_mean_less_error():
    x = heavy_tailed(16, 64)
    for kind in range(4):
        searched = [
            float((fake_quantize(x, searching(bits=b)[kind]) - x).norm()) for b in range(2, 9)
        ]
        assert searched == sorted(searched, reverse=True)
        for bits, error in zip(range(2, 9), searched, strict=True):
            quantizer = searching()[kind]
            plain = Quantizer(bits, quantizer.symmetric, "per_channel", grid=quantizer.grid)
            assert error <= float((fake_quantize(x, plain) - x).norm())


def test_known_values_are_fixed_points_and_the_error_is_half_a_step_inside_the_range():
    x = heavy_tailed(8, 48)
    for quantizer in searching():
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


@pytest.mark.parametrize("value", [0.0, 1e-320, 3.0, -3.0])
def test_constant_tensors(value):
    x = torch.full((2, 4), value, dtype=torch.float64)
    for quantizer in searching():
        torch.testing.assert_close(fake_quantize(x, quantizer), x, rtol=1 / 15 + 1e-9, atol=1e-300)


def test_a_weight_that_is_trained_leaves_no_graph_behind():
    x = heavy_tailed(2, 8).requires_grad_()
    for quantizer in searching():
        detached = parameters(x.detach(), quantizer)
        assert torch.equal(parameters(x, quantizer).scale, detached.scale)


@pytest.mark.parametrize("exponent", [0, -1.0, float("inf"), float("nan")])
def test_exponents_out_of_range_are_named(exponent):
    with pytest.raises(Refusal, match=f"clip_search = {exponent} must be above 0 and at most 100"):
        Quantizer(4, True, "per_channel", clip_search=exponent)


def test_a_search_and_a_fixed_ratio_are_refused_together():
    with pytest.raises(
        QuantizationError, match=r"clip_ratio = 0\.9 has no effect with clip_search"
    ):
        Quantizer(4, True, "per_channel", clip_ratio=0.9, clip_search=2.0)


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
    assert isinstance(nothing, Range)
    assert (float(nothing.low), float(nothing.high)) == (0, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_request", "per_channel"])
def test_values_that_no_range_covers_are_an_error(bad, granularity):
    x = torch.ones(2, 3)
    x[1, 2] = bad
    for quantizer in (Quantizer(4, True, granularity), Quantizer(4, False, granularity)):
        with pytest.raises(QuantizationError, match=r"shape \(2, 3\) holds NaN, infinite"):
            fake_quantize(x, quantizer)


def test_an_empty_tensor_is_an_error():
    with pytest.raises(QuantizationError, match=r"shape \(0, 3\) has no values"):
        fake_quantize(torch.ones(0, 3), Quantizer(4, True, "per_channel"))
