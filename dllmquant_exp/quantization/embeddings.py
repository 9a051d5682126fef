"""Token embedding and language-model head with rounded rows, a byte and a share of a scale each.

Weight only: W = diag(s) N with whole numbers N in int8 and one scale s per row (token); the input
is left alone. In 8 bits an activation would cost one more rounding of every logit, and multiplying
8 by 8 bits saves no time on the processors that the kernels are written for.

There is no second, floating-point form of these layers: fake and packed execution run the same
code on the same bytes, so they agree in every bit. The head multiplies whole numbers and scales the
sums, as `QuantizedLinear` does, and converts some rows at a time, so that it never needs the memory
of the weight that it replaces.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmquant_exp.models.transformer import at_least_float32
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizedWeight, Quantizer

_AT_ONCE = 2**22  # numbers of the head converted at a time: 16 MB in float32


class QuantizedRows(nn.Module):
    """Whole numbers and scales of a weight [rows, d_model].

    Args:
        weight: with one scale per row.
        dtype: the model's, and so the output's.
    """

    numbers: Tensor  # int8 [rows, d_model]
    scale: Tensor  # [rows, 1], float32 or better

    def __init__(self, weight: QuantizedWeight, dtype: torch.dtype) -> None:
        super().__init__()
        assert weight.scale.shape == (len(weight.numbers), 1)
        self.register_buffer("numbers", weight.numbers)
        self.register_buffer("scale", weight.scale)
        self.dtype = dtype

    @property
    def rounded(self) -> QuantizedWeight:
        """The weight as whole numbers and scales."""
        return QuantizedWeight(self.numbers, self.scale)

    @property
    def weight(self) -> Tensor:
        """The weight's values, [rows, d_model]."""
        return self.rounded.values(self.dtype)

    def extra_repr(self) -> str:
        return f"{self.numbers.shape[0]}, {self.numbers.shape[1]}"


class QuantizedEmbedding(QuantizedRows):
    """Takes the place of the token embedding."""

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [...] -> [..., d_model]."""
        return (self.numbers[tokens] * self.scale[tokens]).to(self.dtype)


class QuantizedHead(QuantizedRows):
    """Takes the place of the language-model head."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_model] -> [..., vocab_size], in the type of x."""
        y = x.new_empty(*x.shape[:-1], len(self.numbers))
        for rows, part in linear_by_rows(x, self.numbers):
            y[..., rows] = part.to(at_least_float32(x.dtype)).mul_(self.scale[rows, 0])
        return y


def linear_by_rows(x: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """x W^T, some rows of W at a time converted to the type of x, so that W is never held in it.

    weight: [rows, features], of any type.

    Yields:
        The rows, and their part of the product, [..., these rows].
    """
    at_once = max(1, _AT_ONCE // weight.shape[1])
    for start in range(0, len(weight), at_once):
        rows = slice(start, start + at_once)
        yield rows, F.linear(x, weight[rows].to(x.dtype))


def ends(quant: QuantSettings) -> list[tuple[str, type[QuantizedRows], Quantizer]]:
    """Embedding and head, where they are rounded: name in the model, class and grid."""
    found: list[tuple[str, type[QuantizedRows], Quantizer | None]] = [
        ("embedding", QuantizedEmbedding, quant.rows(quant.embedding_bits)),
        ("head", QuantizedHead, quant.rows(quant.head_bits)),
    ]
    return [(name, made, grid) for name, made, grid in found if grid is not None]
