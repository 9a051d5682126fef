"""The quantized linear: static ranges, their calibration, and rotations, against numpy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dllmquant_exp.quantization.linear import Padding, QuantizedLinear, RangeObserver
from dllmquant_exp.quantization.quantizers import (
    Parameters,
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


@pytest.mark.parametrize("rotation", [None, Rotation(5)])
def test_an_observer_sees_all_calls_rotated_and_without_padding(rotation):
    layer, padding = QuantizedLinear(random(3, 5), rotation=rotation), Padding()
    observer = RangeObserver(padding)
    handle = layer.register_forward_pre_hook(observer.read)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    calls = [random(2, 4, 5, seed=1), 3 * random(2, 4, 5, seed=2), random(2, 4, 5, seed=3)]
    padding.keep = mask[..., None]
    for call in calls:
        layer(torch.where(padding.keep, call, 1000 * call))
    handle.remove()
    layer(100 * calls[0])
    seen = torch.cat([call[mask] for call in calls])
    seen = seen if rotation is None else rotation(seen)
    low, high = float(seen.min()), float(seen.max())
    for clip in (1.0, 0.9):
        measured = observer.parameters(Quantizer(4, False, "per_tensor", clip_ratio=clip))
        scale = clip * (high - low) / 15
        assert float(measured.scale) == pytest.approx(scale, rel=1e-12)
        assert float(measured.zero) == round(-clip * low / scale)
        assert measured.scale.shape == measured.zero.shape == ()


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
