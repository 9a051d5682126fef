"""Uniform quantizers as pure functions on tensors.

A `Quantizer` says how (bits, symmetric or asymmetric, granularity, clipping); `parameters` measures
a tensor's ranges, `to_integers` and `from_integers` use them, and `fake_quantize` does all three:
the values a low-bit format would represent, in the tensor's own floating-point type. A `Range` can
also be measured over many tensors and turned into parameters later: a static range.

Symmetric grids in use for b bits (the numbers are for b = 4, m is the largest magnitude):

    full_range   scale 2m/15, integers -8..7   GPTQ reference, compressed-tensors; our default
    restricted   scale  m/7,  integers -7..7
    max_over_7   scale  m/7,  integers -8..7   QuaRot, AWQ; -8 is reached only with clipping

Asymmetric: integers 0..15, scale (max - min)/15, integer zero point; the range always contains 0,
so that 0 is represented exactly. (The paper's Eq. 3 rounds (X - z)/s with z = Xmin/s, which divides
by s twice; this is the usual form.)

Ranges and divisions are computed in float32 or better, whatever the tensor's type.

Clip search shrinks each range by the ratio in 1, 0.99 ... 0.21 with the smallest sum of |error|^p:
grid 100 and maxshrink 0.8 of the GPTQ reference's quant.py, where p is 2.4. The zero point is the
same at every ratio, since both ends of the range shrink alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import torch
from torch import Tensor

from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.transformer import at_least_float32
from dllmquant_exp.store.schema import Above, AtLeast, AtMost, Settings

Grid = Literal["full_range", "restricted", "max_over_7"]
Granularity = Literal["per_tensor", "per_request", "per_channel", "per_token", "per_group"]
ClipRatio = Annotated[float, Above(0), AtMost(1)]
ClipExponent = Annotated[float, Above(0), AtMost(100)]
GroupSize = Annotated[int, AtLeast(1)]

OFF: Final = 16  # bits that mean: not quantized
BITS = (2, 3, 4, 5, 6, 7, 8)
CLIP_RATIOS = tuple(1 - step / 100 for step in range(80))  # the search's candidates
_TILE = 2**20  # values that the clip search looks at together; bounds its memory


class QuantizationError(Refusal):
    """A quantization setting that cannot be used; the message says which, where, and what can."""


@dataclass(frozen=True)
class Quantizer(Settings):
    """Settings by which one tensor is quantized.

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
        clip_search: None, or the exponent p of the |error|^p that the best of `CLIP_RATIOS`
            minimises for each range: 2.0 is the mean squared error, 2.4 GPTQ's choice.
    """

    bits: Annotated[int, AtLeast(BITS[0]), AtMost(BITS[-1])]
    symmetric: bool
    granularity: Granularity
    group_size: GroupSize | None = None
    grid: Grid = "full_range"
    clip_ratio: ClipRatio = 1.0
    clip_search: ClipExponent | None = None

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

    def __post_init__(self) -> None:
        super().__post_init__()
        grouped = self.granularity == "per_group"
        if grouped != (self.group_size is not None):
            raise QuantizationError(
                f"group_size = {self.group_size} does not fit granularity = {self.granularity}: "
                "per_group needs a size, and the others have none"
            )
        if self.clip_search is not None and self.clip_ratio != 1:
            raise QuantizationError(
                f"clip_ratio = {self.clip_ratio} has no effect with clip_search = "
                f"{self.clip_search}, which searches for the ratio; set one to its default"
            )


@dataclass(frozen=True)
class Parameters:
    """Measured scale and zero point, broadcastable to the grouped view of the tensor.

    `zero` holds whole numbers in the scale's floating-point type; it is 0 when symmetric.
    """

    scale: Tensor
    zero: Tensor


@dataclass(frozen=True)
class Range:
    """The values that a scale must cover. It always contains 0, which is represented exactly.

    Attributes:
        low, high: at most 0 and at least 0; same shape, in float32 or better.
    """

    low: Tensor
    high: Tensor

    def merged(self, other: "Range") -> "Range":
        """The smallest range that covers both."""
        return Range(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))

    def parameters(self, quantizer: Quantizer) -> Parameters:
        """Scale and zero point, of the range's shape; `clip_ratio` is applied, no search.

        A range of zeros only has scale 1.
        """
        low, high = self.low * quantizer.clip_ratio, self.high * quantizer.clip_ratio
        if quantizer.symmetric:
            largest = torch.maximum(high, -low)
            full = quantizer.grid == "full_range"
            scale = _positive(
                largest / ((2**quantizer.bits - 1) / 2 if full else quantizer.highest)
            )
            return Parameters(scale, torch.zeros_like(scale))
        scale = _positive((high - low) / quantizer.highest)
        return Parameters(scale, torch.round(-low / scale))


def value_range(x: Tensor, dims: tuple[int, ...], keep: Tensor | None = None) -> Range:
    """The range of `x` over `dims`, which stay as dimensions of size 1.

    Args:
        x: any shape, at least one value.
        dims: the dimensions that share a range.
        keep: bool, broadcastable to `x`; False where a value must not count (padding).

    Raises:
        QuantizationError: a value that counts is NaN or infinite.
    """
    wide = _counted(x, keep)
    lowest, highest = wide.amin(dims, keepdim=True), wide.amax(dims, keepdim=True)
    if not bool((highest - lowest).isfinite().all()):
        raise QuantizationError(
            f"a tensor of shape {tuple(x.shape)} holds NaN, infinite or overflowing values, which "
            "no range can cover; check the weights and activations that were computed before it, "
            "or compute them in a wider floating-point type"
        )
    return Range(lowest.clamp(max=0), highest.clamp(min=0))


def parameters(x: Tensor, quantizer: Quantizer, keep: Tensor | None = None) -> Parameters:
    """Scale and zero point of `x`, after the clip search if there is one.

    Args:
        x: any shape; [..., features] with the features last.
        quantizer: what to measure.
        keep: bool, broadcastable to `x`; False where a value must not count for the ranges
            (padding). None where every value counts.

    Returns:
        Parameters with size 1 in each dimension that shares a range; for `per_group`, of the view
        [..., groups, group_size]. A range without any value or with zeros only has scale 1.

    Raises:
        QuantizationError: see `value_range`.
    """
    grouped = _grouped(x, quantizer)
    keep = None if keep is None else _grouped(keep.expand_as(x), quantizer)
    measured = value_range(grouped, _shared_dims(grouped, quantizer), keep).parameters(quantizer)
    if quantizer.clip_search is None:
        return measured
    ratio = _best_clip_ratio(_counted(grouped, keep), measured, quantizer, quantizer.clip_search)
    return Parameters(measured.scale * ratio, measured.zero)


def to_integers(x: Tensor, quantizer: Quantizer, measured: Parameters) -> Tensor:
    """The integers of `x` (same shape), as whole numbers in float32 or float64; half to even."""
    wide = _grouped(x, quantizer).to(measured.scale.dtype)
    integers = (wide / measured.scale).round_().add_(measured.zero)
    return integers.clamp_(quantizer.lowest, quantizer.highest).reshape(x.shape)


def from_integers(integers: Tensor, quantizer: Quantizer, measured: Parameters) -> Tensor:
    """The values that `integers` represent: scale * (integer - zero), same shape."""
    grouped = _grouped(integers, quantizer)
    return (grouped - measured.zero).mul_(measured.scale).reshape(integers.shape)


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight [out, in] as whole numbers (int8) times scales [out, groups].

    The numbers are what a low-bit format stores; in bfloat16, values alone would not tell them.
    """

    numbers: Tensor
    scale: Tensor

    def values(self, dtype: torch.dtype) -> Tensor:
        """[out, in]."""
        groups = self.numbers.unflatten(1, (self.scale.shape[1], -1))
        return (groups * self.scale[..., None]).flatten(1).to(dtype)


