"""Whole models: what is quantized, what is not, and an integer reference for every linear."""

import copy
import json

import numpy as np
import pytest
import torch
from small_models import padded_tokens, small_model

from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS, quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError

RTN = Method("rtn", {"round": Nearest()})
NOTHING = QuantSettings(weight_bits=16, activation_bits=16)
LAYERS = 3
TOKENS, MASK = padded_tokens()


@pytest.fixture(params=["llada", "dream"])
def model(request):
    return small_model(request.param, torch.float64, n_layers=LAYERS)


def test_seven_linears_per_block_and_nothing_else(model):
    original = copy.deepcopy(model)
    report = quantize(model, RTN, QuantSettings())
    expected = [f"blocks.{n}.{name}" for n in range(LAYERS) for name in BLOCK_LINEARS]
    assert len(expected) == 7 * LAYERS == report.block_linears
    quantized = [n for n, m in model.named_modules() if isinstance(m, QuantizedLinear)]
    assert sorted(quantized) == sorted(expected)
    assert [layer.name for layer in report.layers] == expected
    linears = [n for n, m in original.named_modules() if isinstance(m, torch.nn.Linear)]
    assert set(linears) - set(expected) == {"head"}
    left = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, parameter in original.named_parameters():  # norms, ends, and biases
        if not name.endswith("_proj.weight"):
            assert torch.equal(left[name], parameter), name
    biases = {name.split(".")[2] for name in left if name.endswith(".bias")}
    dream = model.config.architecture == "dream"
    assert biases == ({"q_proj", "k_proj", "v_proj"} if dream else set())


def integer_linear(x, weight, bias, weight_bits, activation_bits):
    """W per channel symmetric (scale 2m/15), X per token asymmetric, product in integers."""
    x, weight = x.numpy(), weight.numpy()
    half, top = 2 ** (weight_bits - 1), 2**activation_bits - 1
    scale_w = 2 * np.abs(weight).max(1) / (2**weight_bits - 1)
    q_w = np.clip(np.rint(weight / scale_w[:, None]), -half, half - 1).astype(np.int64)
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    scale_x = (high - low) / top
    zero = np.rint(-low / scale_x).astype(np.int64)
    q_x = np.clip(np.rint(x / scale_x[..., None]) + zero[..., None], 0, top).astype(np.int64)
    product = q_x @ q_w.T - zero[..., None] * q_w.sum(1)
    y = product * scale_x[..., None] * scale_w
    return torch.from_numpy(y if bias is None else y + bias.numpy())


@pytest.mark.parametrize("bits", [(4, 4), (8, 8), (3, 3), (4, 8)])
def test_every_linear_is_the_integer_product(bits):
    model = small_model("dream", torch.float64)
    original, calls = copy.deepcopy(model), {}
    quantize(model, RTN, QuantSettings(weight_bits=bits[0], activation_bits=bits[1]))
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            module.register_forward_hook(
                lambda _, args, output, name=name: calls.update({name: (args[0], output)})
            )
    model(TOKENS, MASK)
    assert len(calls) == 14
    for name, (x, output) in calls.items():
        full = original.get_submodule(name)
        weight, bias = full.weight.detach(), None if full.bias is None else full.bias.detach()
        expected = integer_linear(x, weight, bias, *bits)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        assert float((output - full(x)).norm() / full(x).norm()) > 1e-4


