"""The settings that every method shares: bits, grids and granularities."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from dllmquant_exp.quantization.quantizers import (
    OFF,
    ClipExponent,
    ClipRatio,
    Grid,
    GroupSize,
    QuantizationError,
    Quantizer,
)
from dllmquant_exp.store.schema import AtLeast, Settings

Bits = Literal[2, 3, 4, 5, 6, 7, 8, 16]
ValueGranularity = Literal["per_tensor", "per_head", "per_channel"]  # coarse to fine


@dataclass(frozen=True)
class AttentionSettings(Settings):
    """Bits, granularities and clips of K, P and V; see attention.py.

    Attributes:
        p_bits, v_bits, k_bits: 2 to 8, or 16 for "not quantized".
        v_granularity: per_head | per_tensor | per_channel, always within one request.
        k_group: neighbouring channels of one head and token that share K's range; a head that is
            not larger has one range per token.
        symmetric: K and V as signed integers without a zero point. P is unsigned in any case.
        p_clip_ratio, v_clip_ratio, k_clip_ratio: fraction of the measured range that is kept.

    Raises:
        ConfigError, QuantizationError: at construction, naming the setting.
    """

    p_bits: Bits = 4
    v_bits: Bits = 4
    k_bits: Bits = OFF
    v_granularity: ValueGranularity = "per_head"
    k_group: Annotated[int, AtLeast(1)] = 128
    symmetric: bool = False
    p_clip_ratio: ClipRatio = 1.0
    v_clip_ratio: ClipRatio = 1.0
    k_clip_ratio: ClipRatio = 1.0

    @cached_property
    def probabilities(self) -> Quantizer | None:
        """Quantizer of P's rows, or None when P is not quantized."""
        if self.p_bits == OFF:
            return None
        return Quantizer(self.p_bits, False, "per_token", clip_ratio=self.p_clip_ratio)

    @cached_property
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("p", "v", "k"):
            ratio = getattr(self, f"{name}_clip_ratio")
            if getattr(self, f"{name}_bits") == OFF and ratio != 1:
                raise QuantizationError(
                    f"{name}_clip_ratio = {ratio} has no effect with {name}_bits = 16; set it to 1"
                )


@dataclass(frozen=True)
class QuantSettings(Settings):
    """Bits, grids and granularities; the same for every method, so that methods can be compared.

    Attributes:
        weight_bits, activation_bits: of the blocks' linears; 2 to 8, or 16 for "not
            quantized".
        weight_granularity: per_channel | per_tensor | per_group (groups along the inputs).
        activation_granularity: per_token | per_tensor | per_group (groups along the features).
            Where ranges are dynamic, per_tensor means one range per request, padding excluded, so
            that an answer does not depend on what shares its batch.
        group_size: for the granularities that are per_group, else None.
        weight_grid: full_range | restricted | max_over_7, see quantizers.py. Weights are symmetric.
        weight_clip_ratio, activation_clip_ratio: fraction of the measured range that is kept.
        weight_clip_search: None, or the exponent p of the |error|^p by which the best clip ratio of
            each weight range is searched (2.0 = MSE, 2.4 = GPTQ's reference).
        activation_ranges: dynamic (measured on each call) | static (calibrated, per_tensor only;
            Table 6).
        activation_symmetric: signed integers without a zero point instead of unsigned with one.
        attention: bits of the softmax output P, of V and of K; None quantizes none of them.
        head_bits, embedding_bits: weight only, symmetric, one range per row (token); 16 = off.

    Raises:
        ConfigError, QuantizationError: at construction, naming the setting.
    """

    weight_bits: Bits = 4
    weight_granularity: Literal["per_channel", "per_tensor", "per_group"] = "per_channel"
    group_size: GroupSize | None = None
    weight_grid: Grid = "full_range"
    weight_clip_ratio: ClipRatio = 1.0
    weight_clip_search: ClipExponent | None = None
    activation_bits: Bits = 4
    activation_granularity: Literal["per_token", "per_tensor", "per_group"] = "per_token"
    activation_symmetric: bool = False
    activation_clip_ratio: ClipRatio = 1.0
    activation_ranges: Literal["dynamic", "static"] = "dynamic"
    attention: AttentionSettings | None = None
    head_bits: Bits = OFF
    embedding_bits: Bits = OFF

    @property
    def static(self) -> bool:
        """Activation ranges come from calibration."""
        return self.activation_ranges == "static"

    @property
    def weight(self) -> Quantizer | None:
        """Quantizer of the block linears' weights, or None when they are not quantized."""
        if self.weight_bits == OFF:
            return None
        return Quantizer(
            bits=self.weight_bits,
            symmetric=True,
            granularity=self.weight_granularity,
            group_size=self.group_size if self.weight_granularity == "per_group" else None,
            grid=self.weight_grid,
            clip_ratio=self.weight_clip_ratio,
            clip_search=self.weight_clip_search,
        )

    @property
    def activation(self) -> Quantizer | None:
        """Quantizer of the block linears' inputs, or None when they are not quantized."""
        if self.activation_bits == OFF:
            return None
        # A range measured on each call is a request's own: answers do not depend on their batch.
        per_request = self.activation_granularity == "per_tensor" and not self.static
        return Quantizer(
            bits=self.activation_bits,
            symmetric=self.activation_symmetric,
            granularity="per_request" if per_request else self.activation_granularity,
            group_size=self.group_size if self.activation_granularity == "per_group" else None,
            clip_ratio=self.activation_clip_ratio,
        )

    def rows(self, bits: int) -> Quantizer | None:
        """Quantizer of the embedding's or the head's rows at `bits`, or None at 16."""
        if bits == OFF:
            return None
        return Quantizer(
            bits=bits, symmetric=True, granularity="per_channel", grid=self.weight_grid
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        granularities = (self.weight_granularity, self.activation_granularity)
        if ("per_group" in granularities) != (self.group_size is not None):
            raise QuantizationError(
                f"group_size = {self.group_size} does not fit the granularities "
                f"{' and '.join(granularities)}: per_group needs a size, and without it the size "
                "has no effect; set it to null"
            )
        if self.activation_ranges == "static" and self.activation_bits == OFF:
            raise QuantizationError(
                "activation_ranges = static has no effect with activation_bits = 16; set it to "
                "dynamic"
            )
        if self.static and self.activation_granularity != "per_tensor":
            raise QuantizationError(
                f"activation_ranges = static needs activation_granularity = per_tensor, not "
                f"{self.activation_granularity}"
            )
