"""Settings that cannot be are named; the presets are what their names say."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dllmquant_exp.config.folder import Folders, content_of
from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.embedded import world
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import read_method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError, Quantizer
from dllmquant_exp.quantization.rotation import Rotation


def quantizer(**changes: Any) -> Quantizer:
    return Quantizer(**{"bits": 4, "symmetric": True, "granularity": "per_channel"} | changes)


# Every declared choice and range once, and every pair of settings that do not go together.
IMPOSSIBLE: list[tuple[Any, dict[str, Any], str]] = [
    (quantizer, {"bits": 1}, "bits = 1 must be at least 2 and at most 8"),
    (quantizer, {"granularity": "per_row"}, "granularity = 'per_row' is not one of"),
    (quantizer, {"grid": "nf4"}, "grid = 'nf4' is not one of: full_range"),
    (quantizer, {"clip_ratio": 0.0}, "clip_ratio = 0.0 must be above 0 and at most 1"),
    (quantizer, {"clip_search": 0}, "clip_search = 0 must be above 0 and at most 100"),
    (quantizer, {"granularity": "per_group"}, "per_group needs a size"),
    (quantizer, {"group_size": 8}, "group_size = 8 does not fit granularity = per_channel"),
    (quantizer, {"clip_ratio": 0.9, "clip_search": 2.0}, "clip_ratio = 0.9 has no effect with"),
    (QuantSettings, {"weight_bits": 9}, "weight_bits = 9 is not one of"),
    (QuantSettings, {"activation_bits": True}, "activation_bits = True"),
    (QuantSettings, {"head_bits": 1}, "head_bits = 1"),
    (QuantSettings, {"embedding_bits": 32}, "embedding_bits = 32"),
    (QuantSettings, {"weight_granularity": "per_token"}, "weight_granularity = 'per_token'"),
    (QuantSettings, {"activation_granularity": "per_channel"}, "activation_granularity = 'per_c"),
    (QuantSettings, {"weight_clip_ratio": 0}, "weight_clip_ratio = 0"),
    (QuantSettings, {"activation_clip_ratio": 2.0}, "activation_clip_ratio = 2.0"),
    (QuantSettings, {"weight_granularity": "per_group"}, "group_size = None does not fit"),
    (QuantSettings, {"group_size": 128}, "group_size = 128 does not fit"),
    (QuantSettings, {"activation_ranges": "static"}, "needs activation_granularity = per_tensor"),
    (
        QuantSettings,
        {"activation_ranges": "static", "activation_bits": 16},
        "activation_ranges = static has no effect with activation_bits = 16",
    ),
    (AttentionSettings, {"p_bits": 1}, "p_bits = 1 is not one of"),
    (AttentionSettings, {"v_granularity": "per_token"}, "v_granularity = 'per_token' is not one"),
    (AttentionSettings, {"k_group": 0}, "k_group = 0 must be at least 1"),
    (AttentionSettings, {"v_clip_ratio": 1.5}, "v_clip_ratio = 1.5"),
    (AttentionSettings, {"k_clip_ratio": 0.95}, "k_clip_ratio = 0.95 has no effect with k_bits"),
    (Iaaq, {"alphas": (1.0,)}, "at least two different numbers"),
    (Iaaq, {"alphas": (0.8, 0.8)}, "at least two different numbers"),
    (Iaaq, {"alphas": (1.2, 0.0)}, "must be above 0 and at most 1"),
    (Iaaq, {"granularity": "per_token"}, "granularity = 'per_token'"),
    (Iaaq, {"mode": "offline"}, "mode = 'offline' is not one of: online, static"),
    (Gptq, {"damp": 0.0}, "damp = 0.0"),
    (Gptq, {"damp": float("nan")}, "damp = nan"),
    (Gptq, {"block_size": 0}, "block_size = 0"),
    (Gptq, {"dtype": "bfloat16"}, "dtype = 'bfloat16' is not one of: float32, float64"),
]


@pytest.mark.parametrize(("made", "changes", "named"), IMPOSSIBLE)
def test_impossible_settings_are_named(made: Any, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Refusal, match=named):
        made(**changes)


@pytest.mark.parametrize(
    ("settings", "iaaq", "named"),
    [
        (None, Iaaq(), r"quant.attention = null leaves V unquantized"),
        (AttentionSettings(v_bits=16), Iaaq(), "v_bits = 16 leaves V unquantized"),
        (
            AttentionSettings(v_granularity="per_tensor"),
            Iaaq(),
            "iaaq granularity = per_head is finer than v_granularity = per_tensor",
        ),
        (AttentionSettings(), Iaaq(granularity="per_channel"), "is finer than"),
    ],
)
def test_searches_that_do_not_fit_are_named(
    settings: AttentionSettings | None, iaaq: Iaaq, named: str
) -> None:
    with pytest.raises(QuantizationError, match=named):
        iaaq.check(settings)


# The presets

CONF = Path(__file__).resolve().parents[2] / "conf"
BITS = {"w4a4": (4, 4), "w8a8": (8, 8), "w4a16": (4, 16), "w3a3": (3, 3)}


@pytest.mark.parametrize("name", BITS)
def test_quant_presets(name: str) -> None:
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


def test_method_presets_are_what_their_names_say() -> None:
    def preset(name: str) -> Any:
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
        ("micro_llada_1_5_plain", "llada", "embedded:micro_llada_1_5", "micro"),
        ("micro_dream_plain", "dream", "embedded:micro_dream", "micro_dream"),
        ("micro_llada_1_5", "llada", "embedded:micro_llada_1_5", "micro"),
        ("micro_dream", "dream", "embedded:micro_dream", "micro_dream"),
        ("llada_8b", "llada", "GSAI-ML/LLaDA-8B-Base", "llada_base"),
        ("llada_8b_instruct", "llada", "GSAI-ML/LLaDA-8B-Instruct", "llada_instruct"),
        ("llada_1_5", "llada", "GSAI-ML/LLaDA-1.5", "llada_1_5"),
        ("dream_7b", "dream", "Dream-org/Dream-v0-Base-7B", "dream_base"),
        ("dream_7b_instruct", "dream", "Dream-org/Dream-v0-Instruct-7B", "dream_instruct"),
    ],
)
def test_model_presets(name: str, architecture: str, checkpoint: str, settings: str) -> None:
    preset = dict(content_of(Folders(), "model", name))
    assert preset.pop("same_as", None) is None
    embedded = checkpoint.startswith("embedded:")
    calibration = preset.pop("calibration")
    assert set(calibration) == {"texts", "length", "gen_length", "steps", "control_samples"}
    assert calibration["texts"] == (list(world.TASKS) if embedded else ["winogrande"])
    assert (preset.pop("outliers") is not None) == (
        name in ("micro_llada", "micro_llada_1_5", "micro_dream")
    )
    assert preset == {
        "name": name,
        "architecture": architecture,
        "checkpoint": checkpoint,
        "revision": None,
        "settings": settings,
        "embedded": embedded,
    }
