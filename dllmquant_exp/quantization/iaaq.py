"""IA-AQ, Interaction-Aware Activation Quantization: a search for the scale of V (Eq. 7-9).

V's scale is its plain one times the alpha that minimises || P (V_hat(alpha) - V) ||_F^2, the error
of V weighted by the quantized softmax output P. Eq. 7 leaves out the dequantization; without it the
norm compares integers with reals. All ranges of V that share an alpha share one norm, so that each
norm can be minimised on its own.

attention.py multiplies P with every V_hat(alpha) and asks here which is best. A search with another
objective derives from `Iaaq`, and `_target_` in its YAML names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor

from dllmquant_exp.quantization.quant_settings import AttentionSettings, ValueGranularity
from dllmquant_exp.quantization.quantizers import OFF, QuantizationError
from dllmquant_exp.store.schema import Above, AtMost, Settings

# Dimensions of V [B, kv_heads, T, D] that share a range. Tokens always do, requests never.
SHARED_DIMENSIONS: dict[ValueGranularity, tuple[int, ...]] = {
    "per_tensor": (1, 2, 3),
    "per_head": (2, 3),
    "per_channel": (2,),
}


@dataclass(frozen=True)
class Iaaq(Settings):
    """The search for V's scale.

    Attributes:
        alphas: candidates, best first where two are equally good; Eq. 9's are 1.0 and 0.8.
        granularity: what shares an alpha: per_head | per_tensor | per_channel, within one request
            when online. Not finer than V's granularity, or V would get more scales than without
            IA-AQ.
        mode: online (searched on each call, for each request) or static (searched once on
            calibration states, see `attention.fix_alphas`).

    Raises:
        ConfigError, QuantizationError: at construction, naming the setting.
    """

    alphas: tuple[Annotated[float, Above(0), AtMost(1)], ...] = (1.0, 0.8)
    granularity: ValueGranularity = "per_head"
    mode: Literal["online", "static"] = "online"

    @property
    def static(self) -> bool:
        """The alphas come from calibration."""
        return self.mode == "static"

    def losses(self, outputs: Sequence[Tensor], exact: Tensor, mask: Tensor | None) -> Tensor:
        """|| P (V_hat(alpha) - V) ||_F^2 of Eq. 7, for each candidate and whatever shares an alpha.

        Args:
            outputs: P V_hat(alpha) of each alpha, [B, kv_heads, G * T, D].
            exact: [B, kv_heads, G * T, D], P V.
            mask: [B, 1, 1, T]; rows at padding do not count.

        Returns:
            [alphas, B, kv_heads | 1, 1, D | 1]: size 1 where an alpha is shared. In float64, so
            that the order of a sum over tokens, which padding changes, decides between no two
            alphas.
        """
        errors = [output - exact for output in outputs]
        if mask is not None:
            groups = exact.shape[2] // mask.shape[3]
            real = mask.transpose(2, 3).repeat(1, 1, groups, 1)  # [B, 1, G * T, 1]
            errors = [error.mul_(real) for error in errors]
        shared = SHARED_DIMENSIONS[self.granularity]
        squares = (error.square_() for error in errors)
        return torch.stack([s.sum(shared, keepdim=True, dtype=torch.float64) for s in squares])

    def best(self, outputs: Sequence[Tensor], exact: Tensor, mask: Tensor | None) -> Tensor:
        """The output of the alpha with the least loss, the first of equals; see `losses`."""
        best = self.losses(outputs, exact, mask).argmin(0)
        chosen = outputs[0]
        for index, output in enumerate(outputs[1:], 1):
            chosen = torch.where(best == index, output, chosen)
        return chosen

    def choice_shape(self, kv_heads: int, head_dim: int) -> tuple[int, ...]:
        """The shape of the alphas that static mode keeps: [1, kv_heads | 1, 1, D | 1]."""
        sizes = (1, kv_heads, 1, head_dim)
        shared = (0, *SHARED_DIMENSIONS[self.granularity])
        return tuple(1 if n in shared else size for n, size in enumerate(sizes))

    def check(self, attention: AttentionSettings | None) -> None:
        """Raise QuantizationError where there is nothing to search, or too much."""
        if attention is None or attention.v_bits == OFF:
            off = "quant.attention = null" if attention is None else "v_bits = 16"
            raise QuantizationError(
                f"iaaq searches the scale of quantized values, and {off} leaves V unquantized; use "
                "a method and a quant option that quantize V, or leave iaaq off"
            )
        fineness = get_args(ValueGranularity).index
        if fineness(self.granularity) > fineness(attention.v_granularity):
            raise QuantizationError(
                f"iaaq granularity = {self.granularity} is finer than v_granularity = "
                f"{attention.v_granularity}, so that V would get more scales than without IA-AQ; "
                "choose a granularity that is not finer, or set both"
            )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.alphas) < 2 or len(set(self.alphas)) < len(self.alphas):
            raise QuantizationError(
                f"iaaq alphas = {self.alphas} must be at least two different numbers; for one "
                "fixed ratio set v_clip_ratio"
            )
