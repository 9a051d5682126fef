"""A linear layer with quantized weights and inputs, their ranges dynamic or calibrated (static)."""

import torch.nn.functional as F
from torch import Tensor, nn

from dllmquant_exp.models.transformer import at_least_float32
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    Quantizer,
    Range,
    from_integers,
    parameters,
    to_integers,
    value_range,
)


class QuantizedLinear(nn.Module):
    """y = Q(R x) W^T + b, with W already rounded to its grid.

    Q measures its ranges anew on each call, unless they are given. R is the identity or an online
    rotation, whose inverse W already contains.

    The arithmetic is floating point on values that a low-bit format represents exactly, so results
    are those of the integer product up to rounding of the sums.

    Args:
        weight: [out_features, in_features], the dequantized weight, kept as a buffer: there is
            nothing to train, and it moves and casts with the module.
        bias: [out_features] or None, not quantized.
        activation: how the input is quantized; None leaves it alone.
        padding: where the current batch is padded. Needed only where a range spans several tokens
            (`per_request`); a token's own range never sees padding.
        measured: static scale and zero point, of one value each, for a `per_tensor` activation
            quantizer: calls then use them as they are. None measures each call.
        rotation: applied to x before it is quantized (QuaRot's online Hadamard); a module, so that
            it moves with this one.

    Raises:
        QuantizationError: `measured` without a `per_tensor` quantizer, or of several values.
    """

    weight: Tensor
    bias: Tensor | None
    activation_scale: Tensor | None
    activation_zero: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: Quantizer | None = None,
        padding: "Padding | None" = None,
        measured: Parameters | None = None,
        rotation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
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
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features]."""
        if self.rotation is not None:
            x = self.rotation(x)
        if self.activation is not None:
            measured = self._measure(x, self.activation)
            integers = to_integers(x, self.activation, measured)
            x = from_integers(integers, self.activation, measured).to(x.dtype)
        return F.linear(x, self.weight, self.bias)

    def _measure(self, x: Tensor, activation: Quantizer) -> Parameters:
        if self.activation_scale is None or self.activation_zero is None:
            return parameters(x, activation, None if self.padding is None else self.padding.keep)
        # A module cast to bfloat16 keeps the zero point exactly, and one scale for both ways.
        wide = at_least_float32(x.dtype)
        return Parameters(self.activation_scale.to(wide), self.activation_zero.to(wide))

    def extra_repr(self) -> str:
        mode = "dynamic" if self.activation_scale is None else "static"
        return f"{self.in_features}, {self.out_features}, activation={self.activation}, {mode}"


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

    Installed as a forward pre-hook of an `nn.Linear`, of a linear with a `rotation` (the range is
    then that of the rotated input, which is what is quantized) or of a `QuantizedLinear`.

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
            x = rotation(x)
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
