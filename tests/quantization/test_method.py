"""Methods as ordered steps: read from a configuration, and with steps from outside the package."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from small_models import small_model, toy_tokenizer
from torch import Tensor

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import CheckpointError
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.method import Method, read_method
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS, needs_calibration, quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError
from dllmquant_exp.quantization.saving import load_quantized, read_saved, save_quantized
from dllmquant_exp.store.results import config_hash
from dllmquant_exp.store.schema import describe

MODULE = "steps_from_outside"
SOURCE = '''
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from dllmquant_exp.quantization.method import BlockStep, Rounded, Rounding
from dllmquant_exp.quantization.quantizers import QuantizedWeight
from dllmquant_exp.store.schema import Above


@dataclass(frozen=True)
class Stretch(BlockStep):
    """The rows of up times a factor, and the columns of down divided by it."""

    factor: Annotated[float, Above(0)] = 2.0
    passes: ClassVar[float | None] = 1

    def transform(self, block, batches, quant):
        block.up_proj.weight.mul_(self.factor)
        block.down_proj.weight.div_(self.factor)
        return {"factor": self.factor, "states": sum(len(batch.hidden) for batch in batches)}


@dataclass(frozen=True)
class Truncate(Rounding):
    """Towards zero, on a grid of its own."""

    def round(self, weights, quantizer, inputs):
        found = []
        for weight in weights:
            scale = weight.abs().amax(1, keepdim=True) / quantizer.highest
            numbers = (weight / scale).trunc().to(torch.int8)
            zeros = int((numbers == 0).sum())
            found.append(Rounded(QuantizedWeight(numbers, scale), {"zeros": zeros}))
        return found

    def notes(self, layers):
        return [f"truncated {len(layers)} linears"]
'''
QUANT = QuantSettings(activation_bits=16)
MINE = {
    "name": "mine",
    "stretch": {"_target_": f"{MODULE}.Stretch", "factor": 4.0},
    "truncate": {"_target_": f"{MODULE}.Truncate"},
}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of `SOURCE`, importable while the test runs; called again, with other source."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(source: str = SOURCE) -> ModuleType:
        (folder / f"{MODULE}.py").write_text(source)
        sys.modules.pop(MODULE, None)
        importlib.invalidate_caches()
        return importlib.import_module(MODULE)

    yield write
    sys.modules.pop(MODULE, None)


def make() -> Transformer:
    return small_model("dream", d_model=16, d_ffn=24, vocab_size=16)


def calibration() -> list[TokenBatch]:
    tokens = torch.randint(14, (3, 9), generator=torch.Generator().manual_seed(1))
    return [TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.ones(3, 9))]


def stretched() -> Transformer:
    """The model with the work of `Stretch` done by hand."""
    model = make()
    with torch.no_grad():
        for block in model.blocks:
            block.up_proj.weight *= 4
            block.down_proj.weight /= 4
    return model


def weights(model: Transformer) -> list[Tensor]:
    return [block.get_submodule(name).weight for block in model.blocks for name in BLOCK_LINEARS]


def test_a_method_made_of_steps_from_outside(outside: Any, tmp_path: Path) -> None:
    outside()
    method = read_method(MINE)
    assert needs_calibration(method, QUANT)
    model = make()
    report = quantize(model, method, QUANT, calibration=calibration(), work_folder=tmp_path / "k")
    for found, weight in zip(weights(model), weights(stretched()), strict=True):
        scale = weight.abs().amax(1, keepdim=True) / 7
        assert torch.equal(found, (weight / scale).trunc() * scale)
    said = report.to_dict()
    assert said["method"] == "mine"
    assert said["steps"] == {"stretch": [{"factor": 4.0, "states": 3}] * 2}
    assert all(layer["rounding"]["zeros"] > 0 for layer in said["layers"])
    assert said["notes"] == ("truncated 14 linears",)
    again = make()
    kept = quantize(again, method, QUANT, calibration=calibration(), work_folder=tmp_path / "k")
    assert kept == report
    assert all(map(torch.equal, weights(again), weights(model)))


def test_a_step_from_outside_before_one_of_ours(outside: Any) -> None:
    gptq = {"_target_": "dllmquant_exp.quantization.gptq.Gptq", "act_order": True}
    outside()
    method = read_method({**{k: v for k, v in MINE.items() if k != "truncate"}, "gptq": gptq})
    assert method.rounding == Gptq(act_order=True)
    model, by_hand = make(), stretched()
    report = quantize(model, method, QUANT, calibration=calibration())
    plain = quantize(
        by_hand, Method("gptq", {"gptq": method.rounding}), QUANT, calibration=calibration()
    )
    assert all(map(torch.equal, weights(model), weights(by_hand)))
    assert report.layers == plain.layers and not plain.steps


def test_identity_is_name_order_settings_and_source(outside: Any) -> None:
    outside()
    method = read_method(MINE)
    described = describe(method)
    assert described["name"] == "mine"
    first, last = described["steps"]
    assert (first["step"], first["factor"], last["step"]) == ("stretch", 4.0, "truncate")
    assert first["_target_"] == f"{MODULE}.Stretch" and first["source"].startswith("sha256:")
    described_again = describe(read_method(MINE))
    assert config_hash(described) == config_hash(described_again)
    others = [
        MINE | {"name": "other"},
        MINE | {"stretch": MINE["stretch"] | {"factor": 3.0}},  # type: ignore[operator]
        {"name": "mine", "more": MINE["stretch"], **MINE},
        {"name": "mine", "truncate": MINE["truncate"]},
    ]
    hashes = {config_hash(describe(read_method(other))) for other in others}
    outside(SOURCE + "\n# changed\n")
    hashes.add(config_hash(describe(read_method(MINE))))
    assert len(hashes) == 5 and config_hash(described) not in hashes
    ours = describe(Method("gptq", {"gptq": Gptq()}))
    assert ours["steps"] == [
        {"step": "gptq", "damp": 0.01, "act_order": False, "block_size": 128, "dtype": "float32"}
    ]


def test_a_saved_model_takes_steps_from_the_users_configuration_alone(
    outside: Any, tmp_path: Path
) -> None:
    outside()
    method, model = read_method(MINE), make()
    quantize(model, method, QUANT, calibration=calibration())
    folder = tmp_path / "saved"
    save_quantized(model, folder, method=method, quant=QUANT, tokenizer=toy_tokenizer(16))
    saved = read_saved(folder, method)
    assert saved.layout.method is method and saved.from_outside == ("method",)
    loaded = load_quantized(saved, device=torch.device("cpu"), packed=False)
    assert torch.equal(loaded(calibration()[0].tokens), model(calibration()[0].tokens))
    for other in (None, Method("fp"), read_method(MINE | {"name": "other"})):
        with pytest.raises(CheckpointError, match="made with code from outside the package"):
            read_saved(folder, other)
    outside(SOURCE + "\n# changed\n")
    with pytest.raises(CheckpointError, match="made with code from outside the package"):
        read_saved(folder, read_method(MINE))
    del sys.modules[MODULE]
    with pytest.raises(CheckpointError, match="choose the very same beside model=saved"):
        read_saved(folder)
    assert MODULE not in sys.modules, "the folder's word was enough to import it"


@pytest.mark.parametrize(
    ("result", "given"),
    [("None", "None"), ("found[:-1]", r"\[Rounded"), ("weights", r"\[Parameter"), ("3", "3"),
     ("[Rounded(w) for w in weights]", r"\[Rounded"), ("found[::-1]", r"\[Rounded")],
)  # fmt: skip
def test_a_step_that_rounds_not_all_weights_is_named(outside: Any, result: str, given: str) -> None:
    outside(SOURCE.replace("return found", f"return {result}"))
    with pytest.raises(QuantizationError, match=rf"truncate: round\(3 weights\) gave {given}"):
        quantize(make(), read_method(MINE), QUANT, calibration=calibration())


NEAREST = {"_target_": "dllmquant_exp.quantization.nearest.Nearest"}
FAULTS: dict[str, tuple[Any, str]] = {
    "no section": (None, "a name and steps belong there"),
    "no name": ({"round": NEAREST}, "a name and steps belong there"),
    "a step that is no section": ({"name": "x", "awq": True}, "method.awq is True, but a group"),
    "no class": ({"name": "x", "round": {}}, "method.round._target_ = None is not the dotted name"),
    "no such class": (
        {"name": "x", "round": {"_target_": "dllmquant_exp.quantization.nearest.Near"}},
        "dllmquant_exp.quantization.nearest has no Near",
    ),
    "another class": (
        {"name": "x", "round": {"_target_": "collections.OrderedDict"}},
        r"not a dataclass derived from dllmquant_exp\.quantization\.method\.Step",
    ),
    "an unknown setting": (
        {"name": "x", "gptq": {"_target_": "dllmquant_exp.quantization.gptq.Gptq", "dam": 1}},
        r"method\.gptq\.dam is not a setting \(did you mean 'damp'\?\)",
    ),
    "another range": (
        {"name": "x", "gptq": {"_target_": "dllmquant_exp.quantization.gptq.Gptq", "damp": 0}},
        r"method\.gptq\.damp = 0 must be above 0",
    ),
    "two roundings": ({"name": "x", "round": NEAREST, "more": NEAREST}, "one that rounds"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_sections_that_are_no_method_are_refused(fault: str) -> None:
    section, named = FAULTS[fault]
    with pytest.raises(ConfigError, match=named):
        read_method(section)
