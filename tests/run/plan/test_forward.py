"""What a forward costs: FLOPs against those that PyTorch counts in a real one, and who says it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.models.published_shapes import DREAM_7B, LLADA_8B
from dllmquant_exp.models.transformer import LANES, Architecture, Transformer
from dllmquant_exp.quantization.attention import QuantizedAttention
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.run.cell import cells_of
from dllmquant_exp.run.plan.forward import (
    HERE,
    Finished,
    Forwards,
    Place,
    forward_flops,
    keys_of,
    parameters,
    sample,
)
from dllmquant_exp.run.plan.requests import Demand
from dllmquant_exp.store import provenance

Make = Callable[..., Transformer]
Compose = Callable[..., Experiment]
DEMAND = Demand(100, 200, 400, 20_000, 4_000, 60, 20, counted=True)  # 50 tokens, 10 asked each
STATED = Place("a100", "cuda", 0.5, 3.0, None)


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_flops_are_those_of_a_forward(architecture: Architecture, tiny: Make) -> None:
    model = tiny(architecture, n_layers=3)
    length = 2 * LANES  # keys up to whole lanes, which a CPU adds, are not counted
    tokens, asked = torch.randint(3, 60, (1, length)), torch.arange(length)[None] < 7
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, None, asked)
    assert forward_flops(model.config, length, 7) == counter.get_total_flops()


def test_parameters_are_the_published_ones() -> None:
    assert sum(parameters(LLADA_8B)) == 8_015_581_184
    assert sum(parameters(DREAM_7B)) == 7_615_616_512


def test_a_named_gpu_is_its_data_sheet_times_the_utilisation(experiment: Compose) -> None:
    assert STATED.stated(torch.bfloat16) == 156e12 and STATED.stated(torch.float32) == 9.75e12
    assert Place("a100", "cuda", 0.5, 1.0, 1e9).stated(torch.bfloat16) == 1e9
    assert Place(HERE, "cpu", 0.5, 1.0, None).stated(torch.float32) is None
    flops = 400 * forward_flops(LLADA_8B, 50, 10)
    words = ("model=llada_8b", "task=gsm8k", "device=cuda", "dtype=bfloat16")
    for method, slowdown in (("fp", 1), ("rtn", 3)):
        job = experiment(*words, f"method={method}")
        said = Forwards(STATED).evaluation(*cells_of(job), LLADA_8B, DEMAND)
        assert said == (pytest.approx(slowdown * flops / 156e12), "stated")


def test_results_count_where_they_were_measured() -> None:
    gpu = {"gpu": "NVIDIA A100-SXM4-80GB", "cpu": "other", "threads": 3}
    here = provenance.hardware(torch.device("cpu"))
    place = Place(HERE, "cpu", 0.4, 1.0, None)
    assert STATED.is_where(gpu) and not STATED.is_where(here) and not place.is_where(gpu)
    assert place.is_where(here) and not place.is_where(here | {"threads": -1})


def test_what_finished_cells_took_comes_first(
    experiment: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = (experiment(f"task=micro_{task}", "method=rtn") for task in ("piqa", "gsm8k"))
    packed = experiment("task=micro_piqa", "method=rtn", "execution=packed", "seed=1")
    seed = experiment("task=micro_piqa", "method=rtn", "seed=1")
    found: list[Finished] = []
    forwards = Forwards(Place(HERE, "cpu", 0.4, 1.0, 1e9))
    monkeypatch.setattr(forwards, "finished", lambda _: found)

    def finish(done: Experiment, items: int, tokens: float, seconds: float) -> None:
        (task,) = done.tasks
        keys, times = keys_of(done.cell_config(task)), {"evaluate": seconds}
        name = done.cell_name(task)
        found.append(Finished(name, done.common.seed, items, tokens, times, keys))

    def said() -> Any:
        return forwards.evaluation(*cells_of(job), LLADA_8B, DEMAND)

    finish(job, 100, 20_000, 1.0)  # itself
    finish(packed, 100, 20_000, 2.0)  # in another execution
    finish(other, 10, 1_000, 4.0)  # too little
    assert said()[1] == "stated"
    finish(other, 10, 4_000, 6.0)
    assert said() == (pytest.approx(10 / 5_000 * 20_000), "row")
    finish(seed, 50, 9_000, 8.0)
    assert said() == (pytest.approx(8 / 50 * 100), "task")


@pytest.mark.parametrize(
    ("words", "linear", "attention"),
    [
        (["method=fp"], nn.Linear, False),
        (["row=rtn"], QuantizedLinear, True),
        (["row=dllmquant_plusplus"], QuantizedLinear, True),
        (["row=awq", "execution=packed"], PackedLinear, True),
    ],
)
def test_one_forward_here_is_of_what_the_row_makes(
    words: list[str], linear: type[nn.Module], attention: bool, tiny: Make, experiment: Compose
) -> None:
    job = experiment(*words, "task=micro_piqa")
    config = tiny(n_layers=5).config
    model = sample(job, config)
    assert len(model.blocks) == 2
    assert isinstance(model.blocks[1].get_submodule("up_proj"), linear)
    assert any(isinstance(m, QuantizedAttention) for m in model.modules()) == attention
    forwards = Forwards(Place(HERE, "cpu", 0.4, 1.0, None))
    seconds, source = forwards.evaluation(*cells_of(job), config, DEMAND)
    assert source == "measured" and 0 < seconds < 100
