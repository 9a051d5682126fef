"""Online Hadamard rotations by butterflies in C instead of products of matrices."""

import functools

import torch
from torch import Tensor, nn

from dllmquant_exp.quantization.hadamard import OnlineHadamard, paley, split
from dllmquant_exp.quantization.kernels.library import kernels
from dllmquant_exp.quantization.quantizers import QuantizationError


def rotated(x: Tensor, rotation: nn.Module) -> Tensor:
    """`rotation(x)`, by the fast transform where that is a Hadamard rotation of float32 values."""
    found = kernels()
    if found is None or not isinstance(rotation, OnlineHadamard) or x.dtype != torch.float32:
        y: Tensor = rotation(x)
        return y
    if x.shape[-1] != rotation.size * rotation.inner:
        raise QuantizationError(
            f"{x.shape[-1]} features cannot be rotated by {rotation.size} x {rotation.inner}"
        )
    rows = x.detach().reshape(-1, x.shape[-1])
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    y = torch.empty(rows.shape)
    power, order = split(rotation.size)
    found.rotate_rows(power, _factor(order), rotation.inner, rows, y)
    return y.reshape(x.shape)


@functools.cache
def _factor(order: int) -> Tensor:
    """What a Hadamard matrix has beside Sylvester's; see hadamard.py."""
    return torch.ones(1, 1) if order == 1 else paley(order).float()
