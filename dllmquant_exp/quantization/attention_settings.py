"""What of attention is quantized, and IA-AQ's search: settings only, see attention.py."""

from dataclasses import dataclass
from typing import Literal, get_args

from dllmquant_exp.quantization.quantizers import (
    BITS,
    OFF,
    QuantizationError,
    Quantizer,
    require,
)

ValueGranularity = Literal["per_tensor", "per_head", "per_channel"]  # coarse to fine
AlphaMode = Literal["online", "static"]


@dataclass(frozen=True)
class AttentionSettings:
    """What of attention is quantized, and how.

    Attributes:
        p_bits, v_bits, k_bits: 2 to 8, or 16 for "not quantized".
        v_granularity: per_head | per_tensor | per_channel, always within one request.
        k_group: neighbouring channels of one head and token that share K's range; a head that is
            not larger has one range per token.
        symmetric: K and V as signed integers without a zero point. P is unsigned in any case.
        p_clip_ratio, v_clip_ratio, k_clip_ratio: fraction of the measured range that is kept.

    Raises:
        QuantizationError: at construction, naming the setting.
    """

    p_bits: int = 4
    v_bits: int = 4
    k_bits: int = OFF
    v_granularity: ValueGranularity = "per_head"
    k_group: int = 128
    symmetric: bool = False
    p_clip_ratio: float = 1.0
    v_clip_ratio: float = 1.0
    k_clip_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("p", "v", "k"):
            bits, clip_ratio = f"{name}_bits", f"{name}_clip_ratio"
            require(bits, getattr(self, bits), (*BITS, OFF))
            if not 0 < getattr(self, clip_ratio) <= 1:
                raise QuantizationError(
                    f"{clip_ratio} = {getattr(self, clip_ratio)} must be in (0, 1]"
                )
            if getattr(self, bits) == OFF and getattr(self, clip_ratio) != 1:
                raise QuantizationError(
                    f"{clip_ratio} = {getattr(self, clip_ratio)} has no effect with {bits} = 16; "
                    "set it to 1"
                )
        require("v_granularity", self.v_granularity, get_args(ValueGranularity))
        if self.k_group < 1:
            raise QuantizationError(f"k_group = {self.k_group} must be at least 1")

    @property
    def probabilities(self) -> Quantizer | None:
        """Quantizer of P's rows, or None when P is not quantized."""
        if self.p_bits == OFF:
            return None
        return Quantizer(self.p_bits, False, "per_token", clip_ratio=self.p_clip_ratio)

    @property
    def values(self) -> Quantizer | None:
        """Grid of V; which dimensions share a range is `v_granularity`'s. None when off."""
        if self.v_bits == OFF:
            return None
        return Quantizer(self.v_bits, self.symmetric, "per_request", clip_ratio=self.v_clip_ratio)

    def keys(self, head_dim: int) -> Quantizer | None:
        """Quantizer of K's heads [..., head_dim], or None when K is not quantized."""
        if self.k_bits == OFF:
            return None
        return Quantizer(
            self.k_bits,
            self.symmetric,
            "per_group",
            group_size=min(self.k_group, head_dim),
            clip_ratio=self.k_clip_ratio,
        )


@dataclass(frozen=True)
class IaaqSettings:
    """The search for V's scale.

    Attributes:
        alphas: candidates, best first where two are equally good; Eq. 9's are 1.0 and 0.8.
        granularity: what shares an alpha: per_head | per_tensor | per_channel, within one request
            when online. Not finer than V's granularity, or V would get more scales than without
            IA-AQ.
        mode: online (searched on each call, for each request) or static (`fix_alphas`).

    Raises:
        QuantizationError: at construction, naming the setting.
    """

    alphas: tuple[float, ...] = (1.0, 0.8)
    granularity: ValueGranularity = "per_head"
    mode: AlphaMode = "online"

    def __post_init__(self) -> None:
        require("iaaq granularity", self.granularity, get_args(ValueGranularity))
        require("iaaq mode", self.mode, get_args(AlphaMode))
        distinct = len(set(self.alphas)) == len(self.alphas)
        if len(self.alphas) < 2 or not distinct or not all(0 < a <= 1 for a in self.alphas):
            raise QuantizationError(
                f"iaaq alphas = {self.alphas} must be at least two different numbers in (0, 1]; "
                "for one fixed ratio set v_clip_ratio"
            )


def require_compatible(settings: AttentionSettings, iaaq: IaaqSettings) -> None:
    """Raise QuantizationError where IA-AQ has nothing to search, or too much."""
    if settings.v_bits == OFF:
        raise QuantizationError(
            "IA-AQ searches V's scale, but v_bits = 16 leaves V unquantized; quantize V "
            "(v_bits: 4) or switch IA-AQ off"
        )
    fineness = get_args(ValueGranularity).index
    if fineness(iaaq.granularity) > fineness(settings.v_granularity):
        raise QuantizationError(
            f"iaaq granularity = {iaaq.granularity} is finer than v_granularity = "
            f"{settings.v_granularity}, so that V would get more scales than without IA-AQ; choose "
            "a granularity that is not finer, or set both"
        )
