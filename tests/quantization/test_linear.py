"""The quantized linear: static ranges, their calibration, and rotations, against numpy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dllmquant_exp.quantization.linear import Padding, QuantizedLinear, RangeObserver
from dllmquant_exp.quantization.quantizers import Parameters, QuantizationError, Quantizer

STATIC = Quantizer(4, False, "per_tensor")


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def static(scale=0.25, zero=6.0, dtype=torch.float64):
    return Parameters(torch.tensor(scale, dtype=dtype), torch.tensor(zero, dtype=dtype))


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
