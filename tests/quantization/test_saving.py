"""Saved quantized models: bit for bit what was saved, or refused with a reason."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dllmquant_exp.models.checkpoints import CheckpointError, load_tokenizer, random_checkpoint
from dllmquant_exp.models.storage import load_model
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.packed import pack_model
from dllmquant_exp.quantization.pipeline import needs_calibration, quantize
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.quantization.saved_files import config_digest, sha256
from dllmquant_exp.quantization.saved_layout import from_codes, to_codes
from dllmquant_exp.quantization.saving import (
    load_quantized,
    load_saved_tokenizer,
    read_saved,
    save_quantized,
)

CPU = torch.device("cpu")
RTN = Method("rtn", {"round": Nearest()})
QUAROT = Method("quarot", {"rotation": Rotation(keys=True), "gptq": Gptq()})
STATIC = {"activation_granularity": "per_tensor", "activation_ranges": "static"}
PV4 = AttentionSettings(k_bits=4)
CASES = {  # method, quant, IA-AQ, whether it can be packed
    "rtn": (RTN, QuantSettings(), None, True),
    "everything": (
        QUAROT,
        QuantSettings(attention=PV4, head_bits=8, embedding_bits=8, activation_clip_ratio=0.9),
        Iaaq(mode="static"),
        True,
    ),
    "static, odd bits, online": (
        Method("awq_gptq", {"awq": Awq(), "gptq": Gptq(dtype="float64")}),
        QuantSettings(weight_bits=3, attention=AttentionSettings(), **STATIC),
        Iaaq(),
        True,
    ),
    "eight bits, per request": (
        RTN,
        QuantSettings(weight_bits=8, activation_bits=8, activation_granularity="per_tensor"),
        None,
        False,
    ),
    "groups": (
        RTN,
        QuantSettings(weight_granularity="per_group", group_size=8, activation_bits=16),
        None,
        False,
    ),
    "activations only": (
        Method("quarot_rtn", {"rotation": Rotation(), "round": Nearest()}),
        QuantSettings(weight_bits=16, head_bits=4),
        None,
        False,
    ),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    names = ("llada", "dream")
    return {name: random_checkpoint(name, folder / name, d_model=32) for name in names}


def states(vocabulary):
    generator = torch.Generator().manual_seed(7)
    mask = torch.arange(9)[None] < torch.tensor([9, 4, 6])[:, None]
    return torch.randint(vocabulary, mask.shape, generator=generator), mask


def make(folder, case, dtype=torch.float32):
    """A quantized model and its settings."""
    method, quant, iaaq, _ = CASES[case]
    model = load_model(str(folder), dtype=dtype, device=CPU)
    tokens, mask = states(model.config.vocab_size)
    calibration = [TokenBatch(tokens, mask, mask.float())]
    if not needs_calibration(method, quant, iaaq):
        calibration = []
    quantize(model, method, quant, calibration=calibration, iaaq=iaaq)
    return model, {"method": method, "quant": quant, "iaaq": iaaq}


def logits(model):
    return model(*states(model.config.vocab_size))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_a_loaded_model_has_the_bits_of_the_one_that_was_saved(
    architecture, case, checkpoints, tmp_path
):
    model, settings = make(checkpoints[architecture], case)
    tokenizer = load_tokenizer(str(checkpoints[architecture]))
    expected = logits(model)
    save_quantized(model, tmp_path / "fake", tokenizer=tokenizer, **settings)
    saved = read_saved(tmp_path / "fake")
    assert torch.equal(logits(load_quantized(saved, device=CPU, packed=False)), expected)
    if not CASES[case][3]:
        with pytest.raises(QuantizationError, match="cannot be packed"):
            load_quantized(saved, device=CPU, packed=True)
        return
    pack_model(model)
    packed = logits(model)
    assert torch.equal(logits(load_quantized(saved, device=CPU, packed=True)), packed)
    # The order of packing and saving does not matter, down to the bytes.
    again = save_quantized(model, tmp_path / "packed", tokenizer=tokenizer, **settings)
    weights = [(tmp_path / name / "model.safetensors") for name in ("fake", "packed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert torch.equal(logits(load_quantized(again, device=CPU, packed=True)), packed)


def test_other_types_and_shards(checkpoints, tmp_path):
    tokenizer = load_tokenizer(str(checkpoints["dream"]))
    for dtype in (torch.bfloat16, torch.float64):
        model, settings = make(checkpoints["dream"], "rtn", dtype)
        folder = tmp_path / str(dtype)
        saved = save_quantized(model, folder, tokenizer=tokenizer, max_shard_bytes=9000, **settings)
        assert len(list(folder.glob("model-*.safetensors"))) > 3
        loaded = load_quantized(saved, device=CPU, packed=False)
        assert loaded.final_norm.weight.dtype == dtype
        assert torch.equal(logits(loaded), logits(model))


def test_two_numbers_a_byte():
    numbers = torch.tensor([[-8, 7, 3], [0, -1, -8]], dtype=torch.int8)
    codes = to_codes(numbers)
    assert codes.tolist() == [[0 | 15 << 4, 11 | 8 << 4], [8 | 7 << 4, 0 | 8 << 4]]
    assert torch.equal(from_codes(codes, 3), numbers)


def test_the_folder_is_complete_and_says_how_it_was_made(checkpoints, tmp_path):
    model, settings = make(checkpoints["dream"], "everything")
    tokenizer = load_tokenizer(str(checkpoints["dream"]))
    made = {"seed": 3, "by": "a test"}
    saved = save_quantized(model, tmp_path / "m", tokenizer=tokenizer, made=made, **settings)
    assert saved == read_saved(tmp_path / "m")
    assert saved.made == made
    assert saved.layout.method == settings["method"] and saved.layout.quant == settings["quant"]
    text = "the number of 7 people"
    assert load_saved_tokenizer(saved)(text) == tokenizer(text)
    with pytest.raises(CheckpointError, match="quantization_config"):
        load_model(str(tmp_path / "m"), dtype=torch.float32, device=CPU)
    stored = sum(f.stat().st_size for f in (tmp_path / "m").glob("*.safetensors"))
    linears = [m.numbers.numel() for m in model.modules() if hasattr(m, "weight_scale")]
    parameters = sum(linears) + 2 * model.embedding.numbers.numel()
    assert stored < 0.6 * sum(linears) + 1.4 * (parameters - sum(linears)) + 20_000


# Refusals


@pytest.fixture(scope="module")
def original(checkpoints, tmp_path_factory):
    model, settings = make(checkpoints["llada"], "everything")
    folder = tmp_path_factory.mktemp("saved") / "model"
    tokenizer = load_tokenizer(str(checkpoints["llada"]))
    save_quantized(model, folder, tokenizer=tokenizer, made={"by": "version 0.1"}, **settings)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy"))


def change_header(folder, change, *, sign=True):
    """Edit config.json, and sign it like somebody who knows how."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    if sign:
        config["quantization_config"]["digest"] = config_digest(config, "quantization_config")
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    digest = sha256(file)
    change_header(folder, lambda c: c["quantization_config"]["files"].update({file.name: digest}))


