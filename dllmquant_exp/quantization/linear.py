"""A linear layer with quantized weights and inputs, their ranges dynamic or calibrated (static)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmquant_exp.models.transformer import at_least_float32
from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizedWeight,
    Quantizer,
    Range,
    from_integers,
    parameters,
    to_integers,
    value_range,
)

SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # of activations; below, 1 / scale overflows


class RoundedInput(nn.Module):
    """The input's side of a linear y = Q(R x) W^T + b: how x is rotated and rounded.

    Q measures its ranges anew on each call, unless they are given. R is the identity or an online
    rotation, whose inverse W already contains.

    Args:
        bias: [out_features] or None, not quantized.
        activation: how the input is quantized; None leaves it alone.
        padding: where the current batch is padded. Needed only where a range spans several tokens
            (`per_request`); a token's own range never sees padding.
        measured: static scale and zero point, of one value each, for a `per_tensor` activation
            quantizer: calls then use them as they are. None measures each call.
        rotation: applied to x before it is quantized (QuaRot's online Hadamard); a module, so that
            it moves with this one.
    """

    in_features: int
    out_features: int
    bias: Tensor | None
    activation_scale: Tensor | None
    activation_zero: Tensor | None

    def __init__(
        self,
        bias: Tensor | None,
        activation: Quantizer | None,
        padding: "Padding | None",
        measured: Parameters | None,
        rotation: nn.Module | None,
    ) -> None:
        super().__init__()
        # Buffers: nothing is trained, and they move, cast and are saved with the module.
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.register_buffer("activation_scale", None if measured is None else measured.scale)
        self.register_buffer("activation_zero", None if measured is None else measured.zero)
        self.activation = activation
        self.padding = padding
        self.rotation = rotation

    @property
    def measured(self) -> Parameters | None:
        """The calibrated scale and zero point; None where each call measures."""
        if self.activation_scale is None or self.activation_zero is None:
            return None
        return Parameters(self.activation_scale, self.activation_zero)

    def ranges(self, x: Tensor, activation: Quantizer) -> Parameters:
        """Scales and zero points for a rotated input, in float32 or better."""
        measured = self.measured
        if measured is None:
            return parameters(x, activation, None if self.padding is None else self.padding.keep)
        # A module cast to bfloat16 keeps the zero point exactly, and one scale for both ways.
        wide = at_least_float32(x.dtype)
        return Parameters(measured.scale.to(wide), measured.zero.to(wide))

    def extra_repr(self) -> str:
        mode = "dynamic" if self.activation_scale is None else "static"
        return f"{self.in_features}, {self.out_features}, activation={self.activation}, {mode}"


class QuantizedLinear(RoundedInput):
    """y = Q(R x) W^T + b, with W on its grid.

    The integers of input and weight are multiplied, and their scales applied to the sums, as a
    low-bit kernel does. In floating point such sums are exact as long as they stay below 2^24
    (float32), so that they depend neither on the shape of the batch nor on the number of threads.
    On the CPU they are summed in float32 in narrower types, too, and rounded once, when they are
    scaled; on other devices, where that takes several times as long, in the type of x.
    Groups along the features have a scale per group; their values are multiplied instead.

    Args:
        weight: [out_features, in_features].
        bias, activation, padding, measured, rotation: see `RoundedInput`.
        dtype: of the whole numbers of a quantized weight, which is the type of x.
    """

    numbers: Tensor  # the weight's whole numbers; the weight itself where it is not quantized
    weight_scale: Tensor | None

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
        super().__init__(bias, activation, padding, measured, rotation)
        if isinstance(weight, QuantizedWeight):
            self.register_buffer("numbers", weight.numbers.to(dtype))
            self.register_buffer("weight_scale", weight.scale)
        else:
            self.register_buffer("numbers", weight.detach())
            self.register_buffer("weight_scale", None)
        self.out_features, self.in_features = self.numbers.shape

    @property
    def rounded(self) -> QuantizedWeight | None:
        """The weight as whole numbers, in their floating-point type, and scales."""
        if self.weight_scale is None:
            return None
        return QuantizedWeight(self.numbers, self.weight_scale)

    @property
    def weight(self) -> Tensor:
        """The weight's values, [out_features, in_features]."""
        rounded = self.rounded
        return self.numbers if rounded is None else rounded.values(self.numbers.dtype)

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
            measured = self.ranges(x, self.activation)
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
        """Static scale and zero point, one value each, of what was observed."""
        assert self.range is not None
        return self.range.parameters(quantizer)
