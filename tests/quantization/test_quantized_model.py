"""Whole models: what is quantized, what is not, and an integer reference for every linear."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.models.embedded import world
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.method import Method, read_method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError
from dllmquant_exp.quantization.rotation import Rotation

FP, RTN = Method("fp"), Method("rtn", {"round": Nearest()})

ARCHITECTURES = ("llada", "dream")
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = 3


def make(architecture, dtype=torch.float64, seed=0):
    config = TransformerConfig(
        architecture=architecture,
        d_model=32,
        n_layers=LAYERS,
        n_heads=4,
        n_kv_heads=4 if architecture == "llada" else 2,
        d_ffn=48,
        vocab_size=61,
        max_length=64,
        rope_theta=1e4,
        norm_eps=1e-6,
        mask_token_id=60,
        eos_token_id=58,
        pad_token_id=58,
    )
    return random_model(config, seed=seed).to(dtype)


def batch(lengths=(9, 4, 6)):
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    tokens = torch.randint(61, mask.shape, generator=generator)
    return torch.where(mask, tokens, 58), mask


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return make(request.param)


def test_seven_linears_per_block_and_nothing_else(model):
    original = copy.deepcopy(model)
    report = quantize(model, RTN, QuantSettings())
    expected = [f"blocks.{n}.{name}" for n in range(LAYERS) for name in LINEARS]
    quantized = [n for n, m in model.named_modules() if isinstance(m, QuantizedLinear)]
    assert sorted(quantized) == sorted(expected)
    assert [layer.name for layer in report.layers] == expected
    assert report.block_linears == 7 * LAYERS
    linears = [n for n, m in original.named_modules() if isinstance(m, torch.nn.Linear)]
    assert set(linears) - set(expected) == {"head"}
    left = dict(model.named_parameters())
    untouched = {n: p for n, p in original.named_parameters() if "_proj." not in n}
    assert left.keys() == untouched.keys()
    assert {"embedding.weight", "head.weight", "final_norm.weight"} <= left.keys()
    assert all(torch.equal(left[name], untouched[name]) for name in left)


def test_biases_are_kept(model):
    original = copy.deepcopy(model)
    quantize(model, RTN, QuantSettings())
    for before, after in zip(original.blocks, model.blocks, strict=True):
        for name in LINEARS:
            bias = before.get_submodule(name).bias
            assert (bias is None) == (
                model.config.architecture == "llada" or name not in LINEARS[:3]
            )
            if bias is not None:
                assert torch.equal(after.get_submodule(name).bias, bias)


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
def test_every_linear_is_the_integer_product(model, bits):
    original = copy.deepcopy(model)
    quantize(model, RTN, QuantSettings(weight_bits=bits[0], activation_bits=bits[1]))
    calls = {}

    def record(name):
        def hook(module, args, output):
            calls[name] = (args[0], output)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            module.register_forward_hook(record(name))
    tokens, mask = batch()
    model(tokens, mask)
    assert len(calls) == 7 * LAYERS
    for name, (x, output) in calls.items():
        full = original.get_submodule(name)
        weight, bias = full.weight.detach(), None if full.bias is None else full.bias.detach()
        expected = integer_linear(x, weight, bias, *bits)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        assert float((output - full(x)).norm() / full(x).norm()) > 1e-4


def test_quantized_logits_differ_less_with_more_bits(model):
    tokens, mask = batch()
    exact = model(tokens, mask, mask)
    errors = []
    for bits in (3, 4, 6, 8):
        quantized = copy.deepcopy(model)
        quantize(quantized, RTN, QuantSettings(weight_bits=bits, activation_bits=bits))
        errors.append(float((quantized(tokens, mask, mask) - exact).norm() / exact.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 0.05


def test_weight_only_leaves_the_inputs_alone(model):
    reference = copy.deepcopy(model)
    report = quantize(model, RTN, QuantSettings(activation_bits=16))
    for n, name in ((n, name) for n in range(LAYERS) for name in LINEARS):
        layer = model.blocks[n].get_submodule(name)
        assert layer.activation is None
        reference.blocks[n].get_submodule(name).weight.copy_(layer.weight)
    tokens, mask = batch()
    torch.testing.assert_close(model(tokens, mask), reference(tokens, mask), rtol=1e-10, atol=1e-10)
    assert {(r.weight_bits, r.activation_bits) for r in report.layers} == {(4, 16)}


def test_activations_only_leave_the_weights_alone(model):
    original = copy.deepcopy(model)
    report = quantize(model, RTN, QuantSettings(weight_bits=16))
    assert report.mean_relative_weight_error == 0
    for name in LINEARS:
        full = original.blocks[0].get_submodule(name)
        assert torch.equal(model.blocks[0].get_submodule(name).weight, full.weight)
    tokens, mask = batch()
    assert not torch.allclose(model(tokens, mask), original(tokens, mask))


@pytest.mark.parametrize("arguments", [(FP, QuantSettings()), (FP, None)])
def test_fp_touches_nothing(model, arguments):
    original = copy.deepcopy(model)
    report = quantize(model, *arguments)
    assert (report.layers, report.block_linears, report.settings) == ((), 0, None)
    tokens, mask = batch()
    assert torch.equal(model(tokens, mask), original(tokens, mask))
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())


def test_sixteen_bits_everywhere_touch_nothing(model):
    report = quantize(model, RTN, QuantSettings(weight_bits=16, activation_bits=16))
    assert report.layers == ()
    assert report.mean_relative_weight_error is None


@pytest.mark.parametrize("end", ["embedding", "head"])
def test_embedding_and_head_have_bits_of_their_own(model, end):
    original = copy.deepcopy(model)
    report = quantize(
        model, RTN, QuantSettings(weight_bits=16, activation_bits=16, **{f"{end}_bits": 8})
    )
    assert [layer.name for layer in report.layers] == [end]
    assert report.layers[0].weight_bits == 8
    assert report.block_linears == 0
    for name, parameter in original.named_parameters():
        owner, _, leaf = name.rpartition(".")
        changed = getattr(model.get_submodule(owner), leaf)
        if name != f"{end}.weight":
            assert torch.equal(changed, parameter)
            continue
        assert model.get_submodule(end).numbers.dtype == torch.int8
        scale = 2 * parameter.abs().amax(1, keepdim=True) / 255
        expected = (parameter / scale).round().clamp(-128, 127) * scale
        torch.testing.assert_close(changed, expected, rtol=1e-12, atol=0)


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
def test_an_answer_does_not_depend_on_its_batch(model, kind):
    quantize(model, RTN, SETTINGS[kind])
    tokens, mask = batch()
    logits = model(tokens, mask)
    for row, kept, together in zip(tokens, mask, logits, strict=True):
        alone = model(row[kept][None])[0]
        torch.testing.assert_close(together[kept], alone, rtol=0, atol=1e-10)


def test_settings_reach_the_layers():
    tokens, mask = batch()
    outputs = []
    for settings in SETTINGS.values():
        model = make("llada")
        quantize(model, RTN, settings)
        outputs.append(model(tokens, mask, mask))
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
        model = make("llada")
        quantize(model, RTN, QuantSettings(**change))
        outputs.append(model(tokens, mask, mask))
    for i, first in enumerate(outputs):
        assert not any(torch.allclose(first, second) for second in outputs[:i])


def test_padding_is_forgotten_when_a_batch_has_none(model):
    quantize(model, RTN, QuantSettings(activation_granularity="per_tensor"))
    tokens, mask = batch()
    before = model(tokens)
    model(tokens, mask)
    assert torch.equal(model(tokens), before)


def test_copies_do_not_share_their_padding(model):
    quantize(model, RTN, QuantSettings(activation_granularity="per_tensor"))
    twin = copy.deepcopy(model)
    tokens, mask = batch()
    expected = model(tokens, mask)
    model(tokens)
    assert torch.equal(twin(tokens, mask), expected)
    assert twin.blocks[0].q_proj.padding is not model.blocks[0].q_proj.padding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types(dtype):
    model = make("dream", dtype)
    quantize(model, RTN, QuantSettings())
    tokens, mask = batch()
    logits = model(tokens, mask)
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
        (RTN, None, "needs quantization settings"),
        (
            RTN,
            QuantSettings(weight_granularity="per_group", group_size=32),
            r"group_size = 32 does not divide the 48 inputs of blocks\.0\.down_proj",
        ),
    ],
)
def test_errors_leave_the_model_alone(model, method, settings, named):
    original = copy.deepcopy(model)
    with pytest.raises(QuantizationError, match=named):
        quantize(model, method, settings)
    tokens, mask = batch()
    assert torch.equal(model(tokens, mask), original(tokens, mask))


def test_a_model_is_not_quantized_twice(model):
    quantize(model, RTN, QuantSettings())
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize(model, RTN, QuantSettings())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weight_bits": 9}, "weight_bits = 9 is not one of"),
        ({"activation_bits": True}, "activation_bits = True"),
        ({"head_bits": 1}, "head_bits = 1"),
        ({"embedding_bits": 32}, "embedding_bits = 32"),
        ({"weight_granularity": "per_token"}, "weight_granularity = 'per_token' is not one of"),
        ({"activation_granularity": "per_channel"}, "activation_granularity = 'per_channel'"),
        ({"weight_grid": "max"}, "weight_grid = 'max'"),
        ({"weight_clip_ratio": 0}, "weight_clip_ratio = 0"),
        ({"activation_clip_ratio": 2.0}, "activation_clip_ratio = 2.0"),
        ({"weight_granularity": "per_group"}, "group_size = None does not fit"),
        ({"group_size": 128}, "group_size = 128 does not fit"),
    ],
)
def test_impossible_settings_are_named(change, named):
    with pytest.raises(Refusal, match=named):
        QuantSettings(**change)


# The presets

CONF = Path(__file__).resolve().parents[2] / "conf"
BITS = {"w4a4": (4, 4), "w8a8": (8, 8), "w4a16": (4, 16), "w3a3": (3, 3)}


@pytest.mark.parametrize("name", BITS)
def test_quant_presets(name):
    preset = yaml.safe_load((CONF / "quant" / f"{name}.yaml").read_text())
    assert preset.pop("name") == name
    if preset["attention"] is not None:
        preset["attention"] = AttentionSettings(**preset["attention"])
    settings = QuantSettings(**preset)
    assert set(preset) == set(vars(settings))
    assert (settings.weight_bits, settings.activation_bits) == BITS[name]
    bits = {"weight_bits": None, "activation_bits": None, "attention": None}
    defaults = vars(QuantSettings(weight_clip_search=2.4))
    assert vars(settings) | bits == defaults | bits
    activation_bits, attention = settings.activation_bits, settings.attention
    if activation_bits == 16:
        assert attention is None
    else:
        assert attention is not None
        assert (attention.p_bits, attention.v_bits) == (activation_bits, activation_bits)


def test_method_presets_are_what_their_names_say():
    def preset(name):
        section = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
        return read_method(section)

    names = {path.stem for path in (CONF / "method").glob("*.yaml")}
    assert names == {"fp", "rtn", "awq", "gptq", "awq_gptq", "quarot", "quarot_rtn"}
    made = {name: preset(name) for name in names}
    assert all(method.name == name for name, method in made.items())
    assert not made["fp"].quantizes and made["rtn"].quantizes
    assert {n: tuple(map(type, m.steps.values())) for n, m in made.items()} == {
        "fp": (),
        "rtn": (Nearest,),
        "awq": (Awq, Nearest),
        "gptq": (Gptq,),
        "awq_gptq": (Awq, Gptq),
        "quarot": (Rotation, Gptq),
        "quarot_rtn": (Rotation, Nearest),
    }
    assert {n for n, m in made.items() if m.online} == {"quarot", "quarot_rtn"}
    assert {n for n, m in made.items() if m.calibrates(QuantSettings())} == {
        "awq", "gptq", "awq_gptq", "quarot",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "architecture", "checkpoint", "settings"),
    [
        ("micro_llada", "llada", "embedded:micro_llada", "micro"),
        ("micro_llada_plain", "llada", "embedded:micro_llada", "micro"),
        ("micro_llada_1_5", "llada", "embedded:micro_llada_1_5", "micro"),
        ("micro_dream", "dream", "embedded:micro_dream", "micro_dream"),
        ("llada_8b", "llada", "GSAI-ML/LLaDA-8B-Base", "llada_base"),
        ("llada_8b_instruct", "llada", "GSAI-ML/LLaDA-8B-Instruct", "llada_instruct"),
        ("llada_1_5", "llada", "GSAI-ML/LLaDA-1.5", "llada_1_5"),
        ("dream_7b", "dream", "Dream-org/Dream-v0-Base-7B", "dream_base"),
        ("dream_7b_instruct", "dream", "Dream-org/Dream-v0-Instruct-7B", "dream_instruct"),
    ],
)
def test_model_presets(name, architecture, checkpoint, settings):
    preset = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    embedded = checkpoint.startswith("embedded:")
    calibration = preset.pop("calibration")
    assert set(calibration) == {"texts", "length", "gen_length", "steps", "control_samples"}
    assert calibration["texts"] == (list(world.TASKS) if embedded else ["winogrande"])
    assert (preset.pop("outliers") is not None) == (embedded and name != "micro_llada_plain")
    assert preset == {
        "name": name,
        "architecture": architecture,
        "checkpoint": checkpoint,
        "revision": None,
        "settings": settings,
        "embedded": embedded,
    }
