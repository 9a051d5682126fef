"""A linear layer with quantized weights and inputs, their ranges dynamic or calibrated (static)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmquant_exp.models.transformer import at_least_float32
from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    Range,
    from_integers,
    parameters,
    to_integers,
    value_range,
)

SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # of activations; below, 1 / scale overflows


class QuantizedLinear(nn.Module):
    """y = Q(R x) W^T + b, with W on its grid.

    Q measures its ranges anew on each call, unless they are given. R is the identity or an online
    rotation, whose inverse W already contains.

    The integers of input and weight are multiplied, and their scales applied to the sums, as a
    low-bit kernel does. In floating point such sums are exact as long as they stay below 2^24
    (float32), so that they depend neither on the shape of the batch nor on the number of threads.
    On the CPU they are summed in float32 in narrower types, too, and rounded once, when they are
    scaled; on other devices, where that takes several times as long, in the type of x.
    Groups along the features have a scale per group; their values are multiplied instead.

    Args:
        weight: [out_features, in_features]; kept as buffers, since there is nothing to train, and
            they move and cast with the module.
        bias: [out_features] or None, not quantized.
        activation: how the input is quantized; None leaves it alone.
        padding: where the current batch is padded. Needed only where a range spans several tokens
            (`per_request`); a token's own range never sees padding.
        measured: static scale and zero point, of one value each, for a `per_tensor` activation
            quantizer: calls then use them as they are. None measures each call.
        rotation: applied to x before it is quantized (QuaRot's online Hadamard); a module, so that
            it moves with this one.
        dtype: of the whole numbers of a quantized weight, which is the type of x.

    Raises:
        QuantizationError: `measured` without a `per_tensor` quantizer, of several values, or with a
            scale too small to divide by.
    """

    numbers: Tensor  # the weight's whole numbers; the weight itself where it is not quantized
    weight_scale: Tensor | None
    bias: Tensor | None
    activation_scale: Tensor | None
    activation_zero: Tensor | None

    def __init__(
        self,
        weight: Tensor | QuantizedWeight,
        bias: Tensor | None = None,
        activation: Quantizer | None = None,
        padding: "Padding | None" = None,
        measured: Parameters | None = None,
        rotation: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if isinstance(weight, QuantizedWeight):
            self.register_buffer("numbers", weight.numbers.to(dtype))
            self.register_buffer("weight_scale", weight.scale)
        else:
            self.register_buffer("numbers", weight.detach())
            self.register_buffer("weight_scale", None)
        self.register_buffer("bias", None if bias is None else bias.detach())
        if measured is not None:
            _require_static(activation, measured)
        # Buffers, so that they move with the module and are saved with it.
        self.register_buffer("activation_scale", None if measured is None else measured.scale)
        self.register_buffer("activation_zero", None if measured is None else measured.zero)
        self.activation = activation
        self.padding = padding
        self.rotation = rotation

    @property
    def in_features(self) -> int:
        return self.numbers.shape[1]

    @property
    def out_features(self) -> int:
        return self.numbers.shape[0]

    @property
    def weight(self) -> Tensor:
        """The weight's values, [out_features, in_features]."""
        if self.weight_scale is None:
            return self.numbers
        return QuantizedWeight(self.numbers, self.weight_scale).values(self.numbers.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features]."""
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.out_features)
        if self.rotation is not None:
            x = rotated(x, self.rotation)
        scales = []  # of the sums
        if self.weight_scale is not None and self.weight_scale.shape[1] == 1:
            weight = self.numbers
            scales.append(self.weight_scale[:, 0])
        else:
            weight = self.weight
        dtype = inside = x.dtype
        if self.activation is not None:
            measured = self._measure(x, self.activation)
            x = to_integers(x, self.activation, measured)
            if self.activation.group_size is None:
                x.sub_(measured.zero)
                scales.append(measured.scale)
            else:
                x = from_integers(x, self.activation, measured)
        if len(scales) == 2 and x.is_cpu:  # both are whole numbers
            inside = at_least_float32(dtype)
        y = F.linear(x.to(inside), weight.to(inside))
        if scales:
            y = y.to(at_least_float32(dtype))
            for scale in scales:
                y.mul_(scale)
            y = y.to(dtype)
        return y if self.bias is None else y.add_(self.bias)

    def _measure(self, x: Tensor, activation: Quantizer) -> Parameters:
        if self.activation_scale is None or self.activation_zero is None:
            return parameters(x, activation, None if self.padding is None else self.padding.keep)
        # A module cast to bfloat16 keeps the zero point exactly, and one scale for both ways.
        wide = at_least_float32(x.dtype)
        return Parameters(self.activation_scale.to(wide), self.activation_zero.to(wide))

    def extra_repr(self) -> str:
        mode = "dynamic" if self.activation_scale is None else "static"
        return f"{self.in_features}, {self.out_features}, activation={self.activation}, {mode}"


class RotatedLinear(nn.Module):
    """y = rotation(x) W^T + b: a linear whose weight is fused with the rotation's inverse.

    Not an nn.Linear, so that code that knows linears only cannot drop the rotation unnoticed.

    Args:
        weight: [out_features, in_features].
        bias: [out_features] or None.
        rotation: [..., in_features] -> the same shape.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, rotation: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.rotation = rotation

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features]."""
        return F.linear(self.rotation(x), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


class Padding:
    """The attention mask of the call that is running, for the linears of one block.

    A block is called as `block(x, cos, sin, mask)`, but its linears see `x` alone. Installed as a
    forward pre-hook of that block, this reads the mask of every call just before it runs, so it
    is never older than the input it belongs to.
    """

    def __init__(self) -> None:
        self.keep: Tensor | None = None  # [B, T, 1] bool, False at padding; None without padding

    def read(self, block: nn.Module, args: tuple[Tensor | None, ...]) -> None:
        mask = args[3]  # [B, 1, 1, T] or None
        self.keep = None if mask is None else mask[:, 0, 0, :, None]


class RangeObserver:
    """The range of a linear's inputs over all calls of a calibration, for static quantization.

    Installed as a forward pre-hook of an `nn.Linear`, of a linear with a `rotation` (where the
    rotated input is observed, as it is the one that is quantized) or of a `QuantizedLinear`.

    Args:
        padding: as of the block's linears; padding tokens do not count.
    """

    def __init__(self, padding: Padding | None = None) -> None:
        self.padding = padding
        self.range: Range | None = None  # of two scalars; None until the first call

    def read(self, linear: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        rotation = getattr(linear, "rotation", None)
        if rotation is not None:
            x = rotated(x, rotation)
        keep = None if self.padding is None else self.padding.keep
        seen = value_range(x, tuple(range(x.dim())), keep)
        seen = Range(seen.low.reshape(()), seen.high.reshape(()))
        self.range = seen if self.range is None else self.range.merged(seen)

    def parameters(self, quantizer: Quantizer) -> Parameters:
        """Static scale and zero point, one value each; see `QuantizedLinear`.

        Raises:
            QuantizationError: nothing was observed, or the quantizer needs more than a range.
        """
        if self.range is None:
            raise QuantizationError(
                "no calibration input reached this layer, so that its static range is unknown; "
                "run at least one calibration batch, or use dynamic ranges"
            )
        if quantizer.clip_search is not None:
            raise QuantizationError(
                f"clip_search = {quantizer.clip_search} needs all values of a tensor, and a static "
                "range keeps only their ends; set a clip_ratio instead"
            )
        measured = self.range.parameters(quantizer)
        _require_static(quantizer, measured)
        return measured


def _require_static(activation: Quantizer | None, measured: Parameters) -> None:
    if activation is None or activation.granularity != "per_tensor":
        raise QuantizationError(
            "static ranges are one per tensor, but the activation quantizer is "
            f"{'off' if activation is None else activation.granularity}; use per_tensor"
        )
    if measured.scale.numel() != 1 or measured.zero.numel() != 1:
        raise QuantizationError(
            f"a static range is one scale and one zero point, not of shapes "
            f"{tuple(measured.scale.shape)} and {tuple(measured.zero.shape)}"
        )
    if not bool(measured.scale >= SMALLEST_SCALE):
        raise QuantizationError(
            f"a static scale of {float(measured.scale)} cannot be divided by in float32; it must "
            f"be at least {SMALLEST_SCALE:.3g}"
        )
