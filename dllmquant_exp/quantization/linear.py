"""A linear layer with quantized weights and dynamically quantized inputs."""

import torch.nn.functional as F
from torch import Tensor, nn

from dllmquant_exp.quantization.quantizers import Quantizer, fake_quantize


class QuantizedLinear(nn.Module):
    """y = Q(x) W^T + b, with W already rounded to its grid and Q measured anew on each call.

    The arithmetic is floating point on values that a low-bit format represents exactly, so results
    are those of the integer product up to rounding of the sums.

    Args:
        weight: [out_features, in_features], the dequantized weight, kept as a buffer: there is
            nothing to train, and it moves and casts with the module.
        bias: [out_features] or None, not quantized.
        activation: how the input is quantized; None leaves it alone.
        padding: where the current batch is padded. Needed only where a range spans several tokens
            (`per_request`); a token's own range never sees padding.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: Quantizer | None = None,
        padding: "Padding | None" = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.activation = activation
        self.padding = padding

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features]."""
        if self.activation is not None:
            keep = None if self.padding is None else self.padding.keep
            x = fake_quantize(x, self.activation, keep)
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, activation={self.activation}"


class Padding:
    """The attention mask of the call that is running, for the linears of one block.

    A block is called as `block(x, cos, sin, mask)`, but its linears see `x` alone. Installed as a
    forward pre-hook of that block, this reads the mask of every call just before it runs, so it
    is never older than the input it belongs to.
    """

    def __init__(self) -> None:
        self.keep: Tensor | None = None  # [B, T, 1] bool, False at padding; None without padding

    def read(self, block: nn.Module, args: tuple[Tensor | None, ...]) -> None:
        mask = args[3]  # [B, 1, 1, T] or None
        self.keep = None if mask is None else mask[:, 0, 0, :, None]
