"""The work that counts, the prompts that are decoded, and refusals."""

import pytest
import torch

from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.speed import low_bits
from dllmquant_exp.speed.workload import SpeedError, SpeedSettings


def test_only_what_is_done_at_run_time_matters(workload):
    gptq = Method("quarot", {"rotation": Rotation(), "gptq": Gptq()})
    assert workload(method=gptq).runtime_method.steps == workload().method.steps
    awq = Method("awq", {"awq": Awq(), "round": Nearest()})
    assert workload(method=awq).runtime_method.steps == {"round": Nearest()}
    static = QuantSettings(activation_ranges="static", activation_granularity="per_tensor")
    with pytest.raises(SpeedError, match="activation_ranges=dynamic"):
        workload(quant=static)
    with pytest.raises(SpeedError, match="= 104 is more than the model's 64"):
        workload(settings=SpeedSettings(100, 1, 1))
    for wrong in ({"rounds": 0}, {"beside_bits": 9}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SpeedSettings(**{"prompt_length": 1, "responses": 1, "rounds": 1, **wrong})


def test_bits_beside_are_measured_once(workload):
    assert workload().bits == (4, 8)
    for beside in (None, 4):
        assert workload(settings=SpeedSettings(6, 2, 2, beside)).bits == (4,)


def test_prompts_hold_no_special_tokens(workload):
    made = workload(settings=SpeedSettings(50, 7, 1))
    prompts = made.prompts()
    assert [len(prompt) for prompt in prompts] == [50] * 7
    assert not {1, 2} & {token for prompt in prompts for token in prompt}


def test_every_response_has_its_full_length(workload):
    made = workload()
    model = low_bits.low_model(made, torch.float32)
    found = generate(model, made.prompts(), made.decoding, seeds=[0, 1], batch_size=2)
    assert found.forwards == 2 * 4
