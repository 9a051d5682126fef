"""Packed models: random ones are built as the pipeline builds them, and hold what is counted."""

from dataclasses import replace

import pytest
import torch

from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.quantization import embeddings
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.packed import PackedLinear, pack_model
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.speed import low_bits
from dllmquant_exp.speed.low_bits import with_half_ends
from dllmquant_exp.speed.memory import held_bytes, weight_bytes


def described(model):
    """Names, types and settings of a model's modules."""
    return {n: (type(m), m.extra_repr()) for n, m in model.named_modules()}


@pytest.mark.parametrize("architecture", ["llada", "dream"])
@pytest.mark.parametrize("method", ["rtn", "quarot_rtn"])
@pytest.mark.parametrize("granularity", ["per_token", "per_tensor"])
def test_a_random_packed_model_is_built_as_the_pipeline_builds_one(
    config, workload, architecture, method, granularity
):
    shape = config(architecture=architecture, n_kv_heads=4 if architecture == "llada" else 2)
    rotation = {"rotation": Rotation(keys=True)} if method == "quarot_rtn" else {}
    method = Method(method, {**rotation, "round": Nearest()})
    settings = replace(
        workload().quant, activation_granularity=granularity, head_bits=8, embedding_bits=8
    )
    made = random_model(shape, seed=0)
    quantize(made, method, settings, iaaq=Iaaq())
    pack_model(made)
    asked = workload(config=shape, method=method, quant=settings, iaaq=Iaaq())
    random = low_bits.random_model(asked, shape.n_layers)
    made, random = (with_half_ends(model, torch.float32) for model in (made, random))
    assert described(random) == described(made)
    sizes, expected = (
        {n: (t.shape, t.dtype) for n, t in m.state_dict().items()} for m in (random, made)
    )
    assert sizes == expected
    tokens = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = random(tokens, torch.arange(9) < torch.tensor([[9], [4]]))
    assert logits.isfinite().all() and 0.1 < float(logits.std()) < 10


def test_bits_beside_share_the_weights(workload):
    made = workload()
    model = low_bits.low_model(made, torch.float32)
    other = low_bits.with_bits(model, 8)
    pairs = list(zip(model.modules(), other.modules(), strict=True))
    layers = [(a, b) for a, b in pairs if isinstance(a, PackedLinear)]
    assert len(layers) == 3 * 7
    for a, b in layers:
        assert (a.activation.bits, b.activation.bits) == (4, 8)
        assert a.packed.data_ptr() == b.packed.data_ptr()
    tokens = torch.arange(10)[None] + 3
    assert not torch.equal(model(tokens), other(tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [(16, 16), (8, 16), (16, 8)])
@pytest.mark.parametrize("loaded", [False, True])
def test_the_timed_model_holds_what_is_counted(config, workload, dtype, bits, loaded):
    shape = config(architecture="dream", n_kv_heads=2)
    quant = replace(workload().quant, head_bits=bits[0], embedding_bits=bits[1])
    load = (lambda dtype: random_model(shape, seed=0).to(dtype)) if loaded else None
    made = workload(
        config=shape, method=Method("rtn", {"round": Nearest()}), quant=quant, load=load
    )
    model = low_bits.low_model(made, dtype)
    assert held_bytes(model) == weight_bytes(shape, 4, *bits)
    inputs = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0].dtype))
    assert model(torch.arange(10)[None] + 3).dtype == dtype and inputs == [dtype]


@pytest.mark.parametrize("native", [False, True])
def test_half_ends_compute_what_wide_ones_do(config, workload, monkeypatch, native):
    monkeypatch.setattr(low_bits, "native_bfloat16", lambda: native)
    monkeypatch.setattr(embeddings, "_AT_ONCE", 48 * 7)  # 7 rows of the vocabulary's 101
    shape = config(architecture="dream")
    whole = random_model(shape, seed=0)
    for parameter in whole.parameters():  # values that 16 bits hold
        parameter.data = parameter.data.bfloat16().float()
    quantize(whole, Method("rtn", {"round": Nearest()}), workload().quant)
    pack_model(whole)
    tokens = torch.arange(10)[None] + 3
    expected = whole(tokens)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if not native else {"rtol": 0.02, "atol": 0.02}
    found = low_bits.with_half_ends(whole, torch.float32)(tokens)
    torch.testing.assert_close(found, expected, **tolerance)
