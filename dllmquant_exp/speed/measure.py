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
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Transformer, TransformerConfig, rotary_angles
from dllmquant_exp.speed import memory
from dllmquant_exp.speed.full_precision import (
    candidates,
    dtype_of,
    full_block,
    full_model,
    types,
)
from dllmquant_exp.speed.low_bits import low_bytes, low_model, random_block, with_bits
from dllmquant_exp.speed.machine import abilities
from dllmquant_exp.speed.parts import parts
from dllmquant_exp.speed.timing import Stopwatch, interleaved, sampled, seconds, spread
from dllmquant_exp.speed.workload import Workload
from dllmquant_exp.store import process_memory

FULL = "full precision"
BLOCK_ROUNDS = 7
COUNTED = ((16, 16, 16), (4, 16, 16), (4, 8, 16), (4, 8, 8))  # bits: linears, head, embedding


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


@torch.no_grad()
def measure_speed(workload: Workload) -> dict[str, Any]:
    """Measure; the record holds plain numbers only, times in seconds and memory in bytes."""
    load_before = os.getloadavg()[0]
    blocks, form, dtype = _race(workload)
    variants = [_full_variant(workload, form), *_low_variants(workload, dtype)]
    times = _decodes(workload, variants)
    counted = {bits: memory.weight_bytes(workload.config, *bits) for bits in COUNTED}
    return {
        "full_precision": form,
        "low_type": None if workload.quant is None else dtype,
        "block": blocks,
        "variants": [
            _described(workload, variant, times[variant.name], times[FULL]) for variant in variants
        ],
        "weight_bytes": {" ".join(map(str, bits)): size for bits, size in counted.items()},
        "rows": workload.rows,
        "machine": {
            **abilities(),
            "load": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        },
    }


def _race(workload: Workload) -> tuple[dict[str, Any], str, str]:
    """Seconds of one block in every form; the fastest full precision; the fastest low-bit type."""
    blocks: dict[str, tuple[nn.Module, torch.dtype]] = {
        form: (full_block(workload, form), dtype_of(form)) for form in candidates()
    }
    chosen: dict[str, str] = {}  # names of the chosen bits, by type
    if workload.quant is not None:
        block = random_block(workload, torch.Generator().manual_seed(workload.seed))
        for dtype, bits in itertools.product(types(), workload.bits):
            name = f"{workload.name_of(bits)}, {dtype}"
            blocks[name] = (with_bits(block, bits), dtype_of(dtype))
            chosen.setdefault(dtype, name)
    runs = {name: sampled(_block_run(workload, *block)) for name, block in blocks.items()}
    times = interleaved(runs, BLOCK_ROUNDS, workload.seed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min(candidates(), key=medians.__getitem__)
    fastest = min(chosen, key=lambda dtype: medians[chosen[dtype]], default="")
    report = {
        name: {
            "seconds": spread(values),
            "speedup": spread(_ratios(times[best], values)),
        }
        for name, values in times.items()
    }
    return report, best, fastest


def _block_run(workload: Workload, block: nn.Module, dtype: torch.dtype) -> Callable[[], Tensor]:
    config, length = workload.config, workload.length
    generator = torch.Generator().manual_seed(workload.seed)
    shape = (workload.settings.responses, length, config.d_model)
    x = torch.randn(shape, generator=generator).to(dtype)
    cos, sin = rotary_angles(length, config.head_dim, config.rope_theta, x)
    return lambda: block(x, cos, sin, None)


def _full_variant(workload: Workload, form: str) -> Variant:
    dtype = dtype_of(form)

    def size(config: TransformerConfig) -> int:
        return memory.weight_bytes(config, 16, 16, 16) // 2 * dtype.itemsize

    return _built(workload, FULL, None, dtype, lambda: full_model(workload, form), size)


def _low_variants(workload: Workload, form: str) -> list[Variant]:
    """The chosen bits of activations, and beside them others on the same weights."""
    if workload.quant is None:
        return []
    dtype, size = dtype_of(form), partial(low_bytes, quant=workload.quant)
    first, *others = workload.bits
    name = workload.name_of(first)
    chosen = _built(workload, name, first, dtype, lambda: low_model(workload, dtype), size)
    found = [chosen]
    for bits in others:
        model = with_bits(chosen.model, bits)
        workload.decode(model)  # warm-up
        found.append(Variant(workload.name_of(bits), bits, dtype, model, chosen.layers))
    return found


def _built(
    workload: Workload,
    name: str,
    bits: int | None,
    dtype: torch.dtype,
    make: Callable[[], Transformer],
    size: Callable[[TransformerConfig], int],
) -> Variant:
    """Build a model, and measure the memory to hold it and to decode with it (the warm-up).

    Args:
        size: bytes that the weights of a shape take. Those of blocks that the model only stands for
            are added to what was measured.
    """
    before = process_memory.resident_bytes()
    model = make()
    after = process_memory.resident_bytes()
    restarted = process_memory.restart_peak()
    workload.decode(model)
    peak = process_memory.peak_bytes() if restarted else None
    missing = size(workload.config) - size(workload.with_layers(len(model.blocks)))
    above = [
        None if found is None or before is None else found - before + missing
        for found in (after, peak)
    ]
    return Variant(name, bits, dtype, model, workload.config.n_layers, *above)


def _decodes(workload: Workload, variants: Sequence[Variant]) -> dict[str, list[float]]:
    """Seconds of a decode per round, extrapolated where a model has one block only."""

    def timed(variant: Variant) -> Callable[[], float]:
        def run() -> float:
            watch = Stopwatch()
            with watch.running(list(variant.model.blocks)):
                total = seconds(lambda: workload.decode(variant.model))
            missing = variant.layers / len(variant.model.blocks) - 1
            return total + missing * watch.total

        return run

    runs = {variant.name: timed(variant) for variant in variants}
    return interleaved(runs, workload.settings.rounds, workload.seed)


def _described(
    workload: Workload, variant: Variant, times: Sequence[float], full: Sequence[float]
) -> dict[str, Any]:
    tokens = workload.settings.responses * workload.decoding.gen_length
    low, held = variant.bits is not None, None
    counted = memory.weight_bytes(workload.config, 16, 16, 16)
    if low and workload.quant is not None:
        counted = low_bytes(workload.config, workload.quant)
        held = None if variant.extrapolated else memory.held_bytes(variant.model)
    return {
        "name": variant.name,
        "activation_bits": variant.bits,
        "extrapolated": variant.extrapolated,
        "seconds": [round(value, 6) for value in times],
        "tokens_per_second": spread([tokens / value for value in times]),
        "speedup": spread(_ratios(full, times)) if low else None,
        "weight_bytes": counted if held is None else held,
        "held_bytes": held,
        "resident_bytes": variant.resident,
        "peak_bytes": variant.peak,
        "parts": parts(workload, variant.model, variant.layers, variant.dtype) if low else None,
    }


def _ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]
