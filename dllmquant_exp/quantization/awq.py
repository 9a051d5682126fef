"""AWQ on one block: input channels scaled up where activations are large, then weights clipped.

    norm -> q, k, v        y = W x = (W s) (x / s)      s_j = mean_t |x_tj|^ratio
    v    -> o              the layer before absorbs 1/s, so that the block's function is unchanged;
    norm -> gate, up       what changes is what quantization does to it
    up   -> down

The ratio is the one on a grid whose weighted squared error at the output is least, with weights AND
activations quantized (Eq. 4), over all calibration batches. The output inspected is
attention's for q, k and v, the feed-forward network's for gate and up, the layer's own for o and
down. With grouped-query attention v has fewer outputs than o has inputs, and that pair is skipped.
Then each output channel's weights are clipped at the fraction of their range that gives the least
error; q and k are not (Lin et al. 2024 and its reference code, which is weight-only) unless the
quantizer has a clip search of its own, which then limits them.

The block is still in full precision afterwards. The steps that follow measure their ranges without
a clip search (`as_clipped`): all clips have been searched for by then, and the scales are searched
for without any, as in the reference.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dllmquant_exp.models.transformer import Block, RMSNorm, at_least_float32
from dllmquant_exp.quantization.awq_clip import (
    AwqClip,
    best_clips,
    keep_of,
    limited,
    linear_of,
)
from dllmquant_exp.quantization.blockwise import BlockBatch, layer_input, replaced
from dllmquant_exp.quantization.linear import Padding, QuantizedLinear
from dllmquant_exp.quantization.method import BlockStep, Report, Step, idle_without_rounding
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError, Quantizer, fake_quantize

RATIOS = tuple(i / 20 for i in range(20))  # 0 = plain rounding to nearest, ..., 0.95
_SCALED = (  # the layer that absorbs 1/s, the layers that absorb s
    ("attention_norm", ("q_proj", "k_proj", "v_proj")),
    ("v_proj", ("o_proj",)),
    ("ffn_norm", ("gate_proj", "up_proj")),
    ("up_proj", ("down_proj",)),
)
_CLIPPED = (("v_proj",), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
_UNJUDGED = ("q_proj", "k_proj")  # clipped by the quantizer's own search, if it has one


@dataclass(frozen=True)
class Awq(BlockStep):
    """The step has no settings: its grids of ratios are the reference's."""

    # For each group its input, its output, its output at each ratio; then the moments of its clips.
    passes: ClassVar[float | None] = len(_SCALED) * (2 + len(RATIOS)) + len(_CLIPPED)

    def idle(self, quant: QuantSettings) -> str | None:
        return idle_without_rounding(quant)

    def transform(
        self, block: Block, batches: Sequence[BlockBatch], quant: QuantSettings
    ) -> Report:
        assert quant.weight is not None  # or it is idle
        return asdict(awq_block(block, batches, quant.weight, quant.activation))

    def passed_on(self, quant: QuantSettings) -> QuantSettings:
        return replace(quant, weight_clip_search=None)

    def check_order(self, before: Sequence[Step]) -> None:
        if any(step.online for step in before):
            raise QuantizationError("AWQ scales channels that a rotation mixes: choose one of them")


def as_clipped(weight: Quantizer) -> Quantizer:
    """The quantizer of weights whose ranges have been chosen already."""
    return replace(weight, clip_search=None)


@dataclass(frozen=True)
class AwqScale:
    """The scale of one group of layers.

    Attributes:
        layers: for example q_proj, k_proj, v_proj.
        ratio: the one chosen from `RATIOS`.
        losses: for each of `RATIOS`, the weighted mean squared error of an element of the output.
    """

    layers: tuple[str, ...]
    ratio: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class AwqReport:
    """The work on one block; `skipped` says which layers could not be scaled, and why."""

    scales: tuple[AwqScale, ...]
    clips: tuple[AwqClip, ...]
    skipped: tuple[str, ...]


@torch.no_grad()
def awq_block(
    block: Block,
    batches: Sequence[BlockBatch],
    weight: Quantizer,
    activation: Quantizer | None,
) -> AwqReport:
    """Scale and clip the weights of `block` in place.

    Besides the batches, one layer group's inputs and outputs are in memory at a time.

    Args:
        block: in full precision, attention included.
        batches: the calibration states at this block's input; read once per group and more, so
            loading them from disk is fine.
        weight, activation: how they will be quantized; None where activations are not.

    Raises:
        QuantizationError: values that are not finite, or a layer that is not a plain linear one.
            The block may then be scaled in part, which does not change its function.
    """
    scales, skipped = [], []
    for before, layers in _SCALED:
        outputs = getattr(block.get_submodule(before), "out_features", None)
        inputs = linear_of(block, layers[0]).in_features
        if outputs not in (None, inputs):
            skipped.append(f"{before} -> {layers[0]}: {outputs} outputs for {inputs} inputs")
            continue
        found, scale = _best_scale(block, batches, layers, weight, activation)
        _apply(block, before, layers, scale)
        scales.append(found)
    clips = []
    for layers in _CLIPPED:
        clips += best_clips(block, batches, layers, as_clipped(weight), activation)
    for clip, clipped in clips:  # only now: every layer was judged on unchanged inputs
        linear_of(block, clip.layer).weight.copy_(clipped)
    if weight.clip_search is not None:
        for name in _UNJUDGED:
            linear_of(block, name).weight.copy_(limited(linear_of(block, name).weight, weight))
    return AwqReport(tuple(scales), tuple(clip for clip, _ in clips), tuple(skipped))


