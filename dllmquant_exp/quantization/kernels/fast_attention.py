"""Quantized attention weights times V in C, where its passes over P stay in the cache."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from dllmquant_exp.quantization.kernels.library import NO_MEMORY, Attention, kernels
from dllmquant_exp.quantization.quantizers import Quantizer


def rounded_products(
    q: Tensor, k: Tensor, values: Sequence[Tensor], mask: Tensor | None, quantizer: Quantizer
) -> list[Tensor] | None:
    """Q(P) times each of `values`, P = softmax(q k^T / sqrt(D)), as QuantizedAttention computes it
    with products of matrices, up to rounding; None where the kernels do not run, or in float64.

    Every execution on the CPU attends by this function where P is quantized, so that all of them
    round the same numbers.

    Args:
        q: [B, heads, T, D]; k: [B, kv_heads, T, D]; mask: bool [B, 1, 1, T], True at real tokens.
        values: each [B, kv_heads, T, D].
        quantizer: of P's rows.

    Returns:
        Each [B, kv_heads, G * T, D] in float32, G heads of q to one of k.
    """
    tensors = (q, k, *values)
    fits = all(x.is_cpu and x.dtype != torch.float64 for x in tensors)
    fits = fits and (mask is None or (mask.is_cpu and mask.dtype == torch.bool))
    found = kernels() if fits else None
    if found is None:
        return None
    requests, kv_heads, length, size = k.shape
    # Kept in names as long as the kernel works: it sees addresses only.
    rows = q.detach().reshape(requests, kv_heads, -1, size).float().contiguous()
    keys = k.detach().float().contiguous()
    matrices = [value.detach().float().contiguous() for value in values]
    keep = None if mask is None else mask.reshape(requests, length).contiguous()
    products = [torch.empty_like(rows) for _ in matrices]
    sources, targets = _addresses(matrices), _addresses(products)
    result = found.rounded_attention(
        Attention(
            requests, kv_heads, rows.shape[2], length, size, len(matrices),
            rows.data_ptr(), keys.data_ptr(), ctypes.addressof(sources),
            ctypes.addressof(targets), None if keep is None else keep.data_ptr(),
            size**-0.5, quantizer.highest, quantizer.clip_ratio,
        )
    )  # fmt: skip
    if result == NO_MEMORY:
        raise MemoryError(f"quantized attention has no memory for {length} tokens of {size}")
    return products


def _addresses(tensors: Sequence[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
