"""The quantized linear: static ranges, their calibration, and rotations, against numpy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dllmquant_exp.quantization.linear import Padding, QuantizedLinear, RangeObserver
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    fake_quantize,
    parameters,
    quantize_weight,
    to_integers,
)

STATIC = Quantizer(4, False, "per_tensor")


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def static(scale=0.25, zero=6.0, dtype=torch.float64):
    return Parameters(torch.tensor(scale, dtype=dtype), torch.tensor(zero, dtype=dtype))


def on_grid(rows, features, groups, scale):
    """A weight of whole numbers from -8 to 7 times random scales."""
    generator = torch.Generator().manual_seed(rows)
    numbers = torch.randint(-8, 8, (rows, features), generator=generator)
    scales = scale * (0.5 + torch.rand(rows, groups, generator=generator))
    return QuantizedWeight(numbers.to(torch.int8), scales)


class Rotation(nn.Module):
    """A fixed orthogonal matrix on the features."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("matrix", torch.linalg.qr(random(size, size, seed=9)).Q)

    def forward(self, x):
        return x @ self.matrix


def test_static_ranges_are_used_as_they_are():
    weight, bias, x = random(3, 5), random(3, seed=1), 4 * random(2, 7, 5, seed=2)
    layer = QuantizedLinear(weight, bias, STATIC, measured=static())
    integers = np.clip(np.rint(x.numpy() / 0.25) + 6, 0, 15)
    assert {0, 15} <= set(integers.ravel())  # calls beyond the calibrated range saturate
    expected = 0.25 * (integers - 6) @ weight.numpy().T + bias.numpy()
    torch.testing.assert_close(layer(x), torch.from_numpy(expected))
    # whatever shares the batch
    torch.testing.assert_close(layer(x[:1, :2]), layer(x)[:1, :2])
    assert "static" in repr(layer) and "dynamic" in repr(QuantizedLinear(weight))


def test_static_ranges_move_and_are_saved_with_the_layer():
    layer = QuantizedLinear(random(3, 5), None, STATIC, measured=static())
    assert {"activation_scale", "activation_zero"} <= layer.state_dict().keys()
    narrow = copy.deepcopy(layer).to(torch.bfloat16)
    x = random(4, 5, seed=3, dtype=torch.bfloat16)
    torch.testing.assert_close(narrow(x), layer(x.double()).bfloat16(), rtol=0.02, atol=0.05)
    assert "activation_scale" not in QuantizedLinear(random(3, 5), None, STATIC).state_dict()


def test_a_rotation_comes_before_the_quantizer():
    weight, x = random(3, 8), random(2, 6, 8, seed=2)
    for activation in (None, Quantizer(4, False, "per_token")):
        rotated = QuantizedLinear(weight, None, activation, rotation=Rotation(8))
        plain = QuantizedLinear(weight, None, activation)
        expected = plain(x @ Rotation(8).matrix)
        torch.testing.assert_close(rotated(x), expected)
        assert not torch.allclose(rotated(x), plain(x))
    assert rotated.float().rotation.matrix.dtype == torch.float32


def test_an_observer_sees_all_calls():
    linear = nn.Linear(5, 3).double()
    observer = RangeObserver()
    handle = linear.register_forward_pre_hook(observer.read)
    calls = [random(2, 4, 5, seed=1), 3 * random(7, 5, seed=2), random(1, 5, seed=3)]
    for call in calls:
        linear(call)
    handle.remove()
    linear(100 * calls[0])
    low = min(float(call.min()) for call in calls)
    high = max(float(call.max()) for call in calls)
    for clip in (1.0, 0.9):
        measured = observer.parameters(Quantizer(4, False, "per_tensor", clip_ratio=clip))
        scale = clip * (high - low) / 15
        assert float(measured.scale) == pytest.approx(scale, rel=1e-12)
        assert float(measured.zero) == round(-clip * low / scale)
        assert measured.scale.shape == measured.zero.shape == ()
    layer = QuantizedLinear(linear.weight, linear.bias, STATIC, measured=measured)
    assert layer(calls[0]).shape == (2, 4, 3)


def test_an_observer_does_not_see_padding():
    linear, padding = nn.Linear(5, 3).double(), Padding()
    observer = RangeObserver(padding)
    linear.register_forward_pre_hook(observer.read)
    x = random(2, 4, 5)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    padding.keep = mask[..., None]
    linear(torch.where(padding.keep, x, 1000 * x))
    assert float(observer.range.low) == float(x[mask].min())
    assert float(observer.range.high) == float(x[mask].max())


