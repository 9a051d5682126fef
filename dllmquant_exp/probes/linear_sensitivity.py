"""Figure 9: which linears suffer most from W4A4, each quantized alone (weights and its input).

Round to nearest, so that nothing is calibrated. The damage is measured at the predictions of masked
positions: KL(full precision || quantized) in nats, over states of the decodes at evenly spaced
steps.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import Block, Transformer, at_least_float32
from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.decodes import StateBatch, Subject
from dllmquant_exp.probes.measurement import Measurement, mean, ratio
from dllmquant_exp.probes.probe import Probe
from dllmquant_exp.quantization.blockwise import replaced
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import quantize_weight
from dllmquant_exp.store.progress import tracked


@torch.inference_mode()
def layer_sensitivity(subject: Subject) -> Measurement:
    """Arrays: `divergence` [layers, linears, prompts], nats per masked position, each prompt's
    average over its states. Labels: `linears`, `steps`.

    Raises:
        ProbeError: conf/quant/w4a4.yaml was given activation ranges that span tokens.
    """
    model, settings = subject.model, _settings(subject.probe)
    if settings.activation_granularity == "per_tensor":
        raise ProbeError(
            "layer sensitivity is measured with a range per token or group of features"
        )
    count = subject.probe.settings.states
    steps = [i * subject.decoding.steps // count for i in range(count)]
    found = np.zeros((model.config.n_layers, len(BLOCK_LINEARS), len(subject.trajectories)))
    blocks = list(blocks_of(model))
    for layer, block in enumerate(tracked(blocks, "blocks, one linear at a time", len(blocks))):
        linears = {name: _quantized(block, name, settings) for name in BLOCK_LINEARS}
        for batch in subject.states(subject.logits_batch, steps):
            exact = _log_probabilities(model, batch)
            for i, (name, linear) in enumerate(linears.items()):
                with replaced(block, {name: linear}):
                    other = _log_probabilities(model, batch)
                kl = divergence(exact, other)
                found[layer, i, batch.place] += _by_request(kl, batch) / len(steps)
    labels = {"linears": list(BLOCK_LINEARS), "steps": steps}
    return Measurement({"divergence": found}, labels, _numbers(found))


def _numbers(found: np.ndarray) -> dict[str, object]:
    """The mean per kind of linear, the largest of all, and the share of the down projections."""
    averages = found.mean(2)
    layer, i = np.unravel_index(averages.argmax(), averages.shape)
    largest = {"linear": f"blocks.{layer}.{BLOCK_LINEARS[i]}"}
    down = found[:, BLOCK_LINEARS.index("down_proj")]
    return {
        **{name: mean(found[:, i].mean(0)) for i, name in enumerate(BLOCK_LINEARS)},
        "largest": mean(found[layer, i]) | largest,
        "share_of_down_proj": ratio(down.sum(0), found.sum((0, 1))),
    }


def quant_config(probe: Probe) -> dict[str, Any]:
    """Quantizers of each linear, as a part of the recording's name."""
    return asdict(_settings(probe))


def _settings(probe: Probe) -> QuantSettings:
    settings = probe.row("row=rtn", "quant=w4a4").quant
    assert settings is not None
    return settings


def divergence(exact: Tensor, other: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [n, vocab] twice -> [n] in float64, at least 0."""
    p, q = exact.double(), other.double()
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def _quantized(block: Block, name: str, settings: QuantSettings) -> nn.Module:
    linear = block.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach()
    quantizer = settings.weight
    return QuantizedLinear(
        weight if quantizer is None else quantize_weight(weight, quantizer),
        linear.bias,
        settings.activation,
        dtype=weight.dtype,
    )


def _log_probabilities(model: Transformer, batch: StateBatch) -> Tensor:
    """Log-probabilities at the masked positions, [n, vocab] in float32 or better."""
    logits = model(batch.tokens, batch.attention_mask, batch.masked)
    return logits.to(at_least_float32(logits.dtype)).log_softmax(-1)


def _by_request(values: Tensor, batch: StateBatch) -> np.ndarray:
    """Means of each request's masked positions, [n] -> [B]."""
    counts = batch.masked.sum(1)
    row = torch.repeat_interleave(torch.arange(len(counts), device=values.device), counts)
    sums = torch.zeros(len(counts), dtype=values.dtype, device=values.device)
    return (sums.index_add_(0, row, values) / counts).cpu().numpy()