def test_quantized_logits_differ_less_with_more_bits(model):
    exact = model(TOKENS, MASK, MASK)
    errors = []
    for bits in (3, 4, 6, 8):
        quantized = copy.deepcopy(model)
        quantize(quantized, RTN, QuantSettings(weight_bits=bits, activation_bits=bits))
        errors.append(float((quantized(TOKENS, MASK, MASK) - exact).norm() / exact.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 0.05


def test_weights_or_activations_alone_leave_the_others_alone(model):
    original, by_hand = copy.deepcopy(model), copy.deepcopy(model)
    activations_only = copy.deepcopy(model)
    report = quantize(model, RTN, QuantSettings(activation_bits=16))
    assert {(r.weight_bits, r.activation_bits) for r in report.layers} == {(4, 16)}
    for block, same in zip(model.blocks, by_hand.blocks, strict=True):
        for name in BLOCK_LINEARS:
            same.get_submodule(name).weight.data = block.get_submodule(name).weight
    torch.testing.assert_close(model(TOKENS, MASK), by_hand(TOKENS, MASK), rtol=1e-10, atol=1e-10)
    report = quantize(activations_only, RTN, QuantSettings(weight_bits=16))
    assert report.mean_relative_weight_error == 0
    for name in BLOCK_LINEARS:
        weights = [m.blocks[0].get_submodule(name).weight for m in (activations_only, original)]
        assert torch.equal(*weights)
    assert not torch.allclose(activations_only(TOKENS, MASK), original(TOKENS, MASK))


@pytest.mark.parametrize("method", [Method("fp"), RTN])
def test_nothing_to_quantize_touches_nothing(model, method):
    exact = model(TOKENS, MASK)
    report = quantize(model, method, NOTHING if method is RTN else None)
    assert (report.layers, report.block_linears) == ((), 0)
    assert report.mean_relative_weight_error is None
    assert torch.equal(model(TOKENS, MASK), exact)
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())


@pytest.mark.parametrize("end", ["embedding", "head"])
def test_embedding_and_head_have_bits_of_their_own(model, end):
    original = copy.deepcopy(model)
    settings = QuantSettings(weight_bits=16, activation_bits=16, **{f"{end}_bits": 8})
    (layer,) = quantize(model, RTN, settings).layers
    assert (layer.name, layer.weight_bits, layer.activation_bits) == (end, 8, 16)
    found = dict(model.named_parameters())
    for name, parameter in original.named_parameters():
        if name != f"{end}.weight":
            assert torch.equal(found[name], parameter)
            continue
        assert model.get_submodule(end).numbers.dtype == torch.int8
        scale = 2 * parameter.abs().amax(1, keepdim=True) / 255
        expected = (parameter / scale).round().clamp(-128, 127) * scale
        actual = model.get_submodule(end).weight
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize(model, RTN, settings)


def test_reported_errors_are_those_of_the_weights(model):
    original = copy.deepcopy(model)
    report = quantize(model, RTN, QuantSettings())
    errors = []
    for layer in report.layers:
        weight = original.get_submodule(layer.name).weight
        rounded = model.get_submodule(layer.name).weight
        errors.append(float((weight - rounded).norm() ** 2 / weight.norm() ** 2))
        assert layer.relative_weight_error == pytest.approx(errors[-1], rel=1e-9)
        assert layer.parameters == weight.numel()
        assert all(len(row.unique()) <= 16 for row in rounded)
    assert report.mean_relative_weight_error == pytest.approx(np.mean(errors), rel=1e-9)
    assert 0.001 < report.mean_relative_weight_error < 0.05
    again = json.loads(json.dumps(report.to_dict()))
    assert again["settings"]["weight_bits"] == 4
    assert [layer["name"] for layer in again["layers"]] == [r.name for r in report.layers]


SETTINGS = {
    "per token": QuantSettings(),
    "per request": QuantSettings(activation_granularity="per_tensor"),
    "groups": QuantSettings(
        weight_granularity="per_group", activation_granularity="per_group", group_size=16
    ),
    "symmetric": QuantSettings(activation_symmetric=True, activation_clip_ratio=0.9),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_an_answer_does_not_depend_on_its_batch_or_on_earlier_ones(model, kind):
    quantize(model, RTN, SETTINGS[kind])
    twin = copy.deepcopy(model)
    logits, unpadded = model(TOKENS, MASK), model(TOKENS)
    for row, kept, together in zip(TOKENS, MASK, logits, strict=True):
        alone = model(row[kept][None])[0]
        torch.testing.assert_close(together[kept], alone, rtol=0, atol=1e-10)
    assert torch.equal(model(TOKENS), unpadded)  # padding of the calls before is forgotten
    assert torch.equal(twin(TOKENS, MASK), logits)  # and a copy has its own


def test_settings_reach_the_layers():
    outputs = []
    for settings in SETTINGS.values():
        model = small_model("llada", torch.float64)
        quantize(model, RTN, settings)
        outputs.append(model(TOKENS, MASK, MASK))
    changes = (
        {"weight_grid": "restricted"},
        {"weight_clip_ratio": 0.8},
        {"weight_clip_ratio": 0.8, "weight_grid": "restricted"},
        {"weight_clip_ratio": 0.8, "weight_grid": "max_over_7"},
        {"weight_granularity": "per_tensor"},
        {"head_bits": 8},
        {"embedding_bits": 8},
    )
    for change in changes:
        model = small_model("llada", torch.float64)
        quantize(model, RTN, QuantSettings(**change))
        outputs.append(model(TOKENS, MASK, MASK))
    for i, first in enumerate(outputs):
        assert not any(torch.allclose(first, second) for second in outputs[:i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types(dtype):
    model = small_model("dream", dtype)
    quantize(model, RTN, QuantSettings())
    logits = model(TOKENS, MASK)
    assert logits.dtype == dtype
    assert bool(logits.isfinite().all())
    assert model.blocks[0].down_proj.weight.dtype == dtype


@pytest.mark.parametrize(
    ("method", "settings", "named"),
    [
        (
            Method("awq", {"awq": Awq(), "round": Nearest()}),
            QuantSettings(),
            "'awq' needs calibration states",
        ),
        (
            RTN,
            QuantSettings(weight_granularity="per_group", group_size=32),
            r"group_size = 32 does not divide the 48 inputs of down_proj",
        ),
    ],
)
def test_errors_leave_the_model_alone(model, method, settings, named):
    exact = model(TOKENS, MASK)
    with pytest.raises(QuantizationError, match=named):
        quantize(model, method, settings)
    assert torch.equal(model(TOKENS, MASK), exact)


def test_a_model_is_not_quantized_twice(model):
    quantize(model, RTN, QuantSettings())
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize(model, RTN, QuantSettings())