def test_an_observer_sees_what_a_rotation_makes_of_the_input():
    layer = QuantizedLinear(random(3, 8), rotation=Rotation(8))
    observer = RangeObserver()
    layer.register_forward_pre_hook(observer.read)
    x = random(6, 8)
    layer(x)
    rotated = x @ Rotation(8).matrix
    assert float(observer.range.high) == float(rotated.max())
    assert float(observer.range.low) == float(rotated.min())


@pytest.mark.parametrize(
    ("activation", "measured", "named"),
    [
        (None, static(), "activation quantizer is off"),
        (Quantizer(4, False, "per_token"), static(), "quantizer is per_token; use per_tensor"),
        (STATIC, Parameters(torch.ones(2, 1), torch.zeros(2, 1)), r"not of shapes \(2, 1\)"),
    ],
)
def test_static_ranges_that_do_not_fit_are_named(activation, measured, named):
    with pytest.raises(QuantizationError, match=named):
        QuantizedLinear(random(3, 5), None, activation, measured=measured)


def test_observers_say_what_they_cannot_do():
    observer = RangeObserver()
    with pytest.raises(QuantizationError, match="no calibration input reached this layer"):
        observer.parameters(STATIC)
    observer.read(nn.Identity(), (random(2, 5),))
    with pytest.raises(QuantizationError, match=r"clip_search = 2\.0 needs all values"):
        observer.parameters(Quantizer(4, False, "per_tensor", clip_search=2.0))
    with pytest.raises(QuantizationError, match="per_channel; use per_tensor"):
        observer.parameters(Quantizer(4, False, "per_channel"))
    with pytest.raises(QuantizationError, match="holds NaN"):
        observer.read(nn.Identity(), (torch.full((2, 5), torch.nan),))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    "activation",
    [
        None,
        Quantizer(4, False, "per_token"),
        Quantizer(4, True, "per_token"),
        Quantizer(4, False, "per_group", group_size=8),
        Quantizer(8, False, "per_request"),
    ],
)
def test_integers_are_multiplied_and_scaled(groups, activation):
    weight = on_grid(6, 32, groups, 0.03)
    values = weight.numbers * weight.scale.repeat_interleave(32 // groups, 1)
    bias, x = random(6, dtype=torch.float32), random(2, 5, 32, seed=2, dtype=torch.float32)
    layer = QuantizedLinear(weight, bias, activation)
    torch.testing.assert_close(layer.weight, values)
    quantized = x if activation is None else fake_quantize(x, activation)
    expected = quantized.double() @ values.double().T + bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_sums_of_integers_do_not_depend_on_the_batch_or_the_order_of_the_features():
    weight, x = on_grid(64, 2048, 1, 0.03), random(33, 2048, seed=2, dtype=torch.float32)
    order = torch.randperm(2048, generator=torch.Generator().manual_seed(0))
    four_bits = Quantizer(4, False, "per_token")

    def outputs(weight, shuffled):
        layer, twin = (QuantizedLinear(w, None, four_bits) for w in (weight, shuffled))
        return layer(x), torch.stack([layer(row) for row in x]), twin(x[:, order])

    together, one_by_one, other_order = outputs(
        weight, QuantizedWeight(weight.numbers[:, order], weight.scale)
    )
    assert torch.equal(one_by_one, together)
    assert torch.equal(other_order, together)
    # which products of dequantized values do not achieve
    values = weight.values(torch.float32)
    together, _, other_order = outputs(values, values[:, order])
    assert not torch.equal(other_order, together)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_whole_numbers_survive_bfloat16(bits):
    quantizer = Quantizer(bits, True, "per_channel")
    weight = random(16, 64).bfloat16()
    measured = parameters(weight, quantizer)
    layer = QuantizedLinear(quantize_weight(weight, quantizer), dtype=torch.bfloat16)
    assert torch.equal(layer.numbers.float(), to_integers(weight, quantizer, measured))
    x = random(3, 16, seed=1).bfloat16() @ weight.sign()
    torch.testing.assert_close(layer(x), x @ fake_quantize(weight, quantizer).T, rtol=0.02, atol=2)