def refused(folder, match):
    with pytest.raises(CheckpointError, match=match):
        load_quantized(read_saved(folder), device=CPU, packed=False)


def test_the_copies_that_are_changed_below_would_load(folder):
    change_tensors(folder, lambda tensors: None)
    load_quantized(read_saved(folder), device=CPU, packed=True)


Q = "blocks.1.q_proj"
TENSOR_FAULTS = {
    "missing": (lambda t: t.pop(f"{Q}.codes"), rf"{Q}.codes: missing"),
    "extra": (lambda t: t.update(more=torch.zeros(1)), "more: not part of this model"),
    "misshapen": (
        lambda t: t.update({f"{Q}.codes": t[f"{Q}.codes"][1:].clone()}),
        rf"{Q}.codes: shape \[31, 16\] instead of \[32, 16\]",
    ),
    "of another type": (
        lambda t: t.update({f"{Q}.weight_scale": t[f"{Q}.weight_scale"].half()}),
        rf"{Q}.weight_scale: dtype F16 is not supported",
    ),
    "not finite": (
        lambda t: t["final_norm.weight"].fill_(torch.nan),
        "final_norm.weight: holds NaN",
    ),
    "infinite": (
        lambda t: t[f"{Q}.weight_scale"].fill_(torch.inf),
        rf"{Q}.weight_scale: holds NaN or inf",
    ),
    "negative scale": (lambda t: t[f"{Q}.weight_scale"].neg_(), "a scale that is not positive"),
    "choice": (
        lambda t: t["blocks.0.attention.inner.choice"].fill_(2),
        r"choice: holds numbers outside 0\.\.1",
    ),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_wrong_tensors_are_refused_though_their_hashes_fit(fault, folder):
    change, named = TENSOR_FAULTS[fault]
    change_tensors(folder, change)
    refused(folder, named)


def test_codes_outside_the_grid_are_refused(checkpoints, tmp_path):
    model, settings = make(checkpoints["llada"], "static, odd bits, online")
    tokenizer = load_tokenizer(str(checkpoints["llada"]))
    save_quantized(model, tmp_path / "m", tokenizer=tokenizer, **settings)
    change_tensors(tmp_path / "m", lambda t: t[f"{Q}.codes"].fill_(0xF8))
    refused(tmp_path / "m", r"codes: holds numbers outside -4\.\.3")
    change_tensors(tmp_path / "m", lambda t: t[f"{Q}.codes"].fill_(0x88))
    change_tensors(tmp_path / "m", lambda t: t[f"{Q}.activation_scale"].fill_(1e-39))
    refused(tmp_path / "m", "activation_scale: holds a scale too small to divide by")
    change_tensors(tmp_path / "m", lambda t: t[f"{Q}.activation_scale"].fill_(0.1))
    change_tensors(tmp_path / "m", lambda t: t[f"{Q}.activation_zero"].fill_(1.5))
    refused(tmp_path / "m", "activation_zero: holds numbers outside")


def header(key, value):
    return lambda config: config["quantization_config"].update({key: value})


CONFIG_FAULTS = {
    "another version": (
        header("format_version", 1),
        r"format_version is 1, and this version reads 2.*version 0\.1",
    ),
    "no version": (lambda c: c["quantization_config"].pop("format_version"), "version is None"),
    "somebody else's": (header("quant_method", "gptq"), "quant_method: 'gptq'"),
    "not quantized": (lambda c: c.update(quantization_config=None), "not a quantized model"),
    "another architecture": (lambda c: c.update(model_type="gpt2"), "model_type = 'gpt2'"),
    "other sizes": (lambda c: c.update(d_model=64), r"shape \[32\] instead of \[64\]"),
    "other bits": (
        lambda c: c["quantization_config"]["quant"].update(weight_bits=8),
        r"q_proj\.numbers: missing",
    ),
    "impossible bits": (
        lambda c: c["quantization_config"]["quant"].update(weight_bits=9),
        "weight_bits = 9 is not one of",
    ),
    "unknown settings": (
        lambda c: c["quantization_config"]["quant"].update(weight_bit=4),
        "did you mean 'weight_bits'",
    ),
    "many layers": (lambda c: c.update(n_layers=10**9), "n_layers = 1000000000 must be at least"),
    "no float": (
        lambda c: c["quantization_config"]["quant"].update(weight_clip_ratio=10**400),
        "quantization_config.*too large",
    ),
    "a class that is no name": (
        lambda c: c["quantization_config"]["method"].update(
            classes={step["step"]: ["X"] for step in c["quantization_config"]["method"]["steps"]}
        ),
        r"unknown class \['X'\]",
    ),
    "steps of another kind": (
        lambda c: c["quantization_config"]["method"].update(steps=[1]),
        "method.steps",
    ),
    "classes of another kind": (
        lambda c: c["quantization_config"]["method"].update(classes=[1]),
        "method.classes",
    ),
    "deep": (header("made", {"a": json.loads("[" * 100 + "]" * 100)}), "nested more than"),
    "another type": (header("dtype", "int8"), "dtype = 'int8' is not one of"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_wrong_headers_are_refused_though_their_digest_fits(fault, folder):
    change, named = CONFIG_FAULTS[fault]
    if fault == "not quantized":
        change_header(folder, change, sign=False)
    else:
        change_header(folder, change)
    refused(folder, named)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_single_changed_bit_is_refused(file, folder):
    content = bytearray((folder / file).read_bytes())
    content[-100] ^= 1
    (folder / file).write_bytes(content)
    refused(folder, f"{file}: was changed or damaged")


def test_changed_truncated_missing_and_added_files_are_refused(folder, original):
    change_header(folder, lambda c: c.update(rope_theta=1e4), sign=False)
    refused(folder, "was changed since the model was saved")
    shutil.copy(original / "config.json", folder)
    weights = (original / "model.safetensors").read_bytes()
    for kept, named in ((len(weights) - 1, "truncated"), (100, "truncated"), (0, "truncated")):
        (folder / "model.safetensors").write_bytes(weights[:kept])
        refused(folder, named)
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors: this file is missing")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "added_tokens.json").write_text("{}")
    refused(folder, "added_tokens.json: not part of the saved model")
    (folder / "config.json").write_text("{")
    refused(folder, "cannot be read as JSON")
    (folder / "config.json").unlink()
    refused(folder, "this file is missing")


def test_a_full_disk_leaves_nothing(checkpoints, tmp_path):
    model, settings = make(checkpoints["llada"], "rtn")
    tokenizer = load_tokenizer(str(checkpoints["llada"]))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file may grow larger
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_quantized(model, tmp_path / "model", tokenizer=tokenizer, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    save_quantized(model, tmp_path / "model", tokenizer=tokenizer, **settings)
    before = sorted((f.name, f.read_bytes()) for f in (tmp_path / "model").iterdir())
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        save_quantized(model, tmp_path / "model", tokenizer=tokenizer, **settings)
    assert sorted((f.name, f.read_bytes()) for f in (tmp_path / "model").iterdir()) == before


def test_settings_that_are_not_the_models_are_refused(checkpoints, tmp_path):
    model, settings = make(checkpoints["llada"], "rtn")
    tokenizer = load_tokenizer(str(checkpoints["llada"]))
    for changed in (QuantSettings(weight_bits=16), QuantSettings(head_bits=8)):
        with pytest.raises(QuantizationError, match="these settings want"):
            save_quantized(
                model, tmp_path / "model", tokenizer=tokenizer, **settings | {"quant": changed}
            )
    assert list(tmp_path.iterdir()) == []
