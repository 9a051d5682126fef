"""Methods on whole models: what feeds what, what resumes, what is refused, pairs of switches."""

import json
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import pytest
import torch
from small_models import calibration, small_model
from torch import Tensor

from dllmquant_exp.models.transformer import Architecture, Transformer
from dllmquant_exp.quantization import pipeline
from dllmquant_exp.quantization.attention import QuantizedAttention
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.gptq import Gptq, gptq
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.method import Method, Step
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import needs_calibration, quantize
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError
from dllmquant_exp.quantization.rotation import Rotation

GPTQ = Gptq(dtype="float64")
METHODS = {
    "rtn": Method("rtn", {"round": Nearest()}),
    "awq": Method("awq", {"awq": Awq(), "round": Nearest()}),
    "gptq": Method("gptq", {"gptq": GPTQ}),
    "gptq act-order": Method("gptq", {"gptq": replace(GPTQ, act_order=True)}),
    "awq_gptq": Method("awq_gptq", {"awq": Awq(), "gptq": GPTQ}),
    "quarot": Method("quarot", {"rotation": Rotation(seed=3), "gptq": GPTQ}),
    "quarot keys": Method("quarot", {"rotation": Rotation(keys=True), "gptq": GPTQ}),
    "quarot_rtn": Method("quarot_rtn", {"rotation": Rotation(), "round": Nearest()}),
}
WEIGHTS: dict[str, dict[str, Any]] = {
    "per_channel": {},
    "searched": {"weight_clip_search": 2.4},
    "per_group": {"weight_granularity": "per_group", "group_size": 16},
    "off": {"weight_bits": 16},
}
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "per_token": {},
    "per_tensor": {"activation_granularity": "per_tensor"},
    "static": {"activation_granularity": "per_tensor", "activation_ranges": "static"},
    "off": {"activation_bits": 16},
}
ATTENTION = {
    "off": None,
    "p and v": AttentionSettings(),
    "k too": AttentionSettings(k_bits=4, v_granularity="per_tensor"),
    "p off": AttentionSettings(p_bits=16, v_granularity="per_channel"),
}
IAAQ = {
    "off": None,
    "online": Iaaq(granularity="per_tensor"),
    "static": Iaaq(granularity="per_tensor", mode="static"),
}
SWITCHES = {
    "method": METHODS, "weights": WEIGHTS, "activations": ACTIVATIONS, "attention": ATTENTION,
    "iaaq": IAAQ, "token weights": {"ones": False, "cgq": True}, "model": {"llada": 0, "dream": 0},
}  # fmt: skip


def make(architecture: Architecture) -> Transformer:
    return small_model(architecture, torch.float64)


@torch.no_grad()
def logits(model: Transformer) -> Tensor:
    batch = calibration(seed=9)[0]
    return model(batch.tokens, batch.attention_mask)[batch.attention_mask]


def is_possible(choice: dict[str, str]) -> bool:
    """Combinations that are refused by design; other tests hold that they are."""
    if choice["iaaq"] != "off" and choice["attention"] == "off":
        return False
    return not (choice["weights"] == "off" and choice["activations"] == "off")


