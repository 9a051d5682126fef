"""Uniform quantizers as pure functions on tensors.

A `Quantizer` says how (bits, symmetric or asymmetric, granularity, clipping); `parameters` measures
a tensor's ranges, `to_integers` and `from_integers` use them, and `fake_quantize` does all three:
the values a low-bit format would represent, in the tensor's own floating-point type.

Symmetric grids in use for b bits (the numbers are for b = 4, m is the largest magnitude):

    full_range   scale 2m/15, integers -8..7   GPTQ reference, compressed-tensors; our default
    restricted   scale  m/7,  integers -7..7
    max_over_7   scale  m/7,  integers -8..7   QuaRot, AWQ; -8 is reached only with clipping

Asymmetric: integers 0..15, scale (max - min)/15, integer zero point; the range always contains 0,
so that 0 is represented exactly. (The paper's Eq. 3 floors (X - z)/s with z = Xmin/s; this is the
usual form that it abbreviates.)

Ranges and divisions are computed in float32 or better, whatever the tensor's type.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dllmquant_exp.models.transformer import at_least_float32

Grid = Literal["full_range", "restricted", "max_over_7"]
Granularity = Literal["per_tensor", "per_request", "per_channel", "per_token", "per_group"]

OFF = 16  # bits that mean: not quantized
BITS = (2, 3, 4, 5, 6, 7, 8)


class QuantizationError(ValueError):
    """A quantization setting that cannot be used; the message says which, where, and what can."""


def require(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise QuantizationError unless `value` is one of `allowed`."""
    if isinstance(value, bool) or value not in allowed:
        raise QuantizationError(f"{name} = {value!r} is not one of: {', '.join(map(str, allowed))}")


@dataclass(frozen=True)
class Quantizer:
    """How one tensor is quantized.

    Attributes:
        bits: 2 to 8.
        symmetric: signed integers around 0 (weights), or unsigned ones with a zero point.
        granularity: what shares one range. `per_tensor`: everything. `per_request`: everything
            but the first dimension. `per_channel` and `per_token`: the last dimension (a weight's
            row [out, in] is an output channel, an activation's row [..., features] is a token).
            `per_group`: `group_size` neighbours along the last dimension.
        group_size: for `per_group` only, else None.
        grid: see the module's docstring; for symmetric quantizers only.
        clip_ratio: the measured range is multiplied by it, in (0, 1]; 1 clips nothing.
    """

    bits: int
    symmetric: bool
    granularity: Granularity
    group_size: int | None = None
    grid: Grid = "full_range"
    clip_ratio: float = 1.0

    def __post_init__(self) -> None:
        require("bits", self.bits, BITS)
        require("granularity", self.granularity, get_args(Granularity))
        require("grid", self.grid, get_args(Grid))
        if self.granularity == "per_group" and (self.group_size is None or self.group_size < 1):
            raise QuantizationError(
                f"granularity per_group needs a group_size of at least 1, not {self.group_size}"
            )
        if self.granularity != "per_group" and self.group_size is not None:
            raise QuantizationError(
                f"group_size = {self.group_size} has no effect with granularity "
                f"{self.granularity}; set it to null or choose per_group"
            )
        if not 0 < self.clip_ratio <= 1:
            raise QuantizationError(f"clip_ratio = {self.clip_ratio} must be in (0, 1]")

    @property
    def lowest(self) -> int:
        """The smallest integer of the grid."""
        if not self.symmetric:
            return 0
        return -(2 ** (self.bits - 1)) + (self.grid == "restricted")

    @property
    def highest(self) -> int:
        """The largest integer of the grid."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1


@dataclass(frozen=True)
class Parameters:
    """Measured scale and zero point, broadcastable to the grouped view of the tensor.

    `zero` holds whole numbers in the scale's floating-point type; it is 0 when symmetric.
    """

    scale: Tensor
    zero: Tensor


def parameters(x: Tensor, quantizer: Quantizer, keep: Tensor | None = None) -> Parameters:
    """Scale and zero point of `x`.

    Args:
        x: any shape; [..., features] with the features last.
        quantizer: what to measure.
        keep: bool, broadcastable to `x`; False where a value must not count for the ranges
            (padding). None where every value counts.

    Returns:
        Parameters with size 1 in each dimension that shares a range; for `per_group`, of the view
        [..., groups, group_size]. A range without any value or with zeros only has scale 1.
    """
    grouped = _grouped(x, quantizer)
    wide = grouped.to(at_least_float32(x.dtype))
    if keep is not None:
        keep = _grouped(keep.expand_as(x), quantizer)
        wide = torch.where(keep, wide, torch.zeros((), dtype=wide.dtype, device=wide.device))
    dims = _shared_dims(grouped, quantizer)
    # 0 belongs to every range, so values that do not count may be replaced by 0.
    low = wide.amin(dims, keepdim=True).clamp(max=0) * quantizer.clip_ratio
    high = wide.amax(dims, keepdim=True).clamp(min=0) * quantizer.clip_ratio
    if quantizer.symmetric:
        largest = torch.maximum(high, -low)
        steps = (2**quantizer.bits - 1) / 2 if quantizer.grid == "full_range" else quantizer.highest
        scale = _positive(largest / steps)
        return Parameters(scale, torch.zeros_like(scale))
    scale = _positive((high - low) / quantizer.highest)
    return Parameters(scale, torch.round(-low / scale))


def to_integers(x: Tensor, quantizer: Quantizer, measured: Parameters) -> Tensor:
    """The integers of `x` (same shape), as whole numbers in float32 or float64; half to even."""
    wide = _grouped(x, quantizer).to(measured.scale.dtype)
    integers = torch.round(wide / measured.scale) + measured.zero
    return integers.clamp(quantizer.lowest, quantizer.highest).reshape(x.shape)


def from_integers(integers: Tensor, quantizer: Quantizer, measured: Parameters) -> Tensor:
    """The values that `integers` represent: scale * (integer - zero), same shape."""
    grouped = _grouped(integers, quantizer)
    return (measured.scale * (grouped - measured.zero)).reshape(integers.shape)


def fake_quantize(x: Tensor, quantizer: Quantizer, keep: Tensor | None = None) -> Tensor:
    """`x` rounded to the values its own grid can represent; same shape and type.

    Args:
        keep: see `parameters`. Values that do not count are quantized all the same.
    """
    measured = parameters(x, quantizer, keep)
    return from_integers(to_integers(x, quantizer, measured), quantizer, measured).to(x.dtype)


def _grouped(x: Tensor, quantizer: Quantizer) -> Tensor:
    """`x`, or [..., features] as [..., groups, group_size] when groups share a range."""
    if quantizer.group_size is None:
        return x
    if x.shape[-1] % quantizer.group_size:
        raise QuantizationError(
            f"group_size = {quantizer.group_size} does not divide {x.shape[-1]} features"
        )
    return x.unflatten(-1, (-1, quantizer.group_size))


def _shared_dims(grouped: Tensor, quantizer: Quantizer) -> tuple[int, ...]:
    if quantizer.granularity == "per_tensor":
        return tuple(range(grouped.dim()))
    if quantizer.granularity == "per_request":
        return tuple(range(1, grouped.dim()))
    return (grouped.dim() - 1,)


def _positive(scale: Tensor) -> Tensor:
    """1 where the scale is 0 or too small to divide by: there, every value rounds to 0 anyway."""
    tiny = torch.finfo(scale.dtype).tiny
    return torch.where(scale > tiny, scale, torch.ones_like(scale))
