"""The tensors of a saved quantized model: names, shapes, types; out of a model and back into one.

    embedding, head            .weight, or .numbers (int8) and .scale [rows, 1]
    final_norm                 .weight
    blocks.N.attention_norm    .weight, and ffn_norm's
    blocks.N.q_proj (of seven) .codes  4 bits or fewer: two numbers a byte, see `to_codes`
                               .numbers  more than 4 bits: int8 [out, in]
                               .weight  where weights are not quantized
                               .scale [out, groups]; .bias where there is one
                               .activation_scale and .activation_zero, one value each, where ranges
                               are static
    blocks.N.attention         .choice, the index of each alpha of static IA-AQ

Scales of rotations, AWQ and clip searches are inside these; what stays to be done while the model
runs follows from the settings. Nothing here depends on a processor or on a kernel's own layout.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dllmquant_exp.models.formats import Shape
from dllmquant_exp.models.transformer import Block, Transformer, TransformerConfig
from dllmquant_exp.quantization.attention import QuantizedAttention
from dllmquant_exp.quantization.attention_settings import IaaqSettings
from dllmquant_exp.quantization.linear import SMALLEST_SCALE, QuantizedLinear
from dllmquant_exp.quantization.packed import PackedLinear, pack_model
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS, install
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    QuantizedWeight,
    Quantizer,
)
from dllmquant_exp.quantization.rotation import RotatedAttention, RotatedLinear, online_rotations
from dllmquant_exp.quantization.rows import QuantizedEmbedding, QuantizedHead
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_WIDE = ("F32", "F64")  # scales: GPTQ may find them in float64


@dataclass(frozen=True)
class Layout:
    """What decides the tensors of a saved model."""

    config: TransformerConfig
    method: MethodSettings
    quant: QuantSettings
    iaaq: IaaqSettings | None
    dtype: torch.dtype  # of the model


@dataclass(frozen=True)
class Expected:
    """A tensor's shape, the types it may have, and its whole numbers' limits, where it has some."""

    shape: Shape
    dtypes: tuple[str, ...]
    limits: tuple[int, int] | None = None


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


def expected_tensors(layout: Layout) -> dict[str, Expected]:
    """Every tensor of a saved model, in the order in which they are written."""
    config, quant = layout.config, layout.quant
    plain = (DTYPES[layout.dtype],)
    rows = (config.vocab_size, config.d_model)
    found = _ends("embedding", rows, quant.rows(quant.embedding_bits), plain)
    with torch.device("meta"):
        block = Block(config)
    for n in range(config.n_layers):
        inside = _block_tensors(block, layout, plain)
        found |= {f"blocks.{n}.{name}": tensor for name, tensor in inside.items()}
    found["final_norm.weight"] = Expected((config.d_model,), plain)
    return found | _ends("head", rows, quant.rows(quant.head_bits), plain)


def _ends(
    name: str, shape: Shape, quantizer: Quantizer | None, plain: tuple[str, ...]
) -> dict[str, Expected]:
    if quantizer is None:
        return {f"{name}.weight": Expected(shape, plain)}
    return {
        f"{name}.numbers": Expected(shape, ("I8",), (quantizer.lowest, quantizer.highest)),
        f"{name}.scale": Expected((shape[0], 1), _WIDE),
    }


def _block_tensors(block: Block, layout: Layout, plain: tuple[str, ...]) -> dict[str, Expected]:
    quant, config = layout.quant, layout.config
    norm = Expected((config.d_model,), plain)
    found = {"attention_norm.weight": norm, "ffn_norm.weight": norm}
    weight, activation = quant.weight, quant.activation
    for name in BLOCK_LINEARS:
        linear = block.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        out, inputs = linear.out_features, linear.in_features
        if weight is None:
            found[f"{name}.weight"] = Expected((out, inputs), plain)
        else:
            limits = (weight.lowest, weight.highest)
            if weight.bits <= 4:
                codes = Expected((out, -(-inputs // 2)), ("U8",), limits)
                found[f"{name}.codes"] = codes
            else:
                found[f"{name}.numbers"] = Expected((out, inputs), ("I8",), limits)
            groups = inputs // weight.group_size if weight.group_size else 1
            found[f"{name}.scale"] = Expected((out, groups), _WIDE)
        if linear.bias is not None:
            found[f"{name}.bias"] = Expected((out,), plain)
        if quant.static and activation is not None:
            found[f"{name}.activation_scale"] = Expected((), _WIDE)
            zeros = (0, 0) if activation.symmetric else (activation.lowest, activation.highest)
            found[f"{name}.activation_zero"] = Expected((), _WIDE, zeros)
    iaaq = layout.iaaq
    if iaaq is not None and iaaq.mode == "static":
        heads = 1 if iaaq.granularity == "per_tensor" else config.n_kv_heads
        channels = config.head_dim if iaaq.granularity == "per_channel" else 1
        last = len(iaaq.alphas) - 1
        found["attention.choice"] = Expected((1, heads, 1, channels), ("I64",), (0, last))
    return found


def model_tensors(model: Transformer, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a quantized model, fake or packed, in the order of `expected_tensors`.

    Raises:
        QuantizationError: a model that is not of this layout.
    """
    for name, expected in expected_tensors(layout).items():
        owner, _, leaf = name.rpartition(".")
        tensor = _tensor(model.get_submodule(_inner(model, owner)), leaf)
        stored = None if tensor is None else (tuple(tensor.shape), DTYPES.get(tensor.dtype))
        if tensor is None or stored is None or stored[0] != expected.shape:
            raise QuantizationError(f"{name}: the model has no such tensor to save, or {stored}")
        if stored[1] not in expected.dtypes:
            raise QuantizationError(f"{name} is in {tensor.dtype}, not in {expected.dtypes}")
        yield name, tensor


