"""compressed-tensors folders: transformers reads them, and finds the same numbers and logits."""

import json

import pytest
import torch
import torch.nn.functional as F
from small_models import VOCABULARY, calibration, small_model, toy_tokenizer

from dllmquant_exp.models import transformer
from dllmquant_exp.models.checkpoints import CheckpointError
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.embeddings import QuantizedHead
from dllmquant_exp.quantization.export import MADE, export_compressed_tensors, unsupported
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS, needs_calibration, quantize
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.quantizers import (
    QuantizationError,
    from_integers,
    to_integers,
)
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.quantization.saved_files import check_folder
from dllmquant_exp.quantization.saving import read_saved

pytest.importorskip("compressed_tensors", reason="the extra 'export' is not installed")
from transformers import AutoModelForCausalLM

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


TOKENIZER = toy_tokenizer()
TOKENS = torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(9))


def make(architecture, method, quant, seed=0):
    model = small_model(architecture, seed=seed)
    states = calibration() if needs_calibration(method, quant) else []
    quantize(model, method, quant, calibration=states)
    return model


def before_the_shift(model, tokens=TOKENS):
    """The head's own logits: where Dream's model reads them."""
    return model.head(model.final_norm(model.hidden(tokens)))


def of_values(linear, x):
    """A quantized linear as the reader computes it: from values, not from whole numbers."""
    if linear.activation is not None:
        measured = linear.ranges(x, linear.activation)
        integers = to_integers(x, linear.activation, measured)
        x = from_integers(integers, linear.activation, measured)
    return F.linear(x, linear.weight, linear.bias)


def to_the_last_bit(q, k, v, attn_mask=None, **_):
    """Attention for both: of the real keys alone, in one layout, whatever else a caller pads."""
    real = torch.ones(k.shape[2], dtype=torch.bool) if attn_mask is None else attn_mask[0, 0, 0]
    q, k, v = (x.double().contiguous() for x in (q, k[:, :, real], v[:, :, real]))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).float()


def angles_of(reader):
    """The reader's rotary tables for our model: it takes the frequencies from another formula."""

    def angles(positions, head_dim, theta, like):
        cos, sin = reader.model.rotary_emb(like, torch.arange(positions)[None])
        return cos[0, :, : head_dim // 2], sin[0, :, : head_dim // 2]

    return angles


def nearest_tie(model):
    """How close an activation comes to the middle between two of its grid's numbers, in steps."""
    found = []

    def look(linear, args):
        if linear.activation is not None:
            measured = linear.ranges(args[0], linear.activation)
            found.append(((args[0] / measured.scale + measured.zero) % 1 - 0.5).abs().min())

    linears = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    hooks = [linear.register_forward_pre_hook(look) for linear in linears]
    before_the_shift(model)
    for hook in hooks:
        hook.remove()
    return min(found, default=0.5)


def without_ties(architecture, method, quant):
    """The first model with no activation so close to a tie that a last bit could decide it."""
    models = (make(architecture, method, quant, seed) for seed in range(40))
    return next(model for model in models if nearest_tie(model) > 1e-5)


RUNS = [*((case, "llada") for case in CASES), ("W4A4", "dream"), ("static, ends", "dream")]


@torch.no_grad()
@pytest.mark.parametrize(("case", "architecture"), RUNS)
def test_transformers_reads_the_same_model(case, architecture, tmp_path, monkeypatch):
    method, quant = CASES[case]
    asymmetric = not quant.activation_symmetric  # on the others' grids every token has a tie
    model = (without_ties if asymmetric else make)(architecture, method, quant)
    export_compressed_tensors(
        model, tmp_path / "m", method=method, quant=quant, tokenizer=TOKENIZER,
        max_shard_bytes=8_000,
    )  # fmt: skip
    assert len(list((tmp_path / "m").glob("model-0*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    found = loaded(input_ids=TOKENS).logits
    if asymmetric:
        torch.testing.assert_close(found, before_the_shift(model), rtol=0, atol=1e-5)
    # With the reader's products of values, rotary tables and attention for both, every sum has the
    # same terms in the same order. Weights, grids, norms and the blocks' wiring are left.
    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", to_the_last_bit)
        patch.setattr(transformer, "rotary_angles", angles_of(loaded))
        patch.setattr(QuantizedLinear, "forward", of_values)
        patch.setattr(QuantizedHead, "forward", lambda head, x: F.linear(x, head.weight))
        assert torch.equal(loaded(input_ids=TOKENS).logits, before_the_shift(model))
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
    changed = TOKENS.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    assert not torch.equal(loaded(input_ids=changed).logits[:, 0], found[:, 0])


def test_the_folder_says_what_it_is(tmp_path):
    quant = QuantSettings(activation_symmetric=True)
    model = make("llada", RTN, quant)
    arguments = {"method": RTN, "quant": quant, "tokenizer": TOKENIZER}
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
    check_folder(tmp_path / "m", MADE)
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model.safetensors: was changed or damaged"):
        check_folder(tmp_path / "m", MADE)


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
def test_settings_without_a_place_in_the_format_are_refused(name, tmp_path):
    method, changes, message = UNSUPPORTED[name]
    settings = {"method": method, "quant": QuantSettings(**changes)}
    with pytest.raises(QuantizationError, match=message):
        export_compressed_tensors(
            small_model(), tmp_path / "m", tokenizer=TOKENIZER, **settings
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_attention_in_16_bits_is_none():
    off = AttentionSettings(p_bits=16, v_bits=16)
    assert unsupported(RTN, QuantSettings(attention=off), None) == []
