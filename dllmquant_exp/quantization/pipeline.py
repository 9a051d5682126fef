"""A quantization method applied to a whole model in place, block by block.

    fp     nothing is touched
    rtn    every weight to the nearest value of its grid
    awq    scales and clips found on calibration states, then to the nearest
    gptq   rounding errors passed on, by second moments of the calibration inputs
    quarot rotated, then gptq

A method is a composition (`MethodSettings`), so awq followed by gptq is one too. Blocks that are
done feed the next ones, with quantized weights and activations as they are (as GPTQ, AWQ and QuaRot
do); inside a block the order is q, k, v; o; gate, up; down. In memory at a time are the model, the
inputs of one block and one second moment.

Seven linears per block are quantized in both architectures: q, k, v, o, gate, up and down
projections. Head and embedding are weight-only and have bits of their own (16 = untouched), see
rows.py.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import Block, Transformer, at_least_float32
from dllmquant_exp.quantization.attention import QuantizedAttention, fix_alphas
from dllmquant_exp.quantization.attention_settings import IaaqSettings
from dllmquant_exp.quantization.awq import as_clipped, awq_block
from dllmquant_exp.quantization.blockwise import (
    BlockBatch,
    TokenBatch,
    first_block_batches,
    linear_inputs,
)
from dllmquant_exp.quantization.gptq import gptq_shared
from dllmquant_exp.quantization.hessian import Hessian
from dllmquant_exp.quantization.kept_blocks import Rounded, intact_blocks, kept_or_made
from dllmquant_exp.quantization.linear import Padding, QuantizedLinear, RangeObserver
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.quantization.quantizers import (
    OFF,
    Parameters,
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    quantize_weight,
)
from dllmquant_exp.quantization.reports import LayerReport, QuantReport
from dllmquant_exp.quantization.rotation import RotatedAttention, RotatedLinear, rotate
from dllmquant_exp.quantization.rows import QuantizedEmbedding, QuantizedHead
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings

# Layers that share an input share its second moment; each group sees the ones before it quantized.
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
BLOCK_LINEARS = tuple(name for group in GROUPS for name in group)


def needs_calibration(
    method: MethodSettings, settings: QuantSettings | None, iaaq: IaaqSettings | None = None
) -> bool:
    """True where `quantize` measures calibration states."""
    if not method.quantizes or settings is None:
        return False
    solved = settings.weight is not None and (method.awq or method.gptq is not None)
    return solved or settings.static or (iaaq is not None and iaaq.mode == "static")


def quantize(
    model: Transformer,
    method: MethodSettings,
    settings: QuantSettings | None,
    *,
    calibration: Sequence[TokenBatch] = (),
    iaaq: IaaqSettings | None = None,
    work_folder: Path | None = None,
) -> QuantReport:
    """Quantize `model` in place.

    Args:
        model: in full precision, on any device and in any floating-point type.
        method: what is done; see the module's docstring.
        settings: what is quantized; fp has no settings and takes None or ignores them.
        calibration: states, where `needs_calibration`.
        iaaq: IA-AQ's search for V's scale, or None.
        work_folder: where rounded blocks are kept. A call with the same model, method, calibration
            and settings of weights and activations (the caller's promise) reads them instead of
            making them again, be it after a kill or for another choice of `iaaq` and of what is
            quantized in attention, on which they do not depend. None keeps nothing.

    Returns:
        A report of every weight touched.

    Raises:
        QuantizationError: settings that do not fit the model or each other, a model that is
            quantized already, or calibration that is missing, empty or not finite.
    """
    _check(model, method, settings, calibration, iaaq)
    if not method.quantizes or settings is None:
        return QuantReport(method.name, None, (), 0, None)
    with torch.no_grad():
        return _quantize(model, method, settings, calibration, iaaq, work_folder)


def _quantize(
    model: Transformer,
    method: MethodSettings,
    settings: QuantSettings,
    calibration: Sequence[TokenBatch],
    iaaq: IaaqSettings | None,
    work_folder: Path | None,
) -> QuantReport:
    rotation = method.rotation
    rotated = None if rotation is None else rotate(model, rotation.seed, keys=rotation.keys)
    blocks = list(blocks_of(model))
    reads = settings.static or (iaaq is not None and iaaq.mode == "static")
    kept = intact_blocks(work_folder, len(blocks))
    made_now = len(kept) < len(blocks)
    calibrated = needs_calibration(method, settings, iaaq) and (reads or made_now)
    batches = first_block_batches(model, calibration) if calibrated else []
    layers: list[LayerReport] = []
    awq: list[dict[str, Any]] = []
    alphas: list[list[Any]] = []
    title = f"quantizing, {method.name}"
    for n, block in enumerate(track(blocks, title, transient=True, disable=not calibrated)):
        made, weights = kept_or_made(
            work_folder,
            n,
            block,
            lambda: _round_block(block, batches, method, settings),  # noqa: B023
            kept=n in kept,
        )
        layers += [
            LayerReport(**{**layer, "name": f"blocks.{n}.{layer['name']}"})
            for layer in made["layers"]
        ]
        awq += made["awq"]
        ranges, after = _advance(block, batches, settings)
        install(block, settings, iaaq, weights, ranges)
        if iaaq is not None and iaaq.mode == "static":
            alphas.append(fix_alphas(block, batches).flatten().tolist())
        batches = after
    errors = [layer.relative_weight_error for layer in layers]
    return QuantReport(
        method=method.name,
        settings=settings,
        layers=(*layers, *_quantize_ends(model, settings)),
        block_linears=len(layers),
        mean_relative_weight_error=sum(errors) / len(errors) if errors else None,
        rotation=None if rotated is None else asdict(rotated),
        awq=tuple(awq),
        alphas=tuple(alphas),
        notes=tuple(_notes(layers)),
    )


def _round_block(
    block: Block, batches: Sequence[BlockBatch], method: MethodSettings, settings: QuantSettings
) -> Rounded:
    """Round a block's weights in place, in full precision otherwise."""
    if settings.weight is None and settings.activation is None:
        return {"layers": [], "awq": []}, {}
    awq, quantizer = [], settings.weight
    if method.awq and quantizer is not None:
        awq.append(asdict(awq_block(block, batches, quantizer, settings.activation)))
        quantizer = as_clipped(quantizer)
    layers: list[dict[str, Any]] = []
    found: dict[str, QuantizedWeight] = {}
    for group in GROUPS:
        weights = [_weight(block, name) for name in group]
        details: list[dict[str, Any] | None] = [None] * len(group)
        if quantizer is not None and method.gptq is not None:
            hessian = Hessian(weights[0].shape[1], method.gptq.torch_dtype, weights[0].device)
            for batch in batches:
                hessian.add(*linear_inputs(block, group[0], batch))
            results = gptq_shared(weights, hessian.matrix(), quantizer, method.gptq)
            found |= {name: result.rounded for name, result in zip(group, results, strict=True)}
            mean = hessian.total_weight / hessian.tokens
            details = [
                {k: v for k, v in vars(result).items() if k not in ("weight", "rounded")}
                | {"tokens": hessian.tokens, "mean_token_weight": mean}
                for result in results
            ]
        elif quantizer is not None:
            found |= {
                name: quantize_weight(weight, quantizer)
                for name, weight in zip(group, weights, strict=True)
            }
        for name, weight, detail in zip(group, weights, details, strict=True):
            value = found[name].values(weight.dtype) if name in found else weight
            layer = LayerReport(
                name=name,
                parameters=weight.numel(),
                weight_bits=settings.weight_bits,
                activation_bits=settings.activation_bits,
                relative_weight_error=_relative_error(weight, value),
                gptq=detail,
            )
            layers.append(asdict(layer))
            weight.copy_(value)
    return {"layers": layers, "awq": awq}, found


def _weight(block: Block, name: str) -> Tensor:
    weight = block.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _advance(
    block: Block, batches: Sequence[BlockBatch], settings: QuantSettings
) -> tuple[dict[str, Parameters], list[BlockBatch]]:
    """Run the rounded block on: static ranges of its linears' inputs, and the next one's inputs."""
    if not settings.static or settings.activation is None:
        return {}, [batch.advanced(block) for batch in batches]
    padding = Padding()
    observers = {name: RangeObserver(padding) for name in BLOCK_LINEARS}
    hooks = [block.register_forward_pre_hook(padding.read)]
    for name, observer in observers.items():
        hooks.append(block.get_submodule(name).register_forward_pre_hook(observer.read))
    after = [batch.advanced(block) for batch in batches]
    for hook in hooks:
        hook.remove()
    return {name: o.parameters(settings.activation) for name, o in observers.items()}, after


def install(
    block: Block,
    settings: QuantSettings,
    iaaq: IaaqSettings | None,
    weights: dict[str, QuantizedWeight],
    ranges: dict[str, Parameters],
) -> None:
    """Put quantized linears and quantized attention in the places of a block's own.

    Args:
        weights: rounded ones by the name of their linear; the others keep theirs.
        ranges: static ones of the linears' inputs, by the same names.
    """
    if settings.weight is not None or settings.activation is not None:
        padding = _padding_of(block, settings.activation)
        for name in BLOCK_LINEARS:
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear | RotatedLinear)
            quantized = QuantizedLinear(
                weights.get(name, linear.weight),
                linear.bias,
                settings.activation,
                padding,
                ranges.get(name),
                getattr(linear, "rotation", None),
                linear.weight.dtype,
            )
            setattr(block, name, quantized)
    if settings.attention is not None:
        quantized_attention = QuantizedAttention(settings.attention, iaaq)
        if isinstance(block.attention, RotatedAttention):
            block.attention.inner = quantized_attention
        else:
            block.attention = quantized_attention


