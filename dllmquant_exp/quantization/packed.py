"""Linear layers that are stored and multiplied in low bits: 4-bit weights, two per byte, times
activations of up to 8 bits, in integers.

A `PackedLinear` takes the place of a `QuantizedLinear` and computes the same numbers. Both round
the same activations to the same integers, multiply and add them exactly, and scale the sums in the
same order, so they agree to the last bit, in float32 and in bfloat16 (as long as sums stay below
2^24, which floating point needs, and scales are no wider than float32). An online Hadamard rotation
in front is the same function in both (see kernels/fast_hadamard.py), so that this holds behind it
too.

The kernels are C (kernels/). Where they cannot run, a layer unpacks its weight on each call and
multiplies as `QuantizedLinear` does; kernels/library.py logs that once.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.kernels.layout import pack, unpack
from dllmquant_exp.quantization.kernels.library import (
    DONE,
    NO_MEMORY,
    NOT_FINITE,
    Grid,
    Kernels,
    Linear,
    kernels,
)
from dllmquant_exp.quantization.linear import Padding, QuantizedLinear, RoundedInput
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    parameters,
)


class PackedLinear(RoundedInput):
    """y = Q(R x) W^T + b as `QuantizedLinear`, multiplied in integers.

    Inputs in float32, or in a narrower type that is converted to it; a bias is then added in that
    type, as by `QuantizedLinear`. Everything is in buffers: the module moves, copies, pickles and
    saves like any other, and what it saves does not depend on the processor.

    Args:
        weight: of at most 4 bits with a scale per output channel.
        bias, activation, padding, measured, rotation: see `RoundedInput`; the activations must be
            quantized, and not per group.

    Raises:
        QuantizationError: what cannot be packed.
    """

    packed: Tensor  # see `pack`
    weight_sums: Tensor  # int32 [out], of each output's whole numbers, for the zero point
    weight_scale: Tensor  # [out, 1]
    activation: Quantizer

    def __init__(
        self,
        weight: QuantizedWeight,
        bias: Tensor | None,
        activation: Quantizer,
        padding: Padding | None = None,
        measured: Parameters | None = None,
        rotation: nn.Module | None = None,
    ) -> None:
        super().__init__(bias, activation, padding, measured, rotation)
        for several, named, setting in (
            (weight.scale.shape[1] > 1, "weight has", "weight_granularity=per_channel"),
            (activation.group_size, "activations have", "activation_granularity=per_token"),
        ):
            if several:
                raise QuantizationError(
                    f"its {named} a scale per group, and sums of integers can only be scaled as a "
                    f"whole; use {setting}, or execution=fake"
                )
        self.out_features, self.in_features = weight.numbers.shape
        self.register_buffer("packed", pack(weight.numbers))
        self.register_buffer("weight_sums", weight.numbers.sum(1, dtype=torch.int32))
        self.register_buffer("weight_scale", weight.scale)
        per_token = activation.granularity == "per_token" and activation.clip_search is None
        self._kernel_measures = per_token and measured is None

    @property
    def rounded(self) -> QuantizedWeight:
        """The weight as whole numbers and scales."""
        return QuantizedWeight(
            unpack(self.packed, self.out_features, self.in_features), self.weight_scale
        )

    @property
    def weight(self) -> Tensor:
        """The weight's values, [out_features, in_features], in the scales' type."""
        return self.rounded.values(self.weight_scale.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features], in the type of x.

        Raises:
            QuantizationError: values that no range can cover, or that this layer cannot take.
        """
        if x.shape[-1] != self.in_features or x.dtype == torch.float64 or x.device.type != "cpu":
            raise QuantizationError(
                f"a packed layer of {self.in_features} inputs cannot take {x.shape[-1]} in "
                f"{x.dtype} on {x.device.type}; it takes float32 and narrower types on the CPU"
            )
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.out_features)
        found = kernels()
        return self.unpacked(x.dtype)(x) if found is None else self._multiplied(x, found)

    def _multiplied(self, x: Tensor, found: Kernels) -> Tensor:
        if self.rotation is not None:
            x = rotated(x, self.rotation)
        scale, zero = self._given(x)
        rows = x.detach().reshape(-1, self.in_features).float()
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        y = rows.new_empty(len(rows), self.out_features)
        # Kept in names as long as the kernel works: it sees addresses only.
        weight_scale = self.weight_scale.float().contiguous()
        bias = self.bias
        inside = None if bias is None or x.dtype != torch.float32 else bias.float().contiguous()
        linear = Linear(
            self.in_features,
            self.out_features,
            self.packed.data_ptr(),
            self.weight_sums.data_ptr(),
            weight_scale.data_ptr(),
            None if inside is None else inside.data_ptr(),
            _grid(self.activation, scale, zero),
        )
        result = found.packed_linear(linear, rows, y)
        if result == NO_MEMORY:
            raise MemoryError(f"a packed layer has no memory for {len(rows)} rows of whole numbers")
        if result == NOT_FINITE:
            parameters(x, self.activation)  # raises, as in a QuantizedLinear
        assert result == DONE
        y = y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)
        return y if bias is None or inside is not None else y.add_(bias)

    def _given(self, x: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Scale and zero point, of one value or of one per row; none where the kernel measures."""
        if self._kernel_measures:
            return None, None
        measured = self.ranges(x, self.activation)
        scale, zero = measured.scale.float(), measured.zero.float()
        if scale.numel() == 1:
            return scale, zero
        shape = (*x.shape[:-1], 1)
        return scale.expand(shape).flatten(), zero.expand(shape).flatten()

    def unpacked(self, dtype: torch.dtype) -> QuantizedLinear:
        """The same layer as it computes in floating point, for inputs in `dtype`."""
        return QuantizedLinear(
            self.rounded,
            self.bias,
            self.activation,
            self.padding,
            self.measured,
            self.rotation,
            dtype,
        )


def _grid(quantizer: Quantizer, scale: Tensor | None, zero: Tensor | None) -> Grid:
    """A quantizer as the kernel sees it: numbers without sign, and given scales, if any."""
    offset = 2 ** (quantizer.bits - 1) if quantizer.symmetric else 0
    halves = quantizer.symmetric and quantizer.grid == "full_range"
    given = 0 if scale is None or zero is None else 1 if scale.numel() == 1 else 2
    return Grid(
        quantizer.lowest + offset,
        quantizer.highest + offset,
        (2**quantizer.bits - 1) / 2 if halves else quantizer.highest,
        quantizer.clip_ratio,
        offset,
        quantizer.symmetric,
        given,
        None if scale is None else scale.data_ptr(),
        None if zero is None else zero.data_ptr(),
    )


def pack_linear(layer: QuantizedLinear) -> PackedLinear:
    """The packed form of a fake-quantized layer.

    Raises:
        QuantizationError: what cannot be packed.
    """
    rounded = layer.rounded
    if rounded is None:
        raise QuantizationError(
            "its weight is not quantized; use weight_bits of at most 4, or execution=fake"
        )
    if layer.activation is None:
        raise QuantizationError(
            "its activations are not quantized, and integers can only be multiplied with integers; "
            "use activation_bits of at most 8, or execution=fake"
        )
    if rounded.numbers.dtype == torch.float64:
        raise QuantizationError(
            "the model is in float64, and packed layers compute in float32; use dtype=float32, or "
            "execution=fake"
        )
    weight = replace(rounded, numbers=rounded.numbers.to(torch.int8))
    packed = PackedLinear(
        weight, layer.bias, layer.activation, layer.padding, layer.measured, layer.rotation
    )
    return packed.train(layer.training)


def pack_model(model: nn.Module) -> list[str]:
    """Replace every fake-quantized linear of a model by its packed form, or none of them.

    Returns:
        The names of the layers.

    Raises:
        QuantizationError: a layer that cannot be packed, named, or a model without any.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    if not found:
        raise QuantizationError(
            "the model has no quantized linears to pack: quantize it first, with weights and "
            "activations of few bits"
        )
    packed = {}
    for name, layer in found.items():
        try:
            packed[name] = pack_linear(layer)
        except QuantizationError as error:
            raise QuantizationError(f"{name} cannot be packed: {error}") from error
    for name, replacement in packed.items():
        model.set_submodule(name, replacement)
    return list(packed)