def covering() -> list[dict[str, str]]:
    """Rows in which every possible pair of options of two switches occurs, chosen greedily."""
    rows = [dict(zip(SWITCHES, row, strict=True)) for row in product(*SWITCHES.values())]
    rows = [row for row in rows if is_possible(row)]

    def pairs(row: dict[str, str]) -> set[tuple[str, str, str, str]]:
        return {(a, row[a], b, row[b]) for a, b in combinations(SWITCHES, 2)}

    missing = set().union(*map(pairs, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


@pytest.mark.parametrize("choice", covering(), ids=lambda c: "-".join(c.values()))
def test_every_pair_of_switches_runs(choice: dict[str, Any]) -> None:
    model = make(choice["model"])
    before = logits(model)
    settings = QuantSettings(
        **{"weight_bits": 8, "activation_bits": 8}
        | WEIGHTS[choice["weights"]]
        | ACTIVATIONS[choice["activations"]],
        attention=ATTENTION[choice["attention"]],
    )
    batches = calibration(cgq=choice["token weights"] == "cgq")
    report = quantize(
        model, METHODS[choice["method"]], settings, calibration=batches, iaaq=IAAQ[choice["iaaq"]]
    )
    after = logits(model)
    assert bool(after.isfinite().all())
    error = float((after - before).square().mean() / before.square().mean())
    # 8 bits hardly hurt; 4-bit attention and static ranges hurt more, wherever they are on.
    assert 0 < error < (0.5 if settings.attention or settings.static else 0.05), error
    assert report.block_linears == 14
    assert sum(isinstance(m, QuantizedLinear) for m in model.modules()) == 14
    quantized = sum(isinstance(m, QuantizedAttention) for m in model.modules())
    assert quantized == (2 if settings.attention else 0)


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_gptq_sees_what_the_layers_before_it_really_give(architecture: Architecture) -> None:
    """Every linear solved by hand, with the model as quantized so far run on all states."""
    settings = QuantSettings(weight_bits=3, activation_bits=16)
    model, by_hand = make(architecture), make(architecture)
    batches = calibration(cgq=True)
    quantize(model, METHODS["gptq"], settings, calibration=batches)
    assert settings.weight is not None
    with torch.no_grad():
        for block in by_hand.blocks:
            for group in (["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"],
                          ["down_proj"]):  # fmt: skip
                seen: list[Tensor] = []
                hook = block.get_submodule(group[0]).register_forward_pre_hook(
                    lambda _, args, seen=seen: seen.append(args[0])
                )
                H = torch.zeros(block.get_submodule(group[0]).in_features, 1).double()
                H = H @ H.T
                count = 0
                for batch in batches:
                    by_hand(batch.tokens, batch.attention_mask)
                    for row, keep, weights in zip(
                        seen[-1], batch.attention_mask, batch.weights, strict=True
                    ):
                        for x, w in zip(row[keep], weights[keep], strict=True):
                            H += w.double() * torch.outer(x, x)
                            count += 1
                hook.remove()
                for name in group:
                    weight = block.get_submodule(name).weight
                    (found,) = gptq([weight], 2 * H / count, settings.weight, GPTQ)
                    weight.copy_(found.weight.values(weight.dtype))
    for mine, theirs in zip(model.blocks, by_hand.blocks, strict=True):
        for name in pipeline.BLOCK_LINEARS:
            got, wanted = mine.get_submodule(name).weight, theirs.get_submodule(name).weight
            torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def test_gptq_and_awq_hurt_less_than_rounding_to_nearest() -> None:
    def outputs(model: Transformer) -> Tensor:
        return torch.cat([model(b.tokens, b.attention_mask)[b.attention_mask]
                          for b in calibration()]).detach()  # fmt: skip

    settings = QuantSettings(weight_bits=3, activation_bits=16)
    errors = {}
    for name in ("rtn", "gptq", "awq_gptq", "quarot"):
        model = make("llada")
        before = outputs(model)
        quantize(model, METHODS[name], settings, calibration=calibration())
        errors[name] = float((outputs(model) - before).square().mean())
    assert all(errors[name] < errors["rtn"] for name in ("gptq", "awq_gptq", "quarot")), errors


def test_the_weights_of_tokens_reach_every_layer_and_ones_are_plain_gptq() -> None:
    def weights(batches: list[TokenBatch]) -> list[Tensor]:
        model = make("llada")
        report = quantize(model, METHODS["quarot"], QuantSettings(), calibration=batches)
        counted = torch.cat([b.weights[b.attention_mask] for b in batches])
        for layer in report.layers:
            assert layer.rounding is not None
            assert layer.rounding["tokens"] == len(counted)
            mean = layer.rounding["mean_token_weight"]
            assert mean == pytest.approx(float(counted.mean()), rel=1e-6)
        return [model.blocks[1].get_submodule(name).weight for name in pipeline.BLOCK_LINEARS]

    plain, cgq = weights(calibration()), weights(calibration(cgq=True))
    assert all(map(torch.equal, plain, weights(calibration())))
    assert not any(map(torch.equal, plain, cgq))


@pytest.mark.parametrize("method", ["awq", "quarot"])
def test_a_killed_run_goes_on_behind_its_finished_blocks(
    method: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = QuantSettings(attention=AttentionSettings())
    iaaq = Iaaq(mode="static")

    def run(model: Transformer, folder: Any) -> Any:
        return quantize(
            model, METHODS[method], settings,
            calibration=calibration(), iaaq=iaaq, work_folder=folder,
        )  # fmt: skip

    whole = make("dream")
    report = run(whole, None)
    rounded = pipeline._round_block
    done = []

    def round_one(block: Any, *args: Any) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(block)
        return rounded(block, *args)

    monkeypatch.setattr(pipeline, "_round_block", round_one)
    with pytest.raises(KeyboardInterrupt):
        run(make("dream"), tmp_path)
    monkeypatch.setattr(pipeline, "_round_block", lambda *a: done.append(a[0]) or rounded(*a))
    resumed = make("dream")
    again = run(resumed, tmp_path)
    assert len(done) == 2, "the first block was not rounded again"
    assert torch.equal(logits(resumed), logits(whole))
    assert again.alphas == report.alphas
    assert [layer.name for layer in again.layers] == [layer.name for layer in report.layers]


def test_static_ranges_are_those_of_the_calibration_inputs() -> None:
    settings = QuantSettings(activation_granularity="per_tensor", activation_ranges="static")
    model, rounded = make("llada"), make("llada")
    batches = calibration()
    quantize(model, METHODS["rtn"], settings, calibration=batches)
    quantize(rounded, METHODS["rtn"], replace(settings, activation_bits=16,
                                              activation_ranges="dynamic"))  # fmt: skip
    seen: list[Tensor] = []
    down = rounded.blocks[1].down_proj
    down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for batch in batches:
        rounded(batch.tokens, batch.attention_mask)
    real = torch.cat([x[b.attention_mask] for x, b in zip(seen, batches, strict=True)])
    scale = (real.max().clamp(min=0) - real.min().clamp(max=0)) / 15
    assert float(model.blocks[1].down_proj.activation_scale) == pytest.approx(float(scale))


@pytest.mark.parametrize(
    ("method", "changes", "iaaq", "needed"),
    [
        ("rtn", {}, None, False),
        ("awq", {}, None, True),
        ("gptq", {"weight_bits": 16}, None, False),
        ("rtn", ACTIVATIONS["static"], None, True),
        ("rtn", {"attention": AttentionSettings()}, Iaaq(mode="static"), True),
        ("rtn", {"attention": AttentionSettings()}, Iaaq(), False),
        ("quarot_rtn", {}, None, False),
    ],
)
def test_calibration_is_needed_where_something_reads_it(
    method: str, changes: dict[str, Any], iaaq: Iaaq | None, needed: bool
) -> None:
    settings = QuantSettings(**changes)
    assert needs_calibration(METHODS[method], settings, iaaq) == needed
    if needed:
        with pytest.raises(QuantizationError, match="needs calibration states, and there are none"):
            quantize(make("llada"), METHODS[method], settings, iaaq=iaaq)
    else:
        quantize(make("llada"), METHODS[method], settings, iaaq=iaaq)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_inputs_that_do_not_count_or_are_not_finite_are_named(method: str) -> None:
    empty = [replace(b, weights=torch.zeros_like(b.weights)) for b in calibration()]
    with pytest.raises(QuantizationError, match="no token that counts"):
        quantize(make("llada"), METHODS[method], QuantSettings(), calibration=empty)
    model = make("llada")
    with torch.no_grad():
        model.embedding.weight[calibration()[0].tokens[0, 0]] = torch.inf
    with pytest.raises(QuantizationError, match=r"NaN or infinite|not finite"):
        quantize(model, METHODS[method], QuantSettings(), calibration=calibration())


def test_second_moments_without_full_rank_raise_the_damping_and_say_so() -> None:
    """Two tokens cannot span 32 inputs: with next to no damping, GPTQ has to raise it."""
    batches = [TokenBatch(b.tokens[:1, :2], b.attention_mask[:1, :2], b.weights[:1, :2])
               for b in calibration()[:1]]  # fmt: skip
    method = Method("gptq", {"gptq": Gptq(damp=1e-17, dtype="float64")})
    report = quantize(make("llada"), method, QuantSettings(), calibration=batches)
    (note,) = report.notes
    assert "raised the damping" in note and "blocks.0.q_proj" in note


def test_ia_aq_without_quantized_values_is_refused() -> None:
    with pytest.raises(QuantizationError, match="leaves V unquantized"):
        quantize(make("llada"), METHODS["rtn"], QuantSettings(), iaaq=Iaaq())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"awq": Awq()}, "one that rounds"),
        ({"round": Nearest(), "none": Step()}, "one that rounds"),
        ({"none": Step(), "round": Nearest()}, "the order must be"),
        ({"round": Nearest(), "gptq": GPTQ}, "one that rounds"),
        ({"round": Nearest(), "awq": Awq()}, "the order must be"),
        ({"awq": Awq(), "rotation": Rotation(), "round": Nearest()}, "the order must be"),
        ({"rotation": Rotation(), "awq": Awq(), "round": Nearest()}, "choose one of them"),
    ],
)
def test_steps_in_an_order_that_cannot_be_are_refused(steps: dict[str, Step], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        Method("mine", steps)


def test_a_report_is_json() -> None:
    model = make("dream")
    report = quantize(model, METHODS["awq_gptq"], QuantSettings(), calibration=calibration())
    found = json.loads(json.dumps(report.to_dict()))
    assert len(found["steps"]["awq"]) == 2
    assert found["layers"][0]["rounding"]["escalations"] == 0
