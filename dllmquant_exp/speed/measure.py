"""One model in full precision and in low bits, side by side in one process.

    blocks     one transformer block of each form and type, interleaved: the fastest of each side
               are what is compared, so that neither carries the other's handicap
    decodes    whole responses, interleaved; prompt tokens are work, not output
    parts      where the time of a decode goes
    memory     bytes of the weights, counted; resident memory of this process, above what it was

A model of a published shape is measured in full precision on one block: seconds outside the block,
plus as many times those inside as there are blocks. Such numbers are called extrapolated.
"""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.models.transformer import Transformer, rotary_angles
from dllmquant_exp.quantization.attention import QuantizedAttention
from dllmquant_exp.quantization.kernels import execution
from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.speed import memory
from dllmquant_exp.speed.full_precision import candidates, dtype_of, native_bfloat16, types
from dllmquant_exp.speed.timing import Spread, Stopwatch, interleaved, seconds
from dllmquant_exp.speed.variants import (
    Subject,
    full_block,
    full_model,
    low_block,
    low_bytes,
    low_model,
    random_prompts,
    with_bits,
)

FULL = "full precision"
SHORTEST = 5e-3  # seconds of one sample of a block; shorter ones are repeated within it
BLOCK_ROUNDS = 7


@torch.no_grad()
def measure_speed(subject: Subject) -> dict[str, Any]:
    """Measure; the result holds plain numbers only, times in seconds and memory in bytes."""
    load_before = os.getloadavg()[0]
    blocks, form, dtype = _race(subject)
    variants = [_made(subject, FULL, None, lambda: full_model(subject, form))]
    variants += _low_variants(subject, dtype)
    times = _decodes(subject, variants)
    full = times[FULL]
    described = [_described(subject, variant, times[variant.name], full) for variant in variants]
    return {
        "full_precision": form,
        "low_type": None if subject.quant is None else dtype,
        "block": blocks,
        "variants": described,
        "weight_bytes": _counted(subject),
        "rows": subject.rows,
        "machine": {
            "execution": execution(),
            "native_bfloat16": native_bfloat16(),
            "load": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        },
    }


@dataclass(frozen=True)
class Variant:
    """A model to be timed. `layers` is what it stands for, more than it has where extrapolated."""

    name: str
    bits: int | None  # of activations
    model: Transformer
    layers: int
    resident: int | None  # above what the process had before
    peak: int | None  # while it decodes

    @property
    def extrapolated(self) -> bool:
        return len(self.model.blocks) < self.layers


def low_name(subject: Subject, bits: int) -> str:
    assert subject.quant is not None
    return f"W{subject.quant.weight_bits}A{bits}"


