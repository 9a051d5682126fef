"""AWQ's clip search: each output channel's weights, limited where that helps the output most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Block, at_least_float32
from dllmquant_exp.quantization.blockwise import BlockBatch, layer_input
from dllmquant_exp.quantization.hessian import Hessian
from dllmquant_exp.quantization.quantizers import (
    QuantizationError,
    Quantizer,
    fake_quantize,
    parameters,
    row_scales,
)

CLIP_RATIOS = tuple(1 - i / 20 for i in range(10))  # 1 = nothing clipped, ..., 0.55


@dataclass(frozen=True)
class AwqClip:
    """The clipping of one layer.

    Attributes:
        layer: for example v_proj.
        mean_ratio: mean over output channels of the fraction of the range that was kept.
        clipped_channels: fraction of the output channels with a ratio below 1.
        loss_before, loss_after: weighted mean over tokens of ||Wq Q(x) - W x||^2.
    """

    layer: str
    mean_ratio: float
    clipped_channels: float
    loss_before: float
    loss_after: float


def best_clips(
    block: Block,
    batches: Sequence[BlockBatch],
    layers: tuple[str, ...],
    quantizer: Quantizer,
    activation: Quantizer | None,
) -> list[tuple[AwqClip, Tensor]]:
    """The weights [out, in] of layers that share an input, each channel clipped by its best ratio.

    The block is not changed.
    """
    errors = _OutputErrors.measure(block, batches, layers, activation)
    found = []
    for name in layers:
        weight = linear_of(block, name).weight
        losses = torch.stack([
            errors.of(name, weight, fake_quantize(clipped(weight, quantizer, ratio), quantizer))
            for ratio in CLIP_RATIOS
        ])  # [ratios, out]  # fmt: skip
        # Channels that share a range share a ratio: clipping one of them would not shorten it.
        shared = quantizer.granularity == "per_tensor"
        judged = losses.sum(1, keepdim=True).expand_as(losses) if shared else losses
        best = judged.argmin(0)  # [out]
        ratio = torch.tensor(CLIP_RATIOS, dtype=weight.dtype, device=weight.device)[best]
        report = AwqClip(
            layer=name,
            mean_ratio=float(ratio.double().mean()),
            clipped_channels=float((best > 0).double().mean()),
            loss_before=float(losses[0].double().sum()),
            loss_after=float(losses.gather(0, best[None]).double().sum()),
        )
        found.append((report, clipped(weight, quantizer, ratio[:, None, None])))
    return found


def clipped(weight: Tensor, quantizer: Quantizer, ratio: Tensor | float) -> Tensor:
    """The weight [out, in] limited to `ratio` (broadcast to [out, groups, 1]) of its ranges.

    Ranges measured on it are then `ratio` times the weight's own.
    """
    grouped = weight.unflatten(-1, (-1, quantizer.group_size or weight.shape[1]))
    dims = (0, 1, 2) if quantizer.granularity == "per_tensor" else (2,)
    high = grouped.amax(dims, keepdim=True).clamp(min=0)
    low = grouped.amin(dims, keepdim=True).clamp(max=0)
    if quantizer.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    return torch.clamp(grouped, low * ratio, high * ratio).flatten(1)


def limited(weight: Tensor, quantizer: Quantizer) -> Tensor:
    """The weight [out, in] within the ranges that the quantizer's own clip search finds."""
    plain = replace(quantizer, clip_search=None)
    searched, unclipped = (
        row_scales(parameters(weight, how).scale, len(weight)) for how in (quantizer, plain)
    )
    return clipped(weight, quantizer, (searched / unclipped).to(weight.dtype)[..., None])


@dataclass(frozen=True)
class _OutputErrors:
    """Second moments from which the output error of any rounded weight follows.

    With e = Q(x) - x and d = wq - w, a channel's error at a token is Q(x) d + e w. Its weighted
    mean square is d A d + 2 d C w + rest, with A = <Q(x) Q(x)^T>, C = <Q(x) e^T>, and
    rest = <(e w)^2>. No term is larger than the error itself, so nothing cancels.
    """

    A: Tensor  # [in, in]
    C: Tensor  # [in, in]
    rest: dict[str, Tensor]  # layer -> [out]

    @staticmethod
    def measure(
        block: Block,
        batches: Sequence[BlockBatch],
        layers: tuple[str, ...],
        activation: Quantizer | None,
    ) -> "_OutputErrors":
        weights = {name: linear_of(block, name).weight for name in layers}
        like = weights[layers[0]]
        wide, features = at_least_float32(like.dtype), like.shape[1]
        moments = Hessian(features, wide, like.device)
        C = torch.zeros(features, features, dtype=wide, device=like.device)
        rest = {name: C.new_zeros(len(weight)) for name, weight in weights.items()}
        for batch in batches:
            x = layer_input(block, layers[0], batch)
            q = x if activation is None else fake_quantize(x, activation, keep_of(batch))
            moments.add(q, batch.weights)
            if activation is None:
                continue
            keep = batch.weights > 0
            q, x, w = q[keep].to(wide), x[keep].to(wide), batch.weights[keep].to(wide)[:, None]
            C.addmm_((q * w).T, q - x)
            for name, weight in weights.items():
                rest[name] += (((q - x) @ weight.to(wide).T).square() * w).sum(0)
        n = moments.tokens
        averaged = {name: value / n for name, value in rest.items()}
        return _OutputErrors(moments.matrix() / 2, C / n, averaged)

    def of(self, name: str, weight: Tensor, rounded: Tensor) -> Tensor:
        """Per output channel, [out]."""
        w = weight.to(self.A.dtype)
        d = rounded.to(self.A.dtype) - w
        return (d @ self.A * d).sum(1) + 2 * (d @ self.C * w).sum(1) + self.rest[name]


def linear_of(block: Block, name: str) -> nn.Linear:
    """A plain linear layer of the block.

    Raises:
        QuantizationError: it is quantized or rotated.
    """
    linear = block.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise QuantizationError(
            f"AWQ needs plain linear layers, but {name} is a {type(linear).__name__}; "
            "quantize or rotate after AWQ"
        )
    return linear


def keep_of(batch: BlockBatch) -> Tensor | None:
    """[B, T, 1], False at padding, for ranges that span tokens."""
    return None if batch.mask is None else batch.mask[:, 0, 0, :, None]