def quantize_weight(weight: Tensor, quantizer: Quantizer) -> QuantizedWeight:
    """A weight [out, in] rounded to the nearest of its symmetric grid."""
    assert quantizer.symmetric
    measured = parameters(weight, quantizer)
    integers = to_integers(weight, quantizer, measured)
    return QuantizedWeight(integers.to(torch.int8), row_scales(measured.scale, len(weight)))


def row_scales(scale: Tensor, rows: int) -> Tensor:
    """The scale (or zero point) of a weight's `Parameters` as [rows, groups]."""
    return scale.reshape(rows if scale.numel() > 1 else 1, -1).expand(rows, -1).contiguous()


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


def _counted(x: Tensor, keep: Tensor | None) -> Tensor:
    """`x` in float32 or better, 0 where it does not count: 0 is in every range, without error."""
    wide = x.to(at_least_float32(x.dtype))
    return wide if keep is None else torch.where(keep, wide, wide.new_zeros(()))


@torch.no_grad()
def _best_clip_ratio(
    wide: Tensor, measured: Parameters, quantizer: Quantizer, exponent: float
) -> Tensor:
    """The ratio with the smallest sum of |error|^exponent per range, shaped like the scale.

    The larger ratio wins a tie. Errors are in units of the unclipped step, so that they neither
    overflow nor vanish whatever the tensor's scale.
    """
    scale, zero = measured.scale.reshape(-1, 1), measured.zero.reshape(-1, 1)
    values = wide.reshape(len(scale), -1)  # shared dimensions are always the last ones
    errors = values.new_zeros(len(CLIP_RATIOS), len(scale), dtype=torch.float64)
    for rows, columns in _tiles(*values.shape):
        steps = values[rows, columns] / scale[rows]
        lowest, highest = quantizer.lowest - zero[rows], quantizer.highest - zero[rows]
        for error, ratio in zip(errors, CLIP_RATIOS, strict=True):
            rounded = (steps / ratio).round_().clamp_(lowest, highest).mul_(ratio)
            error[rows] += rounded.sub_(steps).abs_().pow_(exponent).sum(1)
    ratios = torch.tensor(CLIP_RATIOS, dtype=wide.dtype, device=wide.device)
    return ratios[errors.argmin(0)].reshape(measured.scale.shape)


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Slices that cover a matrix with at most `_TILE` values each."""
    width = min(columns, _TILE)
    height = max(1, _TILE // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


def _positive(scale: Tensor) -> Tensor:
    """1 where the scale is 0 or too small to divide by: there, every value rounds to 0 anyway."""
    tiny = torch.finfo(scale.dtype).tiny
    return torch.where(scale > tiny, scale, torch.ones_like(scale))
