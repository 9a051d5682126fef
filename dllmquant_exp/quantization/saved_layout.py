"""The tensors of a saved quantized model, by the names of its modules.

    blocks.N.q_proj     .numbers or .codes, .weight_scale [out, groups]; .bias where there is one;
                        .activation_scale and .activation_zero, one value each, of static ranges
    blocks.N.attention  .choice, the index of each alpha of static IA-AQ
    embedding, head     .weight, or .numbers or .codes and .scale [rows, 1]
    norms               .weight

Whole numbers of at most 4 bits are stored as codes, two a byte; others as int8. Scales of AWQ and
of clip searches are inside the numbers; work that is left to be done while the model runs follows
from the method's steps. Nothing here depends on a processor or on the layout of a kernel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dllmquant_exp.models.formats import Shape
from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import Block, Transformer, TransformerConfig
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


@dataclass(frozen=True)
class Expected:
    """A tensor's shape, the types it may have, and its whole numbers' limits, where it has some."""

    shape: Shape
    dtypes: tuple[str, ...]
    limits: tuple[int, int] | None = None


def empty_model(layout: Layout, device: torch.device) -> Transformer:
    """The quantized model in eval mode, its weights on the meta device, without values.

    Args:
        device: of the rotations that are done while the model runs.
    """
    quant, config = layout.quant, layout.config
    with torch.device("meta"):
        model = Transformer(config).to(layout.dtype)
    for block in blocks_of(model):
        layout.method.restore(block, device)
        weights = {
            name: _no_numbers(block.get_submodule(name), quant.weight)
            for name in BLOCK_LINEARS
            if quant.weight is not None
        }
        static = Parameters(torch.ones(()), torch.zeros(()))
        install(
            block,
            quant,
            layout.iaaq,
            weights,
            dict.fromkeys(BLOCK_LINEARS, static) if quant.static else {},
        )
        attention = quantized_attention(block)
        if attention is not None and layout.iaaq is not None and layout.iaaq.static:
            shape = layout.iaaq.choice_shape(config.n_kv_heads, config.head_dim)
            attention.choice = torch.zeros(shape, dtype=torch.int64, device="meta")
    for name, module, quantizer in ends(quant):
        rounded = _no_numbers(model.get_submodule(name), quantizer)
        model.set_submodule(name, module(rounded, layout.dtype))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _no_numbers(linear: nn.Module, quantizer: Quantizer) -> QuantizedWeight:
    """A rounded weight in the shape of a linear's, without values."""
    assert isinstance(linear.weight, Tensor)
    rows, columns = linear.weight.shape
    groups = columns // (quantizer.group_size or columns)
    return QuantizedWeight(
        torch.empty(rows, columns, dtype=torch.int8, device="meta"),
        torch.empty(rows, groups, device="meta"),
    )


def expected_tensors(empty: Transformer, layout: Layout) -> dict[str, Expected]:
    """Every tensor of a saved model, in the order in which they are written."""
    found = {}
    for name, tensor in _tensors(empty, layout.dtype):
        grid = _grid(name, layout.quant)
        stored = _stored(name, tensor, grid)
        dtypes = _WIDE if name.endswith(("scale", "zero")) else (DTYPES[stored[1].dtype],)
        limits = None if grid is None else (grid.lowest, grid.highest)
        if name.endswith(".choice") and layout.iaaq is not None:
            limits = (0, len(layout.iaaq.alphas) - 1)
        if name.endswith(".activation_zero") and layout.quant.activation is not None:
            ranges = layout.quant.activation
            limits = (0, 0) if ranges.symmetric else (ranges.lowest, ranges.highest)
        found[stored[0]] = Expected(tuple(stored[1].shape), dtypes, limits)
    return found


def model_tensors(model: Transformer, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a quantized model, fake or packed, in the order of `expected_tensors`.

    Raises:
        QuantizationError: a model that is not of this layout.
    """
    missing = expected_tensors(empty_model(layout, torch.device("meta")), layout)
    for name, tensor in _tensors(model, layout.dtype):
        name, stored = _stored(name, tensor.detach().cpu(), _grid(name, layout.quant))
        found, wanted = (
            Expected(tuple(stored.shape), (DTYPES[stored.dtype],)),
            missing.pop(name, None),
        )
        if wanted is None or found.shape != wanted.shape or found.dtypes[0] not in wanted.dtypes:
            raise QuantizationError(f"{name} is {found}, and these settings want {wanted}")
        yield name, stored
    if missing:
        raise QuantizationError(f"the model has no such tensors to save: {', '.join(missing)}")


def fill(
    module: Transformer | Block, layout: Layout, tensors: Mapping[str, Tensor], prefix: str = ""
) -> None:
    """Give an empty model or block its values.

    Args:
        tensors: as stored, by their names in the module; those that are missing stay empty.
        prefix: of the module's name in the model.
    """
    for name, empty in list(_tensors(module, layout.dtype)):
        grid = _grid(prefix + name, layout.quant)
        stored = tensors.get(_stored(name, empty, grid)[0])
        if stored is None:
            continue
        if grid is not None:
            codes = stored.dtype == torch.uint8
            numbers = from_codes(stored, empty.shape[1]) if codes else stored
            stored = numbers.to(empty.dtype)
        owner, _, leaf = name.rpartition(".")
        place = module.get_submodule(owner)
        is_parameter = isinstance(getattr(place, leaf), nn.Parameter)
        setattr(place, leaf, nn.Parameter(stored, requires_grad=False) if is_parameter else stored)


def _tensors(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Each module's own tensors by their full names, packed linears as if they were not packed."""
    for name, module in model.named_modules():
        plain = module.unpacked(dtype) if isinstance(module, PackedLinear) else module
        for leaf, tensor in plain.state_dict().items():
            if "." not in leaf:
                yield f"{name}.{leaf}", tensor


def _grid(name: str, quant: QuantSettings) -> Quantizer | None:
    """The grid of the whole numbers that a tensor holds; None for other tensors."""
    owner, _, leaf = name.rpartition(".")
    if leaf != "numbers":
        return None
    rows = {end: quantizer for end, _, quantizer in ends(quant)}
    return rows.get(owner, quant.weight)


def _stored(name: str, tensor: Tensor, grid: Quantizer | None) -> tuple[str, Tensor]:
    """A tensor's name and form in the file."""
    if grid is None:
        return name, tensor
    numbers = tensor.to(torch.int8)
    if grid.bits > 4:
        return name, numbers
    return f"{name.removesuffix('numbers')}codes", to_codes(numbers)


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


def value_problems(name: str, tensor: Tensor, expected: Expected) -> list[str]:
    """Faults of a stored tensor's values; shape and type are checked before."""
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        return [f"{name}: holds NaN or infinite values"]
    if name.endswith("scale") and not bool((tensor > 0).all()):
        return [f"{name}: holds a scale that is not positive"]
    if name.endswith("activation_scale") and float(tensor) < SMALLEST_SCALE:
        return [f"{name}: holds a scale too small to divide by"]
    if expected.limits is None or not tensor.numel():
        return []
    low, high = expected.limits
    if name.endswith(".codes"):
        tensor, low, high = torch.stack((tensor & 15, tensor >> 4)), low + 8, high + 8
    if int(tensor.min()) < low or int(tensor.max()) > high or bool((tensor % 1 != 0).any()):
        return [f"{name}: holds numbers outside {expected.limits[0]}..{expected.limits[1]}"]
    return []
