"""What a low-bit model holds beside its 4-bit weights: embedding, head, norms and biases, in 16
bits whatever type its blocks compute in: the model that is timed is the one that is counted.

Blocks compute in the type of what the embedding gives them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.quantization.embeddings import rows_at_once
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.speed.full_precision import native_bfloat16

HALF = torch.bfloat16


class ConvertedEmbedding(nn.Module):
    """An embedding whose rows are converted as they are looked up."""

    def __init__(self, embedding: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = embedding
        self.dtype = dtype

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [...] -> [..., d_model], in `dtype`."""
        rows: Tensor = self.inner(tokens)
        return rows.to(self.dtype)


class HalfHead(nn.Module):
    """A language-model head in 16 bits. It multiplies in them where the processor does; elsewhere
    some rows at a time are converted to the type of its input.

    Args:
        weight: parameter [vocab_size, d_model], bfloat16.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_model] -> [..., vocab_size], in the type of x."""
        if native_bfloat16():
            return F.linear(x.to(HALF), self.weight).to(x.dtype)
        y = x.new_empty(*x.shape[:-1], len(self.weight))
        for rows in rows_at_once(self.weight):
            y[..., rows] = F.linear(x, self.weight[rows].to(x.dtype))
        return y


def with_half_ends(model: Transformer, dtype: torch.dtype) -> Transformer:
    """A packed model with all that is not in low bits in 16, whose blocks compute in `dtype`.

    Changes the model. An embedding or a head of 8 bits stays as it is.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(HALF)
    for layer in model.modules():
        if isinstance(layer, PackedLinear) and layer.bias is not None:
            layer.bias = layer.bias.to(HALF)
    model.set_submodule("embedding", ConvertedEmbedding(model.embedding, dtype))
    if isinstance(model.head, nn.Linear):
        model.set_submodule("head", HalfHead(model.head.weight))
    return model
