"""Online Hadamard rotations by butterflies in C instead of products of matrices."""

import functools

import torch
from torch import Tensor, nn

from dllmquant_exp.quantization.hadamard import OnlineHadamard, paley, split
from dllmquant_exp.quantization.kernels.library import kernels
from dllmquant_exp.quantization.quantizers import QuantizationError


def rotated(x: Tensor, rotation: nn.Module) -> Tensor:
    """`rotation(x)`, by the fast transform where that is a Hadamard rotation on the CPU, of float32
    or of a narrower type, which is computed in float32. Every execution of a quantized layer
    rotates by this function, so that all of them round the same numbers."""
    fits = isinstance(rotation, OnlineHadamard) and x.dtype != torch.float64 and x.is_cpu
    found = kernels() if fits else None
    if found is None:
        y: Tensor = rotation(x)
        return y
    assert isinstance(rotation, OnlineHadamard)
    if x.shape[-1] != rotation.size * rotation.inner:
        raise QuantizationError(
            f"{x.shape[-1]} features cannot be rotated by {rotation.size} x {rotation.inner}"
        )
    rows = x.detach().reshape(-1, x.shape[-1]).float()
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    y = torch.empty(rows.shape)
    power, order = split(rotation.size)
    found.rotate_rows(power, _factor(order), rotation.inner, rows, y)
    return y.reshape(x.shape).to(x.dtype)


@functools.cache
def _factor(order: int) -> Tensor:
    """The factor of a Hadamard matrix beside Sylvester's; see hadamard.py."""
    return torch.ones(1, 1) if order == 1 else paley(order).float()
