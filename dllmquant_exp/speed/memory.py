"""Memory of weights: counted from a shape, and held by a model."""

from collections.abc import Iterable

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
        head_bits, embedding_bits: 8 (as in quantization/embeddings.py: a byte each, and a scale
            per row) or 16. Norms and biases have 16.
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
