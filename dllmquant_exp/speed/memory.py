"""Memory of weights, counted from a shape, and of this process, measured."""

import ctypes
import gc
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.quantization.kernels.layout import MULTIPLE
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS

HALF = 16  # bits of what is not quantized
SCALE_BYTES = 4  # float32
SUM_BYTES = 4  # int32: of each output's whole numbers, for the zero point of the activations


def weight_bytes(
    config: TransformerConfig, linear_bits: int, head_bits: int, embedding_bits: int
) -> int:
    """Bytes that a model of this shape holds: every parameter of it, made on the meta device.

    Args:
        linear_bits: 4 (as `PackedLinear` stores it: two per byte, sizes padded, a scale and a sum
            per output) or 16.
        head_bits, embedding_bits: 8 (as in quantization/rows.py: a byte each, a scale per row) or
            16. Norms and biases have 16.
    """
    with torch.device("meta"):
        model = Transformer(config)
    total = 0
    for name, parameter in model.named_parameters():
        module = name.split(".")[-2]
        bits = {"head": head_bits, "embedding": embedding_bits}.get(module, HALF)
        if module in BLOCK_LINEARS and parameter.dim() == 2:
            bits = linear_bits
        if bits == HALF:
            total += parameter.numel() * HALF // 8
        elif bits == 8:
            total += parameter.numel() + len(parameter) * SCALE_BYTES
        else:
            outputs, inputs = (-(-size // MULTIPLE) * MULTIPLE for size in parameter.shape)
            total += outputs * inputs // 2 + len(parameter) * (SCALE_BYTES + SUM_BYTES)
    return total


def held_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, shared ones once."""
    tensors: Iterable[torch.Tensor] = (*model.parameters(), *model.buffers())
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def available_bytes() -> int | None:
    """What the system can still give without swapping; None where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def resident_bytes() -> int | None:
    """Resident memory of this process, after all that is free was given back; Linux only."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS:")


def restart_peak() -> bool:
    """Start measuring the peak anew; whether the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def peak_bytes() -> int | None:
    """Highest resident memory of this process, since `restart_peak` if that worked; Linux only."""
    return _status("VmHWM:")


def _status(key: str) -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return None