def _notes(layers: Sequence[LayerReport]) -> list[str]:
    raised = [x for x in layers if x.gptq is not None and x.gptq["escalations"]]
    if not raised:
        return []
    most = max(x.gptq["escalations"] for x in raised if x.gptq is not None)
    return [
        f"GPTQ raised the damping by up to 10^{most} for {len(raised)} of {len(layers)} linears, "
        f"whose second moments could not be factorized: {', '.join(x.name for x in raised[:7])}"
    ]


def _quantize_ends(model: Transformer, settings: QuantSettings) -> list[LayerReport]:
    """Embedding and head: weights only, one range per row."""
    reports = []
    for name, bits in (("embedding", settings.embedding_bits), ("head", settings.head_bits)):
        quantizer = settings.rows(bits)
        if quantizer is None:
            continue
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        made = QuantizedEmbedding if name == "embedding" else QuantizedHead
        module = made(quantize_weight(weight.detach(), quantizer), weight.dtype)
        error = _relative_error(weight.detach(), module.weight)
        model.set_submodule(name, module.train(model.training))
        reports.append(LayerReport(name, weight.numel(), bits, OFF, error))
    return reports


def _relative_error(weight: Tensor, rounded: Tensor) -> float:
    """||W - Wq||^2 / ||W||^2, 0 for a weight of zeros."""
    wide = weight.to(at_least_float32(weight.dtype))
    norm = float(wide.square().sum(dtype=torch.float64))
    error = float((wide - rounded).square().sum(dtype=torch.float64))
    return error / norm if norm > 0 else 0.0


