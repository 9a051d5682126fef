"""Figure 9: one linear's divergence against scipy's entropy and a hook."""

import numpy as np
import pytest
import torch
from made_probes import PROMPTS, STEPS, every_state
from scipy.stats import entropy

from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.linear_sensitivity import layer_sensitivity
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS
from dllmquant_exp.quantization.quantizers import fake_quantize


def test_sensitivity_is_that_of_one_linear_alone(subject: Subject) -> None:
    model, config = subject.model, subject.model.config
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = layer_sensitivity(subject)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    divergence = found.arrays["divergence"]
    assert divergence.shape == (3, len(BLOCK_LINEARS), PROMPTS) and (divergence >= 0).all()
    settings = subject.probe.row("row=rtn", "quant=w4a4").quant
    assert settings is not None and settings.weight is not None and settings.activation is not None
    layer, name, number = 1, "down_proj", 2
    linear = model.blocks[layer].get_submodule(name)
    weight = fake_quantize(linear.weight, settings.weight)  # type: ignore[arg-type]
    own = []
    for step in (0, STEPS // 2):
        tokens = every_state(subject, number)[step]
        where = tokens[0] == config.mask_token_id
        exact = model(tokens)[0, where].softmax(-1)
        hook = linear.register_forward_hook(
            lambda _m, args, _y: fake_quantize(args[0], settings.activation) @ weight.T  # type: ignore[arg-type]
        )
        other = model(tokens)[0, where].softmax(-1)
        hook.remove()
        own.append(entropy(exact.double().numpy(), other.double().numpy(), axis=1).mean())
    place = (layer, BLOCK_LINEARS.index(name), number)
    assert divergence[place] == pytest.approx(np.mean(own), rel=1e-3)