def _best_scale(
    block: Block,
    batches: Sequence[BlockBatch],
    layers: tuple[str, ...],
    weight: Quantizer,
    activation: Quantizer | None,
) -> tuple[AwqScale, Tensor]:
    """The ratio with the least loss (the smallest of equals), and its scale [in]."""
    inputs = [layer_input(block, layers[0], batch) for batch in batches]
    outputs = [
        _inspected(block, layers[0], x, batch) for x, batch in zip(inputs, batches, strict=True)
    ]
    magnitude = _mean_magnitude(inputs, batches)
    candidates = [scale_of(magnitude, ratio).to(inputs[0].dtype) for ratio in RATIOS]
    losses = []
    for ratio, scale in zip(RATIOS, candidates, strict=True):
        total, counted = 0.0, 0.0
        padding = Padding()
        quantized = {}
        for name in layers:
            linear = linear_of(block, name)
            scaled = fake_quantize(linear.weight * scale, as_clipped(weight))
            quantized[name] = QuantizedLinear(scaled, linear.bias, activation, padding)
        with replaced(block, quantized):
            for x, expected, batch in zip(inputs, outputs, batches, strict=True):
                padding.keep = keep_of(batch)
                error = _inspected(block, layers[0], x / scale, batch) - expected
                total += _weighted_sum(error, batch.weights)
                counted += float(batch.weights.double().sum()) * error.shape[-1]
        losses.append(total / counted)
        if not math.isfinite(losses[-1]):
            raise QuantizationError(
                f"the loss of {', '.join(layers)} at ratio {ratio} is {losses[-1]}; "
                "use bfloat16 or float32 for the model"
            )
    best = losses.index(min(losses))
    return AwqScale(layers, RATIOS[best], tuple(losses)), candidates[best]


def scale_of(magnitude: Tensor, ratio: float) -> Tensor:
    """s [in] of the mean |x| [in]: its power, of geometric mean 1 between largest and smallest.

    1 for an input that was 0 at every token: nothing is known about it.
    """
    live = magnitude > 0
    if not bool(live.any()):
        return torch.ones_like(magnitude)
    power = magnitude.pow(ratio).clamp(min=1e-4)
    middle = (power[live].max() * power[live].min()).sqrt()
    return torch.where(live, power / middle, torch.ones_like(power))


def _apply(block: Block, before: str, layers: tuple[str, ...], scale: Tensor) -> None:
    """Divide the outputs of `before` by the scale and multiply the inputs of `layers` by it."""
    norm = block.get_submodule(before)
    if isinstance(norm, RMSNorm):
        norm.weight.div_(scale)
    else:
        source = linear_of(block, before)
        source.weight.div_(scale[:, None])
        if source.bias is not None:
            source.bias.div_(scale)
    for name in layers:
        linear_of(block, name).weight.mul_(scale)


def _inspected(block: Block, layer: str, x: Tensor, batch: BlockBatch) -> Tensor:
    """Output of the module by which the group of `layer` is judged, for the group's input x."""
    if layer == "q_proj":
        return block.attend(x, batch.cos, batch.sin, batch.mask)
    if layer == "gate_proj":
        return block.feed_forward(x)
    output: Tensor = block.get_submodule(layer)(x)
    return output


def _mean_magnitude(inputs: Sequence[Tensor], batches: Sequence[BlockBatch]) -> Tensor:
    """Mean |x| per feature over the tokens that count, [in]; CGQ weights the loss, not this."""
    total, tokens = torch.zeros(()), 0
    for x, batch in zip(inputs, batches, strict=True):
        counted = x[batch.weights > 0].to(at_least_float32(x.dtype)).abs()
        total = total.to(counted) + counted.sum(0)
        tokens += len(counted)
    return total / tokens


def _weighted_sum(error: Tensor, weights: Tensor) -> float:
    """sum_t w_t ||error_t||^2, whatever stands where the weight is 0."""
    keep = weights > 0
    squares = error[keep].to(at_least_float32(error.dtype)).square().sum(-1)
    return float((squares.double() * weights[keep].double()).sum())
