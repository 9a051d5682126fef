"""The report of a quantization, as it is written into a result file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dllmquant_exp.quantization.quant_settings import QuantSettings


@dataclass(frozen=True)
class LayerReport:
    """One weight that a method rounded.

    Attributes:
        name: in the model, for example `blocks.3.down_proj`.
        parameters: number of weights.
        weight_bits, activation_bits: 16 where not quantized.
        relative_weight_error: ||W - Wq||^2 / ||W||^2 (Frobenius norms), W as it was before it was
            rounded, so after rotation, scaling and clipping.
        rounding: what the method's last step says about it, such as GPTQ's damping; None where it
            says nothing.
    """

    name: str
    parameters: int
    weight_bits: int
    activation_bits: int
    relative_weight_error: float
    rounding: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class QuantReport:
    """The work of a method on a model.

    Attributes:
        method: its name.
        settings: None for fp, which has none.
        layers: in the model's order; empty for fp.
        block_linears: how many of the layers are block linears (seven per block).
        mean_relative_weight_error: over those block linears; None when there are none.
        steps: report of each step by its key in the method, about the model or about each block;
            steps without a report are left out.
        alphas: static IA-AQ's, for each block; empty otherwise.
        notes: remarks for readers, for example that a damping was raised.
    """

    method: str
    settings: QuantSettings | None
    layers: tuple[LayerReport, ...]
    block_linears: int
    mean_relative_weight_error: float | None
    steps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    alphas: tuple[list[Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, for a result file."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}
