"""A measurement of small models: what is compared, and that it is what it says."""

import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch

from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.quantization import embeddings
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.packed import PackedLinear, pack_model
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.speed import full_precision, half_ends, measure, memory, parts, variants
from dllmquant_exp.speed.full_precision import MklLinear, PrepackedLinear, candidates, prepack
from dllmquant_exp.speed.half_ends import with_half_ends
from dllmquant_exp.speed.memory import held_bytes, weight_bytes
from dllmquant_exp.speed.random_models import random_packed
from dllmquant_exp.speed.settings import SpeedError, SpeedSettings


def described(model):
    """Names, types and settings of a model's modules."""
    return {n: (type(m), m.extra_repr()) for n, m in model.named_modules()}


@pytest.mark.parametrize("architecture", ["llada", "dream"])
@pytest.mark.parametrize("method", ["rtn", "quarot_rtn"])
@pytest.mark.parametrize("granularity", ["per_token", "per_tensor"])
def test_a_random_packed_model_is_built_as_the_pipeline_builds_one(
    config, subject, architecture, method, granularity
):
    shape = config(architecture=architecture, n_kv_heads=4 if architecture == "llada" else 2)
    rotation = {"rotation": Rotation(keys=True)} if method == "quarot_rtn" else {}
    method = Method(method, {**rotation, "round": Nearest()})
    settings = replace(
        subject().quant, activation_granularity=granularity, head_bits=8, embedding_bits=8
    )
    made = random_model(shape, seed=0)
    quantize(made, method, settings, iaaq=Iaaq())
    pack_model(made)
    random = random_packed(shape, settings, method, Iaaq(), 0)
    made, random = (with_half_ends(model, torch.float32) for model in (made, random))
    assert described(random) == described(made)
    sizes, expected = (
        {n: (t.shape, t.dtype) for n, t in m.state_dict().items()} for m in (random, made)
    )
    assert sizes == expected
    tokens = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = random(tokens, torch.arange(9) < torch.tensor([[9], [4]]))
    assert logits.isfinite().all() and 0.1 < float(logits.std()) < 10


@pytest.mark.parametrize("form", candidates())
def test_prepacked_linears_compute_the_same(form):
    torch.manual_seed(0)
    block = torch.nn.Sequential(torch.nn.Linear(48, 96), torch.nn.SiLU(), torch.nn.Linear(96, 7))
    block = block.to(full_precision.dtype_of(form))
    x = torch.randn(5, 48).to(full_precision.dtype_of(form))
    expected = block(x)
    torch.testing.assert_close(prepack(block, form, 5)(x), expected, rtol=2e-2, atol=2e-2)
    packed = [m for m in block.modules() if isinstance(m, PrepackedLinear | MklLinear)]
    assert len(packed) == (2 if form.endswith("packed") else 0)


@pytest.mark.skipif("float32 MKL packed" not in candidates(), reason="torch without MKL")
def test_a_weight_that_mkl_packed_is_for_one_number_of_rows():
    layer = MklLinear(torch.nn.Linear(48, 31), 6)
    assert layer(torch.randn(2, 3, 48)).shape == (2, 3, 31)
    with pytest.raises(ValueError, match="for 6 rows"):
        layer(torch.randn(5, 48))


def test_emulated_types_are_no_yardstick(monkeypatch):
    monkeypatch.setattr(full_precision, "native_bfloat16", lambda: False)
    assert set(candidates()) <= {"float32", "float32 packed", "float32 MKL packed"}
    monkeypatch.setattr(full_precision, "native_bfloat16", lambda: True)
    assert "bfloat16" in candidates()


def test_bits_beside_share_the_weights(subject):
    made = subject()
    model = variants.low_model(made, torch.float32)
    other = variants.with_bits(model, 8)
    pairs = list(zip(model.modules(), other.modules(), strict=True))
    layers = [(a, b) for a, b in pairs if isinstance(a, PackedLinear)]
    assert len(layers) == 3 * 7
    for a, b in layers:
        assert (a.activation.bits, b.activation.bits) == (4, 8)
        assert a.packed.data_ptr() == b.packed.data_ptr()
    tokens = torch.arange(10)[None] + 3
    assert not torch.equal(model(tokens), other(tokens))


def test_only_what_is_done_at_run_time_matters(subject):
    gptq = Method("quarot", {"rotation": Rotation(), "gptq": Gptq()})
    assert subject(method=gptq).runtime_method.steps == subject().method.steps
    awq = Method("awq", {"awq": Awq(), "round": Nearest()})
    assert subject(method=awq).runtime_method.steps == {"round": Nearest()}
    static = QuantSettings(activation_ranges="static", activation_granularity="per_tensor")
    with pytest.raises(SpeedError, match="activation_ranges=dynamic"):
        subject(quant=static)
    with pytest.raises(SpeedError, match="= 104 is more than the model's 64"):
        subject(settings=SpeedSettings(100, 1, 1))
    for wrong in ({"rounds": 0}, {"beside_bits": 9}):
        with pytest.raises(SpeedError, match=next(iter(wrong))):
            SpeedSettings(**{"prompt_length": 1, "responses": 1, "rounds": 1, **wrong})


