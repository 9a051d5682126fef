"""What is quantized and how: the settings that every method shares, and the methods' own."""

from dataclasses import dataclass
from typing import Literal, get_args

from dllmquant_exp.quantization.attention_settings import AttentionSettings
from dllmquant_exp.quantization.gptq import GptqSettings
from dllmquant_exp.quantization.quantizers import (
    BITS,
    OFF,
    Granularity,
    Grid,
    QuantizationError,
    Quantizer,
    require,
)

FULL_PRECISION = "fp"
ActivationRanges = Literal["dynamic", "static"]
_WEIGHT_GRANULARITIES = ("per_channel", "per_tensor", "per_group")
_ACTIVATION_GRANULARITIES = ("per_token", "per_tensor", "per_group")


@dataclass(frozen=True)
class QuantSettings:
    """What is quantized and how; the same for every method, so that methods can be compared.

    Attributes:
        weight_bits, activation_bits: of the block linears; 2 to 8, or 16 for "not quantized".
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
        attention: what of the softmax output P, of V and of K is quantized; None = nothing.
        head_bits, embedding_bits: weight only, symmetric, one range per row (token); 16 = off.

    Raises:
        QuantizationError: at construction, naming the setting.
    """

    weight_bits: int = 4
    weight_granularity: Granularity = "per_channel"
    group_size: int | None = None
    weight_grid: Grid = "full_range"
    weight_clip_ratio: float = 1.0
    weight_clip_search: float | None = None
    activation_bits: int = 4
    activation_granularity: Granularity = "per_token"
    activation_symmetric: bool = False
    activation_clip_ratio: float = 1.0
    activation_ranges: ActivationRanges = "dynamic"
    attention: AttentionSettings | None = None
    head_bits: int = OFF
    embedding_bits: int = OFF

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits", "head_bits", "embedding_bits"):
            require(name, getattr(self, name), (*BITS, OFF))
        require("weight_granularity", self.weight_granularity, _WEIGHT_GRANULARITIES)
        require("activation_granularity", self.activation_granularity, _ACTIVATION_GRANULARITIES)
        require("weight_grid", self.weight_grid, get_args(Grid))
        for name in ("weight_clip_ratio", "activation_clip_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise QuantizationError(f"{name} = {getattr(self, name)} must be in (0, 1]")
        require("activation_ranges", self.activation_ranges, get_args(ActivationRanges))
        if self.static and self.activation_granularity != "per_tensor":
            raise QuantizationError(
                f"activation_ranges = static needs activation_granularity = per_tensor, not "
                f"{self.activation_granularity}"
            )
        if self.activation_ranges == "static" and not self.static:
            raise QuantizationError(
                "activation_ranges = static has no effect with activation_bits = 16; set it to "
                "dynamic"
            )
        grouped = "per_group" in (self.weight_granularity, self.activation_granularity)
        if grouped and (self.group_size is None or self.group_size < 1):
            raise QuantizationError(
                f"group_size = {self.group_size} must be at least 1 with a per_group granularity"
            )
        if not grouped and self.group_size is not None:
            raise QuantizationError(
                f"group_size = {self.group_size} has no effect without a per_group granularity; "
                "set it to null"
            )

    @property
    def static(self) -> bool:
        """Activation ranges come from calibration."""
        return self.activation_ranges == "static" and self.activation_bits != OFF

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


@dataclass(frozen=True)
class RotationSettings:
    """QuaRot's rotations; see rotation.py.

    Attributes:
        seed: of the random signs of the residual rotation.
        keys: rotate q and k per head after RoPE, for quantized keys.
    """

    seed: int = 0
    keys: bool = False


_NAMES = {  # rotation, awq, gptq
    (False, True, False): "awq",
    (False, False, True): "gptq",
    (False, True, True): "awq_gptq",
    (True, False, True): "quarot",
    (True, False, False): "quarot_rtn",
}


@dataclass(frozen=True)
class MethodSettings:
    """A method is what is done to the weights before they are rounded, and how they are rounded.

    Attributes:
        name: as tables show it, fixed by the rest; fp is full precision.
        rotation: rotate the model first (QuaRot), or None.
        awq: scale and clip by AWQ's search before rounding.
        gptq: round by GPTQ; None rounds to the nearest.

    Raises:
        QuantizationError: a name that says something else, or rotation and AWQ together.
    """

    name: str
    rotation: RotationSettings | None = None
    awq: bool = False
    gptq: GptqSettings | None = None

    def __post_init__(self) -> None:
        steps = (self.rotation is not None, self.awq, self.gptq is not None)
        if self.rotation is not None and self.awq:
            raise QuantizationError("AWQ scales channels that a rotation mixes: choose one of them")
        names = (FULL_PRECISION, "rtn") if not any(steps) else (_NAMES[steps],)
        if self.name not in names:
            raise QuantizationError(
                f"name = {self.name!r}, but these settings are those of {' or '.join(names)}; "
                "choose method=..., or give the name that fits"
            )

    @property
    def quantizes(self) -> bool:
        return self.name != FULL_PRECISION
