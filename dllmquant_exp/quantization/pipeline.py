"""A quantization method applied to a whole model in place, block by block.

    for each step that changes the model:      step
    for each block:
        for each step that changes a block:    step
        for q, k, v; o; gate, up; down:        round
        put quantized linears and attention in place, and run the block on

Blocks that are done feed the next ones, with quantized weights and activations as they are (as
GPTQ, AWQ and QuaRot do); inside a block each group of linears sees those before it rounded. In
memory at a time are the model, the inputs of one block and one second moment.

Seven linears per block are quantized in both architectures: q, k, v, o, gate, up and down
projections. Head and embedding are weight-only and have bits of their own (16 = untouched), see
embeddings.py.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import (
    Block,
    Transformer,
    TransformerConfig,
    at_least_float32,
)
from dllmquant_exp.quantization.attention import QuantizedAttention, fix_alphas, set_attention
from dllmquant_exp.quantization.blockwise import (
    BlockBatch,
    TokenBatch,
    first_block_batches,
    linear_inputs,
)
from dllmquant_exp.quantization.embeddings import QuantizedRows, ends
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.kept_blocks import RoundedBlock, intact_blocks, kept_or_made
from dllmquant_exp.quantization.linear import (
    Padding,
    QuantizedLinear,
    RangeObserver,
    RotatedLinear,
)
from dllmquant_exp.quantization.method import Method, Rounded
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import (
    OFF,
    Parameters,
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    quantize_weight,
)
from dllmquant_exp.quantization.reports import LayerReport, QuantReport
from dllmquant_exp.store.progress import tracked

# Layers that share an input are rounded together; each group sees the ones before it quantized.
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
BLOCK_LINEARS = tuple(name for group in GROUPS for name in group)


def needs_calibration(
    method: Method, settings: QuantSettings | None, iaaq: Iaaq | None = None
) -> bool:
    """True where `quantize` measures calibration states."""
    if not method.quantizes or settings is None:
        return False
    alphas = iaaq is not None and iaaq.static
    return method.calibrates(settings) or settings.static or alphas


def quantize(
    model: Transformer,
    method: Method,
    settings: QuantSettings | None,
    *,
    calibration: Sequence[TokenBatch] = (),
    iaaq: Iaaq | None = None,
    work_folder: Path | None = None,
) -> QuantReport:
    """Quantize `model` in place.

    Args:
        model: in full precision, on any device and in any floating-point type.
        method: its steps; see the module's docstring.
        settings: what is quantized; a method without steps ignores them.
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


def check_shape(config: TransformerConfig, method: Method, settings: QuantSettings) -> None:
    """Raise QuantizationError if a model of this shape cannot be quantized so."""
    for step in method.steps.values():
        step.check_shape(config)
    size = settings.group_size or 1
    for name in BLOCK_LINEARS:
        inputs = config.d_ffn if name == "down_proj" else config.d_model
        if inputs % size:
            raise QuantizationError(
                f"group_size = {size} does not divide the {inputs} inputs of {name}; choose a "
                "divisor of every layer's inputs"
            )
    attention, head = settings.attention, config.head_dim
    if attention is not None and attention.k_bits < OFF and head % min(attention.k_group, head):
        raise QuantizationError(
            f"k_group = {attention.k_group} does not divide the {head} channels of a head; choose "
            "a divisor, or at least as many"
        )


