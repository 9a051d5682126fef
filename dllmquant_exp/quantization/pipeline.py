"""Quantization methods, applied to a whole model in place.

    fp    nothing is touched
    rtn   round to nearest: every block linear's weight on its own grid, without calibration

Seven linears per block are quantized in both architectures: q, k, v, o, gate, up and down
projections. Head and embedding are weight-only and have bits of their own (16 = untouched).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Transformer, at_least_float32
from dllmquant_exp.quantization.linear import Padding, QuantizedLinear
from dllmquant_exp.quantization.quantizers import (
    BITS,
    OFF,
    Granularity,
    Grid,
    QuantizationError,
    Quantizer,
    fake_quantize,
    require,
)

BLOCK_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_WEIGHT_GRANULARITIES = ("per_channel", "per_tensor", "per_group")
_ACTIVATION_GRANULARITIES = ("per_token", "per_tensor", "per_group")


@dataclass(frozen=True)
class QuantSettings:
    """What is quantized and how; the same for every method, so that methods can be compared.

    Attributes:
        weight_bits, activation_bits: of the block linears; 2 to 8, or 16 for "not quantized".
        weight_granularity: per_channel | per_tensor | per_group (groups along the inputs).
        activation_granularity: per_token | per_tensor | per_group (groups along the features).
            Ranges are measured on each call; per_tensor means one range per request, padding
            excluded, so that an answer does not depend on what shares its batch.
        group_size: for the granularities that are per_group, else None.
        weight_grid: full_range | restricted | max_over_7, see quantizers.py. Weights are symmetric.
        weight_clip_ratio, activation_clip_ratio: fraction of the measured range that is kept.
        activation_symmetric: signed integers without a zero point instead of unsigned with one.
        head_bits, embedding_bits: weight only, symmetric, one range per row (token); 16 = off.

    Raises:
        QuantizationError: at construction, naming the setting.
    """

    weight_bits: int = 4
    weight_granularity: Granularity = "per_channel"
    group_size: int | None = None
    weight_grid: Grid = "full_range"
    weight_clip_ratio: float = 1.0
    activation_bits: int = 4
    activation_granularity: Granularity = "per_token"
    activation_symmetric: bool = False
    activation_clip_ratio: float = 1.0
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
        )

    @property
    def activation(self) -> Quantizer | None:
        """Quantizer of the block linears' inputs, or None when they are not quantized."""
        if self.activation_bits == OFF:
            return None
        per_tensor = self.activation_granularity == "per_tensor"
        return Quantizer(
            bits=self.activation_bits,
            symmetric=self.activation_symmetric,
            granularity="per_request" if per_tensor else self.activation_granularity,
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
class LayerReport:
    """One weight that a method touched.

    Attributes:
        name: in the model, for example `blocks.3.down_proj`.
        parameters: number of weights.
        weight_bits, activation_bits: 16 where not quantized.
        relative_weight_error: ||W - Wq||^2 / ||W||^2 (Frobenius norms).
    """

    name: str
    parameters: int
    weight_bits: int
    activation_bits: int
    relative_weight_error: float


@dataclass(frozen=True)
class QuantReport:
    """What a method did to a model.

    Attributes:
        method: fp or rtn.
        settings: None for fp, which has none.
        layers: in the model's order; empty for fp.
        block_linears: how many of the layers are block linears (seven per block).
        mean_relative_weight_error: over those block linears; None when there are none.
    """

    method: str
    settings: QuantSettings | None
    layers: tuple[LayerReport, ...]
    block_linears: int
    mean_relative_weight_error: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, for a result file."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}


def quantize(model: Transformer, method: str, settings: QuantSettings | None) -> QuantReport:
    """Quantize `model` in place.

    Args:
        model: in full precision, on any device and in any floating-point type.
        method: one of `METHODS`.
        settings: how; fp has no settings and takes None or ignores them by definition.

    Returns:
        A report of every weight touched.

    Raises:
        QuantizationError: an unknown method, a model that is quantized already, or a group size
            that does not divide a layer's inputs. The model is then untouched.
    """
    if method not in METHODS:
        raise QuantizationError(f"method {method!r} is not one of: {', '.join(METHODS)}")
    if any(isinstance(module, QuantizedLinear) for module in model.modules()):
        raise QuantizationError("the model is quantized already; load it again in full precision")
    if method == "fp":
        return QuantReport("fp", None, (), 0, None)
    if settings is None:
        raise QuantizationError(f"method {method!r} needs quantization settings")
    _check_groups(model, settings)
    with torch.no_grad():
        return _APPLY[method](model, settings)


def rtn(model: Transformer, settings: QuantSettings) -> QuantReport:
    """Round every weight to the nearest value of its grid; see `quantize`."""
    layers = []
    if settings.weight is not None or settings.activation is not None:
        for n, block in enumerate(model.blocks):
            padding = _padding_of(block, settings.activation)
            for name in BLOCK_LINEARS:
                linear = block.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                weight, error = _rounded(linear.weight, settings.weight)
                quantized = QuantizedLinear(weight, linear.bias, settings.activation, padding)
                setattr(block, name, quantized)
                layers.append(
                    LayerReport(
                        name=f"blocks.{n}.{name}",
                        parameters=weight.numel(),
                        weight_bits=settings.weight_bits,
                        activation_bits=settings.activation_bits,
                        relative_weight_error=error,
                    )
                )
    errors = [layer.relative_weight_error for layer in layers]
    return QuantReport(
        method="rtn",
        settings=settings,
        layers=(*layers, *_quantize_ends(model, settings)),
        block_linears=len(layers),
        mean_relative_weight_error=sum(errors) / len(errors) if errors else None,
    )


_APPLY: dict[str, Callable[[Transformer, QuantSettings], QuantReport]] = {"rtn": rtn}
METHODS = ("fp", *_APPLY)


def _quantize_ends(model: Transformer, settings: QuantSettings) -> list[LayerReport]:
    """Embedding and head: weights only, in place, one range per row."""
    reports = []
    for name, bits in (("embedding", settings.embedding_bits), ("head", settings.head_bits)):
        quantizer = settings.rows(bits)
        if quantizer is None:
            continue
        module = model.get_submodule(name)
        assert isinstance(module, nn.Embedding | nn.Linear)
        weight, error = _rounded(module.weight, quantizer)
        module.weight = nn.Parameter(weight, requires_grad=False)
        reports.append(LayerReport(name, weight.numel(), bits, OFF, error))
    return reports


def _rounded(weight: Tensor, quantizer: Quantizer | None) -> tuple[Tensor, float]:
    """The weight on its grid and ||W - Wq||^2 / ||W||^2, 0 for a weight of zeros."""
    weight = weight.detach()
    if quantizer is None:
        return weight, 0.0
    rounded = fake_quantize(weight, quantizer)
    wide = weight.to(at_least_float32(weight.dtype))
    norm = float(wide.square().sum(dtype=torch.float64))
    error = float((wide - rounded).square().sum(dtype=torch.float64))
    return rounded, error / norm if norm > 0 else 0.0


def _padding_of(block: nn.Module, activation: Quantizer | None) -> Padding | None:
    """A reader of the block's attention mask, where ranges span tokens; else None."""
    if activation is None or activation.granularity != "per_request":
        return None
    padding = Padding()
    block.register_forward_pre_hook(padding.read)
    return padding


def _check_groups(model: Transformer, settings: QuantSettings) -> None:
    if settings.group_size is None:
        return
    for n, block in enumerate(model.blocks):
        for name in BLOCK_LINEARS:
            inputs = block.get_submodule(name).in_features
            if inputs % settings.group_size:  # type: ignore[operator]
                raise QuantizationError(
                    f"group_size = {settings.group_size} does not divide the {inputs} inputs of "
                    f"blocks.{n}.{name}; choose a divisor of every layer's inputs"
                )
