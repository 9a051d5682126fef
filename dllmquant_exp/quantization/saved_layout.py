"""The tensors of a saved quantized model, by the names of its modules.

    blocks.N.q_proj     .numbers or .codes, .weight_scale [out, groups]; .bias where there is one;
                        .activation_scale and .activation_zero, one value each, of static ranges
    blocks.N.attention  .choice, the index of each alpha of static IA-AQ
    embedding, head     .weight, or .numbers or .codes and .scale [rows, 1]
    norms               .weight

Whole numbers of at most 4 bits are stored as codes, two a byte; others as int8. Scales of AWQ and
of clip searches are inside the numbers; work that is left to be done while the model runs follows
from the method's steps. Nothing here depends on a processor or on the layout of a kernel.

`entries` says how each tensor is stored; saving, checking and loading all follow it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dllmquant_exp.models.formats import CheckpointError, Shape
from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.quantization.attention import quantized_attention
from dllmquant_exp.quantization.embeddings import ends
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.linear import SMALLEST_SCALE
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS, install
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    QuantizedWeight,
    Quantizer,
)

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_WIDE = ("F32", "F64")  # scales: GPTQ may compute them in float64


@dataclass(frozen=True)
class Layout:
    """Everything that decides the tensors of a saved model; `dtype` is the model's."""

    config: TransformerConfig
    method: Method
    quant: QuantSettings
    iaaq: Iaaq | None
    dtype: torch.dtype

    def limits(self, leaf: str, grid: Quantizer | None) -> tuple[float, float]:
        """The least and the largest value of a tensor, by its name in its module."""
        if leaf == "choice":
            assert self.iaaq is not None
            return 0, len(self.iaaq.alphas) - 1
        if leaf == "activation_zero":
            ranges = self.quant.activation
            assert ranges is not None
            return (0, 0) if ranges.symmetric else (ranges.lowest, ranges.highest)
        if grid is not None:
            return grid.lowest, grid.highest
        wide = torch.finfo(torch.float64)
        if leaf.endswith("scale"):
            return SMALLEST_SCALE if leaf == "activation_scale" else wide.tiny, wide.max
        return wide.min, wide.max