def _quantize(
    model: Transformer,
    method: Method,
    settings: QuantSettings,
    calibration: Sequence[TokenBatch],
    iaaq: Iaaq | None,
    work_folder: Path | None,
) -> QuantReport:
    steps: dict[str, list[Any]] = {}
    for key, step in method.model_steps.items():
        steps[key] = [step.transform(model)]
    blocks = list(blocks_of(model))
    static = iaaq is not None and iaaq.static
    kept = intact_blocks(work_folder, len(blocks))
    rounds = len(kept) < len(blocks)
    calibrated = needs_calibration(method, settings, iaaq) and (settings.static or static or rounds)
    batches = first_block_batches(model, calibration) if calibrated else []
    layers: list[LayerReport] = []
    alphas: list[list[Any]] = []
    for n, block in enumerate(tracked(blocks, f"blocks quantized by {method.name}", len(blocks))):
        made, weights = kept_or_made(
            work_folder,
            n,
            block,
            lambda: _round_block(block, f"blocks.{n}", batches, method, settings),  # noqa: B023
            kept.get(n),
        )
        layers += [LayerReport(**layer) for layer in made["layers"]]
        for key, report in made["steps"].items():
            steps.setdefault(key, []).append(report)
        ranges, after = _advance(block, batches, settings)
        install(block, settings, iaaq, weights, ranges)
        if static:
            alphas.append(fix_alphas(block, batches).flatten().tolist())
        batches = after
    errors = [layer.relative_weight_error for layer in layers]
    return QuantReport(
        method=method.name,
        settings=settings,
        layers=(*layers, *_quantize_ends(model, settings)),
        block_linears=len(layers),
        mean_relative_weight_error=sum(errors) / len(errors) if errors else None,
        steps=steps,
        alphas=tuple(alphas),
        notes=tuple(method.rounding.notes(layers)),
    )


def _round_block(
    block: Block,
    title: str,
    batches: Sequence[BlockBatch],
    method: Method,
    settings: QuantSettings,
) -> RoundedBlock:
    """Do the steps of a block in place. Its weights are then values of their grids.

    Args:
        title: the block's name in the model, for the report.
    """
    if settings.weight is None and settings.activation is None:
        return {"layers": [], "steps": {}}, {}
    quant, steps = settings, {}
    for key, step in method.block_steps.items():
        if not step.idle(quant):
            steps[key] = step.transform(block, batches, quant)
            quant = step.passed_on(quant)
    layers: list[dict[str, Any]] = []
    found: dict[str, QuantizedWeight] = {}
    for group in GROUPS:
        weights = [block.get_parameter(f"{name}.weight") for name in group]
        results: Sequence[Rounded | None] = [None] * len(group)
        if quant.weight is not None:
            inputs = (linear_inputs(block, group[0], batch) for batch in batches)
            results = method.rounded(weights, quant.weight, inputs)
        for name, weight, result in zip(group, weights, results, strict=True):
            value = weight if result is None else result.weight.values(weight.dtype)
            layer = LayerReport(
                name=f"{title}.{name}",
                parameters=weight.numel(),
                weight_bits=settings.weight_bits,
                activation_bits=settings.activation_bits,
                relative_weight_error=_relative_error(weight, value),
                rounding=None if result is None else result.report,
            )
            layers.append(asdict(layer))
            if result is not None:
                found[name] = result.weight
                weight.copy_(value)
    return {"layers": layers, "steps": steps}, found


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
    iaaq: Iaaq | None,
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
        set_attention(block, QuantizedAttention(settings.attention, iaaq))


def _quantize_ends(model: Transformer, settings: QuantSettings) -> list[LayerReport]:
    """Embedding and head: weights only, one range per row."""
    reports = []
    for name, made, quantizer in ends(settings):
        weight = model.get_parameter(f"{name}.weight").detach()
        module = made(quantize_weight(weight, quantizer), weight.dtype)
        error = _relative_error(weight, module.weight)
        model.set_submodule(name, module.train(model.training))
        reports.append(LayerReport(name, weight.numel(), quantizer.bits, OFF, error))
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
    method: Method,
    settings: QuantSettings | None,
    calibration: Sequence[TokenBatch],
    iaaq: Iaaq | None,
) -> None:
    made = QuantizedLinear | PackedLinear | QuantizedAttention | QuantizedRows
    if any(isinstance(module, made) for module in model.modules()):
        raise QuantizationError("the model is quantized already; load it again in full precision")
    if not method.quantizes:
        return
    assert settings is not None
    if iaaq is not None:
        iaaq.check(settings.attention)
    if needs_calibration(method, settings, iaaq) and not calibration:
        raise QuantizationError(
            f"method {method.name!r} needs calibration states, and there are none"
        )
    check_shape(model.config, method, settings)