def test_prompts_hold_no_special_tokens(subject):
    made = subject(settings=SpeedSettings(50, 7, 1))
    prompts = variants.random_prompts(made)
    assert [len(prompt) for prompt in prompts] == [50] * 7
    assert not {1, 2} & {token for prompt in prompts for token in prompt}


def check(found, names, rounds, extrapolated):
    assert [v["name"] for v in found["variants"]] == names
    full, *low = found["variants"]
    assert [v["extrapolated"] for v in found["variants"]] == extrapolated
    for variant in found["variants"]:
        speeds = [8 / s for s in variant["seconds"]]  # 2 responses of 4 tokens
        assert len(speeds) == rounds
        middle = statistics.median(speeds)
        assert variant["tokens_per_second"]["median"] == pytest.approx(middle, rel=1e-3)
    for variant in low:
        ratios = [a / b for a, b in zip(full["seconds"], variant["seconds"], strict=True)]
        assert variant["speedup"]["median"] == pytest.approx(statistics.median(ratios), rel=1e-2)
        assert sum(variant["parts"][p] for p in ("linears", "attention", "head")) > 0
    assert full["speedup"] is None
    assert min(b["seconds"]["median"] for b in found["block"].values()) > 0


@pytest.mark.parametrize("fastest", candidates())
def test_the_fastest_forms_are_found_and_built(subject, monkeypatch, fastest):
    low = full_precision.types()[candidates().index(fastest) % len(full_precision.types())]
    times = {name: 3.0 for name in candidates()}
    times |= {f"W4A{bits}, {dtype}": 2.0 for dtype in full_precision.types() for bits in (4, 8)}
    times |= {fastest: 2.5, f"W4A4, {low}": 1.0}
    timed = iter(times)  # of the race: one sample of each, made in this order
    monkeypatch.setattr(measure, "sampled", lambda run: partial(times.get, next(timed)))
    built = {}
    for name in ("full_model", "low_model"):
        made = getattr(variants, name)
        monkeypatch.setattr(
            measure, name, lambda s, form, n=name, f=made: f(s, built.setdefault(n, form))
        )
    found = measure.measure_speed(subject(settings=SpeedSettings(6, 2, 1, 8)))
    assert (found["full_precision"], found["low_type"]) == (fastest, low)
    assert built == {"full_model": fastest, "low_model": full_precision.dtype_of(low)}
    seconds = {name: entry["seconds"]["median"] for name, entry in found["block"].items()}
    assert seconds == times
    assert found["block"][f"W4A4, {low}"]["speedup"]["median"] == 2.5


def test_a_shape_is_measured_with_full_precision_on_one_block(subject):
    made = subject()
    found = measure.measure_speed(made)
    check(found, ["full precision", "W4A4", "W4A8"], 2, [True, False, False])
    assert found["block"][found["full_precision"]]["speedup"]["median"] == 1
    assert all(v["parts"]["rotations"] > 0 for v in found["variants"][1:])
    assert found["weight_bytes"]["4 8 16"] == weight_bytes(made.config, 4, 8, 16)
    full, *low = found["variants"]
    assert full["weight_bytes"] == found["weight_bytes"]["16 16 16"] and full["held_bytes"] is None
    assert {v["weight_bytes"] for v in low} == {v["held_bytes"] for v in low}


def test_a_model_that_does_not_fit_is_measured_on_one_block(subject, monkeypatch):
    monkeypatch.setattr(variants, "available_bytes", lambda: 1000)
    found = measure.measure_speed(subject(settings=SpeedSettings(6, 2, 2)))
    check(found, ["full precision", "W4A4"], 2, [True, True])
    low = found["variants"][1]
    assert low["weight_bytes"] == found["weight_bytes"]["4 16 16"] and low["held_bytes"] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [(16, 16), (8, 16), (16, 8)])
@pytest.mark.parametrize("loaded", [False, True])
def test_the_timed_model_holds_what_is_counted(config, subject, dtype, bits, loaded):
    shape = config(architecture="dream", n_kv_heads=2)
    quant = replace(subject().quant, head_bits=bits[0], embedding_bits=bits[1])
    load = (lambda dtype: random_model(shape, seed=0).to(dtype)) if loaded else None
    made = subject(config=shape, method=Method("rtn", {"round": Nearest()}), quant=quant, load=load)
    model = variants.low_model(made, dtype)
    assert held_bytes(model) == weight_bytes(shape, 4, *bits)
    inputs = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0].dtype))
    assert model(torch.arange(10)[None] + 3).dtype == dtype and inputs == [dtype]