def _inner(model: nn.Module, name: str) -> str:
    """Where keys are rotated, the attention that quantizes lies inside the one that rotates."""
    inside = name.endswith(".attention") and isinstance(model.get_submodule(name), RotatedAttention)
    return f"{name}.inner" if inside else name


def _tensor(module: nn.Module, leaf: str) -> Tensor | None:
    if isinstance(module, QuantizedAttention):
        return module.choice
    if leaf.startswith("activation_") or leaf == "bias":
        found = getattr(module, leaf)
        return None if found is None else found.detach().cpu()
    rounded = rounded_weight(module)
    if leaf in ("codes", "numbers", "scale"):
        if rounded is None:
            return None
        if leaf == "scale":
            return rounded.scale.cpu()
        return to_codes(rounded.numbers.cpu()) if leaf == "codes" else rounded.numbers.cpu()
    weight = module.weight
    assert isinstance(weight, Tensor)
    return None if rounded is not None else weight.detach().cpu()


def rounded_weight(module: nn.Module) -> QuantizedWeight | None:
    """Whole numbers and scales of a linear, an embedding or a head; None in full precision."""
    if isinstance(module, PackedLinear | QuantizedEmbedding | QuantizedHead):
        return module.rounded
    if isinstance(module, QuantizedLinear) and module.weight_scale is not None:
        return QuantizedWeight(module.numbers.to(torch.int8), module.weight_scale)
    return None


def value_problems(name: str, tensor: Tensor, expected: Expected) -> list[str]:
    """What is wrong with a stored tensor's values; shape and type are checked before."""
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


def empty_model(layout: Layout) -> Transformer:
    """A model in full precision without values, on the meta device, rotated where it is to be."""
    with torch.device("meta"):
        model = Transformer(layout.config).to(layout.dtype)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def fill_ends(model: Transformer, tensors: Mapping[str, Tensor]) -> None:
    """Put embedding, final norm and head in place; `tensors` by their full names."""
    made = {"embedding": QuantizedEmbedding, "head": QuantizedHead}
    for name, module in made.items():
        if f"{name}.numbers" in tensors:
            rounded = QuantizedWeight(tensors[f"{name}.numbers"], tensors[f"{name}.scale"])
            dtype = model.get_submodule(name).weight.dtype
            assert isinstance(dtype, torch.dtype)
            model.set_submodule(name, module(rounded, dtype).eval())
        else:
            _set_parameter(model.get_submodule(name), "weight", tensors[f"{name}.weight"])
    _set_parameter(model.final_norm, "weight", tensors["final_norm.weight"])


def fill_block(
    block: Block, layout: Layout, tensors: Mapping[str, Tensor], device: torch.device, packed: bool
) -> None:
    """Make an empty block the quantized one; `tensors` by their names inside the block."""
    weights: dict[str, QuantizedWeight] = {}
    ranges: dict[str, Parameters] = {}
    rotations = online_rotations(block) if layout.method.rotation is not None else {}
    for norm in ("attention_norm", "ffn_norm"):
        _set_parameter(block.get_submodule(norm), "weight", tensors[f"{norm}.weight"])
    for name in BLOCK_LINEARS:
        linear = block.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        if f"{name}.bias" in tensors:
            _set_parameter(linear, "bias", tensors[f"{name}.bias"])
        if f"{name}.weight" in tensors:
            _set_parameter(linear, "weight", tensors[f"{name}.weight"])
        else:
            codes = tensors.get(f"{name}.codes")
            numbers = (
                tensors[f"{name}.numbers"]
                if codes is None
                else from_codes(codes, linear.in_features)
            )
            weights[name] = QuantizedWeight(numbers, tensors[f"{name}.scale"])
        if f"{name}.activation_scale" in tensors:
            found = (tensors[f"{name}.activation_{part}"] for part in ("scale", "zero"))
            ranges[name] = Parameters(*found)
        if name in rotations:
            rotation = rotations[name].to(device)
            setattr(block, name, RotatedLinear(linear.weight, linear.bias, rotation).eval())
    if layout.method.rotation is not None and layout.method.rotation.keys:
        block.attention = RotatedAttention(block.attention, block.head_dim).to(device)
    install(block, layout.quant, layout.iaaq, weights, ranges)
    for module in block.modules():
        if isinstance(module, QuantizedAttention):
            module.choice = tensors.get("attention.choice")
    block.eval()
    if packed:
        pack_model(block)


def _set_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value, requires_grad=False))