def _padding_of(block: nn.Module, activation: Quantizer | None) -> Padding | None:
    """A reader of the block's attention mask, where ranges span tokens; else None."""
    if activation is None or activation.granularity != "per_request":
        return None
    padding = Padding()
    block.register_forward_pre_hook(padding.read)
    return padding


def _check(
    model: Transformer,
    method: MethodSettings,
    settings: QuantSettings | None,
    calibration: Sequence[TokenBatch],
    iaaq: IaaqSettings | None,
) -> None:
    made = QuantizedLinear | PackedLinear | QuantizedAttention | QuantizedEmbedding | QuantizedHead
    if any(isinstance(module, made) for module in model.modules()):
        raise QuantizationError("the model is quantized already; load it again in full precision")
    if not method.quantizes:
        return
    if settings is None:
        raise QuantizationError(f"method {method.name!r} needs quantization settings")
    if iaaq is not None and settings.attention is None:
        raise QuantizationError(
            "IA-AQ searches V's scale, but quant.attention is null and leaves V unquantized"
        )
    if needs_calibration(method, settings, iaaq) and not calibration:
        raise QuantizationError(
            f"method {method.name!r} needs calibration states, and there are none"
        )
    if settings.group_size is None:
        return
    for n, block in enumerate(model.blocks):
        for name in BLOCK_LINEARS:
            inputs = block.get_submodule(name).in_features
            if inputs % settings.group_size:  # type: ignore[operator]
                raise QuantizationError(
                    f"group_size = {settings.group_size} does not divide the {inputs} inputs of "
                    f"blocks.{n}.{name}; choose a divisor of every layer's inputs"
                )
