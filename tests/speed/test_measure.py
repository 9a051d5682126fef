"""A measurement of small models: what is compared, and that it is what it says."""

import statistics
from functools import partial

import pytest
import torch

from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.speed import full_precision, low_bits, measure, parts
from dllmquant_exp.speed.full_precision import candidates
from dllmquant_exp.speed.memory import weight_bytes
from dllmquant_exp.speed.workload import SpeedSettings
from dllmquant_exp.store import process_memory


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
def test_the_fastest_forms_are_found_and_built(workload, monkeypatch, fastest):
    low = full_precision.types()[candidates().index(fastest) % len(full_precision.types())]
    times = {name: 3.0 for name in candidates()}
    times |= {f"W4A{bits}, {dtype}": 2.0 for dtype in full_precision.types() for bits in (4, 8)}
    times |= {fastest: 2.5, f"W4A4, {low}": 1.0}
    timed = iter(times)  # of the race: one sample of each, made in this order
    monkeypatch.setattr(measure, "sampled", lambda run: partial(times.get, next(timed)))
    built = {}
    for name, room in (("full_model", full_precision), ("low_model", low_bits)):
        made = getattr(room, name)
        monkeypatch.setattr(
            measure, name, lambda s, form, n=name, f=made: f(s, built.setdefault(n, form))
        )
    found = measure.measure_speed(workload(settings=SpeedSettings(6, 2, 1, 8)))
    assert (found["full_precision"], found["low_type"]) == (fastest, low)
    assert built == {"full_model": fastest, "low_model": full_precision.dtype_of(low)}
    seconds = {name: entry["seconds"]["median"] for name, entry in found["block"].items()}
    assert seconds == times
    assert found["block"][f"W4A4, {low}"]["speedup"]["median"] == 2.5


def test_a_shape_is_measured_with_full_precision_on_one_block(workload):
    made = workload()
    found = measure.measure_speed(made)
    check(found, ["full precision", "W4A4", "W4A8"], 2, [True, False, False])
    assert found["block"][found["full_precision"]]["speedup"]["median"] == 1
    assert all(v["parts"]["rotations"] > 0 for v in found["variants"][1:])
    assert found["weight_bytes"]["4 8 16"] == weight_bytes(made.config, 4, 8, 16)
    full, *low = found["variants"]
    assert full["weight_bytes"] == found["weight_bytes"]["16 16 16"] and full["held_bytes"] is None
    assert {v["weight_bytes"] for v in low} == {v["held_bytes"] for v in low}


def test_a_model_that_does_not_fit_is_measured_on_one_block(workload, monkeypatch):
    monkeypatch.setattr(low_bits, "available_bytes", lambda: 1000)
    found = measure.measure_speed(workload(settings=SpeedSettings(6, 2, 2)))
    check(found, ["full precision", "W4A4"], 2, [True, True])
    low = found["variants"][1]
    assert low["weight_bytes"] == found["weight_bytes"]["4 16 16"] and low["held_bytes"] is None


def test_memory_of_blocks_that_are_not_there_is_added(config, workload, monkeypatch):
    resident, peaks = iter([100, 300, 1000, 1010]), iter([700, 1500])
    monkeypatch.setattr(process_memory, "resident_bytes", lambda: next(resident))
    monkeypatch.setattr(process_memory, "peak_bytes", lambda: next(peaks))
    monkeypatch.setattr(process_memory, "restart_peak", lambda: True)
    made = workload(method=Method("rtn", {"round": Nearest()}), settings=SpeedSettings(6, 2, 1))
    block = 4 * 48 * 48 + 3 * 48 * 96 + 2 * 48  # parameters
    full = measure._full_variant(made, "float32")
    assert (full.resident, full.peak) == (200 + 2 * block * 4, 600 + 2 * block * 4)
    (low,) = measure._low_variants(made, "float32")
    assert (low.resident, low.peak) == (10, 500)


def test_a_peak_that_could_not_be_restarted_is_not_known(workload, monkeypatch):
    monkeypatch.setattr(process_memory, "restart_peak", lambda: False)
    full = measure._full_variant(workload(), "float32")
    assert full.peak is None


def test_shares_of_a_decode_count_every_block(workload, monkeypatch):
    monkeypatch.setattr(low_bits, "available_bytes", lambda: 1000)
    made = workload(method=Method("rtn", {"round": Nearest()}))
    model = low_bits.low_model(made, torch.float32)
    (block,) = model.blocks
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for module, takes in ((block.q_proj, 2), (block.attention, 1), (block, 4), (model.head, 3)):
        module.register_forward_hook(lambda *_, t=takes: clock.__setitem__(0, clock[0] + t))
    whole = 3 * (2 + 1 + 4) + 3
    expected = {"linears": 6 / whole, "attention": 3 / whole, "head": 3 / whole, "rotations": 0}
    found = parts.parts(made, model, 3, torch.float32)
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_loaded_model_is_measured_whole(workload, config):
    made = workload(load=lambda dtype: random_model(config(), seed=0).to(dtype))
    check(measure.measure_speed(made), ["full precision", "W4A4", "W4A8"], 2, [False] * 3)


def test_full_precision_alone(workload):
    found = measure.measure_speed(workload(quant=None, method=Method("fp")))
    check(found, ["full precision"], 2, [True])
    assert found["low_type"] is None


def test_extrapolation_counts_a_block_as_often_as_there_are_blocks(workload, monkeypatch):
    made = workload(quant=None, method=Method("fp"))
    model = full_precision.full_model(made, "float32")
    assert len(model.blocks) == 1
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    model.blocks[0].register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 5))
    model.head.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 1))
    variant = measure.Variant("full precision", None, torch.float32, model, 3)
    times = measure._decodes(made, [variant])
    assert times == {"full precision": [4 * (3 * 5 + 1)] * 2}  # 4 steps
