"""Saved quantized models: bit for bit what was saved, or refused with a reason."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import calibration, padded_tokens, small_model, toy_tokenizer

from dllmquant_exp.models.checkpoints import CheckpointError
from dllmquant_exp.models.storage import load_model
from dllmquant_exp.quantization.awq import Awq
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
STATIC = {"activation_granularity": "per_tensor", "activation_ranges": "static"}
CASES = {  # method, quant, IA-AQ, whether it can be packed
    "rtn": (RTN, QuantSettings(), None, True),
    "everything": (
        Method("quarot", {"rotation": Rotation(keys=True), "gptq": Gptq()}),
        QuantSettings(
            weight_bits=3, attention=AttentionSettings(k_bits=4), head_bits=8, embedding_bits=4,
            **STATIC,
        ),
        Iaaq(mode="static"),
        True,
    ),
    "wide scales, online": (
        Method("awq_gptq", {"awq": Awq(), "gptq": Gptq(dtype="float64")}),
        QuantSettings(attention=AttentionSettings(), activation_clip_ratio=0.9),
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
}  # fmt: skip
RUNS = [*(("dream", case) for case in CASES), ("llada", "rtn"), ("llada", "everything")]
TOKENIZER = toy_tokenizer()


def make(case, architecture="dream", dtype=torch.float32):
    """A quantized model, and what it is saved with."""
    method, quant, iaaq, _ = CASES[case]
    model = small_model(architecture, dtype)
    states = calibration() if needs_calibration(method, quant, iaaq) else []
    quantize(model, method, quant, calibration=states, iaaq=iaaq)
    return model, {"method": method, "quant": quant, "iaaq": iaaq, "tokenizer": TOKENIZER}


def logits(model):
    return model(*padded_tokens())


def loaded(saved, packed=False):
    return load_quantized(saved, device=CPU, packed=packed)


@pytest.mark.parametrize(("architecture", "case"), RUNS)
def test_a_loaded_model_has_the_bits_of_the_one_that_was_saved(architecture, case, tmp_path):
    model, settings = make(case, architecture)
    expected = logits(model)
    save_quantized(model, tmp_path / "fake", **settings)
    saved = read_saved(tmp_path / "fake")
    assert torch.equal(logits(loaded(saved)), expected)
    if not CASES[case][3]:
        with pytest.raises(QuantizationError, match="cannot be packed"):
            loaded(saved, packed=True)
        return
    pack_model(model)
    packed = logits(model)
    assert torch.equal(logits(loaded(saved, packed=True)), packed)
    # The order of packing and saving does not matter, down to the bytes.
    again = save_quantized(model, tmp_path / "packed", **settings)
    weights = [(tmp_path / name / "model.safetensors") for name in ("fake", "packed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert torch.equal(logits(loaded(again, packed=True)), packed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_and_shards(dtype, tmp_path):
    model, settings = make("rtn", dtype=dtype)
    saved = save_quantized(model, tmp_path / "m", max_shard_bytes=5000, **settings)
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 2
    assert loaded(saved).final_norm.weight.dtype == dtype
    assert torch.equal(logits(loaded(saved)), logits(model))


def test_two_numbers_a_byte():
    numbers = torch.tensor([[-8, 7, 3], [0, -1, -8]], dtype=torch.int8)
    codes = to_codes(numbers)
    assert codes.tolist() == [[0 | 15 << 4, 11 | 8 << 4], [8 | 7 << 4, 0 | 8 << 4]]
    assert torch.equal(from_codes(codes, 3), numbers)


def test_the_folder_is_complete_and_says_how_it_was_made(tmp_path):
    model, settings = make("everything")
    made = {"seed": 3, "by": "a test"}
    saved = save_quantized(model, tmp_path / "m", made=made, **settings)
    assert saved == read_saved(tmp_path / "m") and saved.made == made
    assert saved.layout.method == settings["method"] and saved.layout.quant == settings["quant"]
    assert load_saved_tokenizer(saved)("w7 w3 w60") == TOKENIZER("w7 w3 w60")
    with pytest.raises(CheckpointError, match="quantization_config"):
        load_model(str(tmp_path / "m"), dtype=torch.float32, device=CPU)
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert {name: t.nbytes for name, t in tensors.items() if name.endswith("codes")} == {
        **{f"blocks.{n}.{name}_proj.codes": 32 * size // 2 for n in (0, 1) for name, size in (
            ("q", 32), ("k", 16), ("v", 16), ("o", 32), ("gate", 48), ("up", 48), ("down", 48))},
        "embedding.codes": 61 * 16,
    }  # fmt: skip


# Refusals


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    model, settings = make("everything")
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_quantized(model, folder, made={"by": "version 0.1"}, **settings)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy"))


def change_config(folder, change, *, sign=True):
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
    change_config(folder, lambda c: c["quantization_config"]["files"].update({file.name: digest}))


def refused(folder, match):
    with pytest.raises(CheckpointError, match=match):
        loaded(read_saved(folder))


def test_the_copies_that_are_changed_below_would_load(folder):
    change_tensors(folder, lambda tensors: None)
    loaded(read_saved(folder), packed=True)


def put(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


def fill(name, value):
    return lambda tensors: tensors[name].fill_(value)


Q = "blocks.1.q_proj"
TENSOR_FAULTS = {
    "missing": (lambda t: t.pop(f"{Q}.codes"), rf"{Q}.codes: missing"),
    "extra": (lambda t: t.update(more=torch.zeros(1)), "more: not part of this model"),
    "misshapen": (put(f"{Q}.codes", lambda x: x[1:].clone()), r"shape \[31, 16\] instead of \[32,"),
    "stored in another type": (
        put(f"{Q}.weight_scale", torch.Tensor.half),
        "dtype F16 is not supported",
    ),
    "not finite": (fill("final_norm.weight", torch.nan), r"final_norm.weight: holds .* outside"),
    "infinite": (fill(f"{Q}.weight_scale", torch.inf), rf"{Q}.weight_scale: holds .* outside"),
    "negative scale": (lambda t: t["embedding.scale"].neg_(), "embedding.scale: holds .* outside"),
    "choice": (fill("blocks.0.attention.inner.choice", 2), r"choice: holds values outside 0\.\.1"),
    "off the grid": (fill(f"{Q}.codes", 0xF8), r"codes: holds values outside -4\.\.3"),
    "scale of 0": (fill(f"{Q}.activation_scale", 1e-39), r"activation_scale: .* outside 1.18e-38"),
    "no whole number": (fill(f"{Q}.activation_zero", 1.5), r"_zero: holds values outside 0\.\.15"),
}


def header(key, value):
    return lambda config: config["quantization_config"].update({key: value})


def quant(key, value):
    return lambda config: config["quantization_config"]["quant"].update({key: value})


CONFIG_FAULTS = {
    "another version": (
        header("format_version", 1),
        r"format_version is 1, and this version reads 2.*version 0\.1",
    ),
    "no version": (lambda c: c["quantization_config"].pop("format_version"), "version is None"),
    "somebody else's": (header("quant_method", "gptq"), "quant_method: 'gptq'"),
    "another architecture": (lambda c: c.update(model_type="gpt2"), "model_type = 'gpt2'"),
    "other sizes": (lambda c: c.update(hidden_size=64), r"shape \[32\] instead of \[64\]"),
    "other bits": (quant("weight_bits", 8), r"q_proj\.numbers: missing"),
    "impossible bits": (quant("weight_bits", 9), "weight_bits = 9 is not one of"),
    "unknown settings": (quant("weight_bit", 4), "did you mean 'weight_bits'"),
    "another type": (header("dtype", "int8"), "dtype = 'int8' is not one of"),
}


FAULTS = {
    **{name: (change_tensors, *fault) for name, fault in TENSOR_FAULTS.items()},
    **{name: (change_config, *fault) for name, fault in CONFIG_FAULTS.items()},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_tensors_and_headers_are_refused_though_hashes_and_digests_fit(fault, folder):
    write, change, named = FAULTS[fault]
    write(folder, change)
    refused(folder, named)


def test_changed_truncated_missing_and_added_files_are_refused(folder, original):
    change_config(folder, lambda c: c.update(rope_theta=2e4), sign=False)
    refused(folder, "config.json: was changed since it was written")
    change_config(folder, lambda c: c.update(quantization_config=None), sign=False)
    refused(folder, "not a quantized model")
    shutil.copy(original / "config.json", folder)
    for file in ("model.safetensors", "tokenizer.json"):
        content = (original / file).read_bytes()
        flipped = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
        for damaged in (flipped, content[:-1], content[:100], b""):
            (folder / file).write_bytes(damaged)
            refused(folder, f"{file}: was changed or damaged")
        (folder / file).unlink()
        refused(folder, f"{file}: this file is missing")
        (folder / file).write_bytes(content)
    (folder / "added_tokens.json").write_text("{}")
    refused(folder, "added_tokens.json: not part of the saved model")
    (folder / "config.json").write_text("{")
    refused(folder, "cannot be read as JSON")
    (folder / "config.json").unlink()
    refused(folder, "this file is missing")


def test_a_full_disk_leaves_nothing(tmp_path):
    model, settings = make("rtn")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # no file may grow larger
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_quantized(model, tmp_path / "model", **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    save_quantized(model, tmp_path / "model", **settings)
    before = sorted((f.name, f.read_bytes()) for f in (tmp_path / "model").iterdir())
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        save_quantized(model, tmp_path / "model", **settings)
    assert sorted((f.name, f.read_bytes()) for f in (tmp_path / "model").iterdir()) == before


@pytest.mark.parametrize("other", [QuantSettings(weight_bits=16), QuantSettings(head_bits=8)])
def test_settings_that_are_not_the_models_are_refused(other, tmp_path):
    model, settings = make("rtn")
    with pytest.raises(QuantizationError, match="these settings want"):
        save_quantized(model, tmp_path / "model", **settings | {"quant": other})
    assert list(tmp_path.iterdir()) == []