def _race(subject: Subject) -> tuple[dict[str, Any], str, str]:
    """Seconds of one block in every form; the fastest full precision; the fastest low-bit type."""
    made: dict[str, tuple[nn.Module, torch.dtype]] = {
        form: (full_block(subject, form), dtype_of(form)) for form in candidates()
    }
    for dtype in types() if subject.quant is not None else ():
        block = low_block(subject, dtype_of(dtype))
        for bits in subject.bits:
            made[f"{low_name(subject, bits)}, {dtype}"] = (with_bits(block, bits), dtype_of(dtype))
    runs = {name: _block_run(subject, *found) for name, found in made.items()}
    times = interleaved({n: _sampled(run) for n, run in runs.items()}, BLOCK_ROUNDS, subject.seed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min(candidates(), key=medians.__getitem__)
    low = [n for n in times if subject.bits and n.startswith(low_name(subject, subject.bits[0]))]
    fastest = min(low, key=medians.__getitem__).rpartition(" ")[2] if low else ""
    ratios = {name: _ratios(times[best], values) for name, values in times.items()}
    report = {
        name: {"seconds": asdict(Spread.of(values)), "speedup": asdict(Spread.of(ratios[name]))}
        for name, values in times.items()
    }
    return report, best, fastest


def _block_run(subject: Subject, block: nn.Module, dtype: torch.dtype) -> Callable[[], Tensor]:
    length = subject.rows // subject.settings.responses
    generator = torch.Generator().manual_seed(subject.seed)
    shape = (subject.settings.responses, length, subject.config.d_model)
    x = torch.randn(shape, generator=generator).to(dtype)
    cos, sin = rotary_angles(length, subject.config.head_dim, subject.config.rope_theta, x)
    return lambda: block(x, cos, sin, None)


def _sampled(run: Callable[[], Any]) -> Callable[[], float]:
    """A sample long enough to be timed; the warm-up is done here."""
    run()
    calls = max(1, round(SHORTEST / seconds(run)))
    return lambda: seconds(run, calls)


def _made(
    subject: Subject, name: str, bits: int | None, make: Callable[[], Transformer]
) -> Variant:
    """Build a model, and see what it takes to hold it and to decode with it (the warm-up)."""
    before = memory.resident_bytes()
    model = make()
    after = memory.resident_bytes()
    memory.restart_peak()
    _decode(subject, model)
    peak = memory.peak_bytes()
    if before is None or after is None or peak is None:
        return Variant(name, bits, model, subject.config.n_layers, None, None)
    return Variant(name, bits, model, subject.config.n_layers, after - before, peak - before)


def _low_variants(subject: Subject, dtype: str) -> list[Variant]:
    """The chosen bits of activations, and beside them others on the same weights."""
    if subject.quant is None:
        return []
    names = [low_name(subject, bits) for bits in subject.bits]
    first = _made(subject, names[0], subject.bits[0], lambda: low_model(subject, dtype_of(dtype)))
    others = [
        Variant(name, bits, with_bits(first.model, bits), first.layers, None, None)
        for name, bits in zip(names[1:], subject.bits[1:], strict=True)
    ]
    for other in others:
        _decode(subject, other.model)  # warm-up
    return [first, *others]


def _decode(subject: Subject, model: Transformer) -> None:
    """Decode all responses to their end."""
    count = subject.settings.responses
    generate(model, random_prompts(subject), subject.decoding, seeds=range(count), batch_size=count)


def _decodes(subject: Subject, variants: Sequence[Variant]) -> dict[str, list[float]]:
    """Seconds of a decode per round, extrapolated where a model has one block only."""

    def timed(variant: Variant) -> Callable[[], float]:
        def run() -> float:
            watch = Stopwatch()
            with watch.running(list(variant.model.blocks)):
                total = seconds(lambda: _decode(subject, variant.model))
            missing = variant.layers / len(variant.model.blocks) - 1
            return total + missing * watch.total

        return run

    runs = {variant.name: timed(variant) for variant in variants}
    return interleaved(runs, subject.settings.rounds, subject.seed)


def _described(
    subject: Subject, variant: Variant, times: Sequence[float], full: Sequence[float]
) -> dict[str, Any]:
    tokens = subject.settings.responses * subject.decoding.gen_length
    low = variant.bits is not None
    return {
        "name": variant.name,
        "activation_bits": variant.bits,
        "extrapolated": variant.extrapolated,
        "seconds": [round(value, 6) for value in times],
        "tokens_per_second": asdict(Spread.of([tokens / value for value in times])),
        "speedup": asdict(Spread.of(_ratios(full, times))) if low else None,
        "weight_bytes": _variant_bytes(subject, low),
        "held_bytes": memory.held_bytes(variant.model) if low else None,
        "resident_bytes": variant.resident,
        "peak_bytes": variant.peak,
        "parts": _parts(subject, variant) if low else None,
    }


def _ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


def _variant_bytes(subject: Subject, low: bool) -> int:
    if low and subject.quant is not None:
        return low_bytes(subject.config, subject.quant)
    return memory.weight_bytes(subject.config, 16, 16, 16)


def _counted(subject: Subject) -> dict[str, int]:
    """Bytes of the weights by the bits of linears, head and embedding."""
    choices = ((16, 16, 16), (4, 16, 16), (4, 8, 16), (4, 8, 8))
    return {
        " ".join(map(str, bits)): memory.weight_bytes(subject.config, *bits) for bits in choices
    }


def _parts(subject: Subject, variant: Variant) -> dict[str, float]:
    """Share of a decode's time in linears (rotations included), attention and head; and, of its
    own, that of the rotations."""
    model = variant.model
    modules = list(model.modules())
    groups: Mapping[str, Sequence[nn.Module]] = {
        "linears": [m for m in modules if isinstance(m, PackedLinear)],
        "attention": [m for m in modules if isinstance(m, QuantizedAttention)],
        "head": [model.head],
    }
    watches = {name: Stopwatch() for name in groups}
    with ExitStack() as stack:
        for name, group in groups.items():
            stack.enter_context(watches[name].running(group))
        total = seconds(lambda: _decode(subject, model))
    found = {name: watch.total / total for name, watch in watches.items()}
    forwards = min(subject.decoding.steps, subject.decoding.gen_length)
    turning = sum(
        _sampled(_rotation_run(subject, layer, model.embedding.weight.dtype))()
        for layer in modules
        if isinstance(layer, PackedLinear) and layer.rotation is not None
    )
    found["rotations"] = forwards * turning / total
    return {name: round(share, 4) for name, share in found.items()}


def _rotation_run(
    subject: Subject, layer: PackedLinear, dtype: torch.dtype
) -> Callable[[], Tensor]:
    x = torch.randn(subject.rows, layer.in_features).to(dtype)
    rotation = layer.rotation
    assert rotation is not None
    return lambda: rotated(x, rotation)
