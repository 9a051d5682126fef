"""compressed-tensors folders: transformers reads them, and finds the same numbers and logits."""

import json

import pytest
import torch
import torch.nn.functional as F

from dllmquant_exp.models.checkpoints import CheckpointError, load_tokenizer, random_checkpoint
from dllmquant_exp.models.storage import load_model
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.embeddings import QuantizedHead
from dllmquant_exp.quantization.export import export_compressed_tensors, unsupported
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS, needs_calibration, quantize
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.quantizers import (
    OFF,
    QuantizationError,
    from_integers,
    to_integers,
)
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.quantization.saving import read_saved

pytest.importorskip("compressed_tensors", reason="the extra 'export' is not installed")
from transformers import AutoModelForCausalLM

CPU = torch.device("cpu")
RTN = Method("rtn", {"round": Nearest()})
CASES = {
    "W4A4": (RTN, QuantSettings()),
    "for vLLM": (
        Method("awq_gptq", {"awq": Awq(), "gptq": Gptq()}),
        QuantSettings(activation_symmetric=True),
    ),
    "static, ends": (
        RTN,
        QuantSettings(
            activation_granularity="per_tensor", activation_ranges="static",
            activation_clip_ratio=0.9, head_bits=8, embedding_bits=8,
        ),
    ),
    "W3A16, groups": (
        RTN,
        QuantSettings(
            weight_bits=3, weight_granularity="per_group", group_size=16, activation_bits=16
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    names = ("llada", "dream")
    return {name: random_checkpoint(name, folder / name, d_model=32) for name in names}


def tokens_of(model):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(model.config.vocab_size, (2, 11), generator=generator)


def make(folder, method, quant):
    model = load_model(str(folder), dtype=torch.float32, device=CPU)
    tokens = tokens_of(model)
    states = [TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.ones(2, 11))]
    needed = needs_calibration(method, quant)
    quantize(model, method, quant, calibration=states if needed else [])
    return model


def before_the_shift(model, tokens):
    """The head's own logits: where Dream's model reads them."""
    return model.head(model.final_norm(model.hidden(tokens)))


def of_values(linear, x):
    """A quantized linear as the reader computes it: from values, not from whole numbers."""
    if linear.activation is not None:
        measured = linear._measure(x, linear.activation)
        integers = to_integers(x, linear.activation, measured)
        x = from_integers(integers, linear.activation, measured)
    return F.linear(x, linear.weight, linear.bias)


def to_the_last_bit(q, k, v, attn_mask=None, **_):
    """Attention for both, in float64: how its inputs lie in memory does not change the result."""
    assert attn_mask is None
    weights = (q.double() @ k.double().transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v.double()).to(q.dtype)


RUNS = [*((case, "llada") for case in CASES), ("W4A4", "dream"), ("static, ends", "dream")]


@torch.no_grad()
@pytest.mark.parametrize(("case", "architecture"), RUNS)
def test_transformers_reads_the_same_model(case, architecture, checkpoints, tmp_path, monkeypatch):
    method, quant = CASES[case]
    model = make(checkpoints[architecture], method, quant)
    tokenizer = load_tokenizer(str(checkpoints[architecture]))
    export_compressed_tensors(
        model, tmp_path / "m", method=method, quant=quant, tokenizer=tokenizer,
        max_shard_bytes=30_000,
    )  # fmt: skip
    assert len(list((tmp_path / "m").glob("model-0*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    tokens = tokens_of(model)
    if quant.activation_symmetric:  # has a tie in every token, which the last bit decides
        monkeypatch.setattr(F, "scaled_dot_product_attention", to_the_last_bit)
    found = loaded(input_ids=tokens).logits
    if not quant.activation_symmetric:
        torch.testing.assert_close(found, before_the_shift(model, tokens), rtol=0, atol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(QuantizedLinear, "forward", of_values)
        patch.setattr(QuantizedHead, "forward", lambda head, x: F.linear(x, head.weight))
        of_the_reader = before_the_shift(model, tokens)
    # Attention differs in its last bits. Rounding to 4 bits takes that away, but where it changes a
    # token's range (in Dream's model here), or where nothing is rounded.
    if architecture == "llada" and quant.activation_bits != OFF:
        assert torch.equal(found, of_the_reader)
    else:
        torch.testing.assert_close(found, of_the_reader, rtol=0, atol=1e-5)
    generator = torch.Generator().manual_seed(1)
    names = {"gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}
    for ours, theirs in zip(model.blocks, loaded.model.layers, strict=True):
        for name in BLOCK_LINEARS:
            mine = ours.get_submodule(name)
            other = theirs.get_submodule(f"{names.get(name, 'self_attn')}.{name}")
            x = torch.randn(2, 3, mine.in_features, generator=generator)
            assert torch.equal(other.weight, mine.weight)
            assert torch.equal(other(x), of_values(mine, x))
    assert torch.equal(loaded.lm_head.weight, model.head.weight)
    # Every token sees all others, without a mask: the last one moves the first one's logits.
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    assert not torch.equal(loaded(input_ids=changed).logits[:, 0], found[:, 0])


def test_the_folder_says_what_it_is(checkpoints, tmp_path):
    quant = QuantSettings(activation_symmetric=True)
    model = make(checkpoints["llada"], RTN, quant)
    tokenizer = load_tokenizer(str(checkpoints["llada"]))
    arguments = {"method": RTN, "quant": quant, "tokenizer": tokenizer}
    export_compressed_tensors(model, tmp_path / "m", made={"seed": 5}, **arguments)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    made = config["dllmquant_exp"]
    assert made["seed"] == 5
    assert {*made["files"], "config.json"} == {f.name for f in (tmp_path / "m").iterdir()}
    (group,) = config["quantization_config"]["config_groups"].values()
    assert group["input_activations"]["symmetric"] is True  # what vLLM needs
    assert group["input_activations"]["strategy"] == "token"
    with pytest.raises(CheckpointError, match="quant_method: 'compressed-tensors'"):
        read_saved(tmp_path / "m")
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        export_compressed_tensors(model, tmp_path / "m", **arguments)


ROTATED = Method("quarot_rtn", {"rotation": Rotation(), "round": Nearest()})
UNSUPPORTED = {
    "rotation": (ROTATED, {}, "changes inputs while the model runs"),
    "attention": (RTN, {"attention": AttentionSettings()}, "softmax output, V or K are quantized"),
    "weights": (RTN, {"weight_bits": 16}, "leaves no weights to pack"),
    "requests": (RTN, {"activation_granularity": "per_tensor"}, "per tensor would be measured"),
    "groups": (
        RTN,
        {"activation_granularity": "per_group", "group_size": 8},
        "per group would be measured",
    ),
    "clipped": (RTN, {"activation_clip_ratio": 0.9}, "activation_clip_ratio = 0.9 clips"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_the_format_cannot_hold_is_refused(name, checkpoints, tmp_path):
    method, changes, message = UNSUPPORTED[name]
    quant = QuantSettings(**changes)
    model = make(checkpoints["llada"], method, quant)
    tokenizer = load_tokenizer(str(checkpoints["llada"]))
    with pytest.raises(QuantizationError, match=message):
        export_compressed_tensors(
            model, tmp_path / "m", method=method, quant=quant, tokenizer=tokenizer
        )
    assert list(tmp_path.iterdir()) == []
    off = AttentionSettings(p_bits=16, v_bits=16)
    assert unsupported(RTN, QuantSettings(attention=off), None) == []
