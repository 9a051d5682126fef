"""One model in full precision and in low bits, side by side in one process.

    blocks     one transformer block of each form and type, interleaved: the fastest of each side
               are what is compared, so that neither carries the other's handicap
    decodes    whole responses, interleaved; prompt tokens are work, not output
    parts      where the time of a decode goes
    memory     bytes of the weights: of full precision counted, in 16 bits; of low bits what the
               timed model holds; resident memory of this process, above what it was

A model of a published shape is measured in full precision on one block: seconds outside the block,
plus as many times those inside as there are blocks; its memory is that with one block and the bytes
of the others. Such numbers are called extrapolated.
"""

import itertools
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Transformer, TransformerConfig, rotary_angles
from dllmquant_exp.speed import memory
from dllmquant_exp.speed.full_precision import candidates, dtype_of, types
from dllmquant_exp.speed.machine import abilities
from dllmquant_exp.speed.parts import parts
from dllmquant_exp.speed.timing import Spread, Stopwatch, interleaved, sampled, seconds
from dllmquant_exp.speed.variants import (
    Subject,
    decode,
    full_block,
    full_bytes,
    full_model,
    low_block,
    low_bytes,
    low_model,
    with_bits,
)

FULL = "full precision"
BLOCK_ROUNDS = 7


@torch.no_grad()
def measure_speed(subject: Subject) -> dict[str, Any]:
    """Measure; the result holds plain numbers only, times in seconds and memory in bytes."""
    load_before = os.getloadavg()[0]
    blocks, form, dtype = _race(subject)
    variants = [_full_variant(subject, form), *_low_variants(subject, dtype)]
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
            **abilities(),
            "load": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        },
    }


@dataclass(frozen=True)
class Variant:
    """A model to be timed. `layers` is what it stands for, more than it has where extrapolated."""

    name: str
    bits: int | None  # of activations
    dtype: torch.dtype  # of activations, and of weights in full precision
    model: Transformer
    layers: int
    resident: int | None = None  # above what the process had before, None where it is not known
    peak: int | None = None  # while it decodes

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
    if subject.quant is not None:
        block = low_block(subject)
        for dtype, bits in itertools.product(types(), subject.bits):
            made[f"{low_name(subject, bits)}, {dtype}"] = (with_bits(block, bits), dtype_of(dtype))
    runs = {name: _block_run(subject, *found) for name, found in made.items()}
    times = interleaved({n: sampled(run) for n, run in runs.items()}, BLOCK_ROUNDS, subject.seed)
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


def _made(
    subject: Subject,
    name: str,
    bits: int | None,
    dtype: torch.dtype,
    make: Callable[[], Transformer],
    size: Callable[[TransformerConfig], int],
) -> Variant:
    """Build a model, and see what it takes to hold it and to decode with it (the warm-up).

    Args:
        size: bytes that the weights of a shape take. Those of blocks that the model only stands for
            are added to what was measured.
    """
    before = memory.resident_bytes()
    model = make()
    after = memory.resident_bytes()
    restarted = memory.restart_peak()
    decode(subject, model)
    peak = memory.peak_bytes() if restarted else None
    missing = size(subject.config) - size(subject.with_layers(len(model.blocks)))

    def above(found: int | None) -> int | None:
        return None if found is None or before is None else found - before + missing

    return Variant(name, bits, dtype, model, subject.config.n_layers, above(after), above(peak))


def _full_variant(subject: Subject, form: str) -> Variant:
    return _made(
        subject, FULL, None, dtype_of(form),
        make=lambda: full_model(subject, form),
        size=lambda config: full_bytes(config, form),
    )  # fmt: skip


def _low_variants(subject: Subject, dtype: str) -> list[Variant]:
    """The chosen bits of activations, and beside them others on the same weights."""
    quant = subject.quant
    if quant is None:
        return []
    names = [low_name(subject, bits) for bits in subject.bits]
    first = _made(
        subject, names[0], subject.bits[0], dtype_of(dtype),
        make=lambda: low_model(subject, dtype_of(dtype)),
        size=lambda config: low_bytes(config, quant),
    )  # fmt: skip
    others = [
        Variant(name, bits, first.dtype, with_bits(first.model, bits), first.layers)
        for name, bits in zip(names[1:], subject.bits[1:], strict=True)
    ]
    for other in others:
        decode(subject, other.model)  # warm-up
    return [first, *others]


def _decodes(subject: Subject, variants: Sequence[Variant]) -> dict[str, list[float]]:
    """Seconds of a decode per round, extrapolated where a model has one block only."""

    def timed(variant: Variant) -> Callable[[], float]:
        def run() -> float:
            watch = Stopwatch()
            with watch.running(list(variant.model.blocks)):
                total = seconds(lambda: decode(subject, variant.model))
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
    held = memory.held_bytes(variant.model) if low and not variant.extrapolated else None
    return {
        "name": variant.name,
        "activation_bits": variant.bits,
        "extrapolated": variant.extrapolated,
        "seconds": [round(value, 6) for value in times],
        "tokens_per_second": asdict(Spread.of([tokens / value for value in times])),
        "speedup": asdict(Spread.of(_ratios(full, times))) if low else None,
        "weight_bytes": _counted_bytes(subject, low) if held is None else held,
        "held_bytes": held,
        "resident_bytes": variant.resident,
        "peak_bytes": variant.peak,
        "parts": parts(subject, variant.model, variant.layers, variant.dtype) if low else None,
    }


def _ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


def _counted_bytes(subject: Subject, low: bool) -> int:
    if low and subject.quant is not None:
        return low_bytes(subject.config, subject.quant)
    return memory.weight_bytes(subject.config, 16, 16, 16)


def _counted(subject: Subject) -> dict[str, int]:
    """Bytes of the weights by the bits of linears, head and embedding."""
    choices = ((16, 16, 16), (4, 16, 16), (4, 8, 16), (4, 8, 8))
    return {
        " ".join(map(str, bits)): memory.weight_bytes(subject.config, *bits) for bits in choices
    }