@dataclass(frozen=True)
class Entry:
    """A tensor of a model, and how it is stored.

    Attributes:
        owner: the full name of the module that holds it.
        module, leaf: that module, and the tensor's name there.
        tensor: without values in an empty model.
        bits: of the whole numbers that it holds; None for other tensors.
        limits: of its values.
    """

    owner: str
    module: nn.Module
    leaf: str
    tensor: Tensor
    bits: int | None
    limits: tuple[float, float]

    @property
    def name(self) -> str:
        """Its name in the file."""
        return f"{self.owner}.{'codes' if self._coded else self.leaf}"

    @property
    def stored(self) -> Tensor:
        """Its form in the file."""
        if self.bits is None:
            return self.tensor
        numbers = self.tensor.to(torch.int8)
        return to_codes(numbers) if self._coded else numbers

    @property
    def form(self) -> tuple[Shape, tuple[str, ...]]:
        """The shape in the file, and the types that it may have there."""
        wide = self.leaf.endswith(("scale", "zero"))
        return tuple(self.stored.shape), _WIDE if wide else (DTYPES[self.stored.dtype],)

    def fill(self, stored: Tensor) -> None:
        """Give the tensor of an empty model its values.

        Raises:
            CheckpointError: values that it cannot have.
        """
        low, high = self.limits
        value = from_codes(stored, self.tensor.shape[1]) if self._coded else stored
        ends = (float(value.min()), float(value.max())) if value.numel() else (low, high)
        whole = self.leaf != "activation_zero" or bool((value % 1 == 0).all())
        if not (whole and low <= ends[0] and ends[1] <= high):  # and so if one of them is NaN
            raise CheckpointError(f"{self.name}: holds values outside {low:.3g}..{high:.3g}")
        if self.bits is not None:
            value = value.to(self.tensor.dtype)
        if isinstance(getattr(self.module, self.leaf), nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
        setattr(self.module, self.leaf, value)

    @property
    def _coded(self) -> bool:
        return self.bits is not None and self.bits <= 4


def entries(model: nn.Module, layout: Layout, prefix: str = "") -> Iterator[Entry]:
    """All tensors of a model, fake, packed or empty, or of its block whose names begin so.

    Packed linears are stored as if they were not packed.
    """
    grids = {name: grid for name, _, grid in ends(layout.quant)}
    for name, module in model.named_modules(prefix=prefix):
        plain = module.unpacked(layout.dtype) if isinstance(module, PackedLinear) else module
        for leaf, tensor in plain.state_dict().items():
            if "." not in leaf:
                grid = grids.get(name, layout.quant.weight) if leaf == "numbers" else None
                bits = None if grid is None else grid.bits
                limits = layout.limits(leaf, grid)
                yield Entry(name, module, leaf, tensor.detach(), bits, limits)


def empty_model(layout: Layout, device: torch.device) -> Transformer:
    """The quantized model in eval mode, its weights on the meta device, without values.

    Args:
        device: of the rotations that are done while the model runs.
    """
    quant, config = layout.quant, layout.config
    with torch.device("meta"):
        model = Transformer(config).to(layout.dtype)
    one = Parameters(torch.ones(()), torch.zeros(()))
    static = dict.fromkeys(BLOCK_LINEARS, one) if quant.static else {}
    for block in blocks_of(model):
        layout.method.restore(block, device)
        weights = {
            name: _no_numbers(block.get_parameter(f"{name}.weight"), quant.weight)
            for name in BLOCK_LINEARS
            if quant.weight is not None
        }
        install(block, quant, layout.iaaq, weights, static)
        attention = quantized_attention(block)
        if attention is not None and layout.iaaq is not None and layout.iaaq.static:
            shape = layout.iaaq.choice_shape(config.n_kv_heads, config.head_dim)
            attention.choice = torch.zeros(shape, dtype=torch.int64, device="meta")
    for name, module, quantizer in ends(quant):
        rounded = _no_numbers(model.get_parameter(f"{name}.weight"), quantizer)
        model.set_submodule(name, module(rounded, layout.dtype))
    return model.requires_grad_(False).eval()


def _no_numbers(weight: Tensor, quantizer: Quantizer) -> QuantizedWeight:
    """A rounded weight of another one's shape, without values."""
    rows, columns = weight.shape
    groups = columns // (quantizer.group_size or columns)
    return QuantizedWeight(
        torch.empty(rows, columns, dtype=torch.int8, device="meta"),
        torch.empty(rows, groups, device="meta"),
    )


def stored_tensors(model: Transformer, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a quantized model, fake or packed, as they are stored.

    Raises:
        QuantizationError: a model that is not of this layout.
    """
    empty = empty_model(layout, torch.device("meta"))
    missing = {entry.name: entry.form for entry in entries(empty, layout)}
    for entry in entries(model, layout):
        stored = entry.stored
        shape, dtypes = missing.pop(entry.name, (None, ()))
        if stored.shape != shape or DTYPES[stored.dtype] not in dtypes:
            found = f"{list(stored.shape)} in {DTYPES[stored.dtype]}"
            raise QuantizationError(
                f"{entry.name} is {found}, and these settings want {shape} in {' or '.join(dtypes)}"
            )
        yield entry.name, stored
    if missing:
        raise QuantizationError(f"the model has no such tensors to save: {', '.join(missing)}")


def to_codes(numbers: Tensor) -> Tensor:
    """Whole numbers -8..7 [out, in] as bytes [out, ceil(in / 2)].

    Byte j of a row holds number 2j in its low and 2j + 1 in its high four bits, each plus 8; behind
    an odd number of inputs stands a zero.
    """
    padded = nn.functional.pad(numbers, (0, numbers.shape[1] % 2))
    low, high = (padded + 8).to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    return low | (high << 4)


def from_codes(codes: Tensor, inputs: int) -> Tensor:
    """The numbers of `to_codes`, int8 [out, inputs]."""
    pairs = torch.stack((codes & 15, codes >> 4), dim=2).flatten(1)
    return pairs[:, :inputs].to(torch.int8) - 8