@pytest.mark.parametrize("native", [False, True])
def test_half_ends_compute_what_wide_ones_do(config, subject, monkeypatch, native):
    monkeypatch.setattr(half_ends, "native_bfloat16", lambda: native)
    monkeypatch.setattr(embeddings, "_AT_ONCE", 48 * 7)  # 7 rows of the vocabulary's 101
    shape = config(architecture="dream")
    whole = random_model(shape, seed=0)
    for parameter in whole.parameters():  # values that 16 bits hold
        parameter.data = parameter.data.bfloat16().float()
    quantize(whole, Method("rtn", {"round": Nearest()}), subject().quant)
    pack_model(whole)
    tokens = torch.arange(10)[None] + 3
    expected = whole(tokens)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if not native else {"rtol": 0.02, "atol": 0.02}
    found = half_ends.with_half_ends(whole, torch.float32)(tokens)
    torch.testing.assert_close(found, expected, **tolerance)


def test_memory_of_blocks_that_are_not_there_is_added(config, subject, monkeypatch):
    resident, peaks = iter([100, 300, 1000, 1010]), iter([700, 1500])
    monkeypatch.setattr(memory, "resident_bytes", lambda: next(resident))
    monkeypatch.setattr(memory, "peak_bytes", lambda: next(peaks))
    monkeypatch.setattr(memory, "restart_peak", lambda: True)
    made = subject(method=Method("rtn", {"round": Nearest()}), settings=SpeedSettings(6, 2, 1))
    block = 4 * 48 * 48 + 3 * 48 * 96 + 2 * 48  # parameters
    full = measure._full_variant(made, "float32")
    assert (full.resident, full.peak) == (200 + 2 * block * 4, 600 + 2 * block * 4)
    (low,) = measure._low_variants(made, "float32")
    assert (low.resident, low.peak) == (10, 500)


def test_a_peak_that_could_not_be_restarted_is_not_known(subject, monkeypatch):
    monkeypatch.setattr(memory, "restart_peak", lambda: False)
    full = measure._full_variant(subject(), "float32")
    assert full.peak is None


def test_shares_of_a_decode_count_every_block(subject, monkeypatch):
    monkeypatch.setattr(variants, "available_bytes", lambda: 1000)
    made = subject(method=Method("rtn", {"round": Nearest()}))
    model = variants.low_model(made, torch.float32)
    (block,) = model.blocks
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for module, takes in ((block.q_proj, 2), (block.attention, 1), (block, 4), (model.head, 3)):
        module.register_forward_hook(lambda *_, t=takes: clock.__setitem__(0, clock[0] + t))
    whole = 3 * (2 + 1 + 4) + 3
    expected = {"linears": 6 / whole, "attention": 3 / whole, "head": 3 / whole, "rotations": 0}
    found = parts.parts(made, model, 3, torch.float32)
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_loaded_model_is_measured_whole(subject, config):
    made = subject(load=lambda dtype: random_model(config(), seed=0).to(dtype))
    check(measure.measure_speed(made), ["full precision", "W4A4", "W4A8"], 2, [False] * 3)


def test_full_precision_alone(subject):
    found = measure.measure_speed(subject(quant=None, method=Method("fp")))
    check(found, ["full precision"], 2, [True])
    assert found["low_type"] is None


def test_extrapolation_counts_a_block_as_often_as_there_are_blocks(subject, monkeypatch):
    made = subject(quant=None, method=Method("fp"))
    model = variants.full_model(made, "float32")
    assert len(model.blocks) == 1
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    model.blocks[0].register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 5))
    model.head.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 1))
    variant = measure.Variant("full precision", None, torch.float32, model, 3)
    times = measure._decodes(made, [variant])
    assert times == {"full precision": [4 * (3 * 5 + 1)] * 2}  # 4 steps


def test_every_response_has_its_full_length(subject):
    made = subject()
    model = variants.low_model(made, torch.float32)
    found = generate(
        model, variants.random_prompts(made), made.decoding, seeds=[0, 1], batch_size=2
    )
    assert found.forwards == 2 * 4


def test_what_cannot_be_packed_is_refused(subject):
    grouped = QuantSettings(weight_granularity="per_group", group_size=16)
    for quant in (grouped, QuantSettings(weight_bits=8), QuantSettings(activation_bits=16)):
        with pytest.raises(SpeedError, match="weights of at most 4 bits"):
            subject(quant=quant)
