"""What a method did to a model, as it is written into a result file."""

from dataclasses import asdict, dataclass
from typing import Any

from dllmquant_exp.quantization.settings import QuantSettings


@dataclass(frozen=True)
class LayerReport:
    """One weight that a method touched.

    Attributes:
        name: in the model, for example `blocks.3.down_proj`.
        parameters: number of weights.
        weight_bits, activation_bits: 16 where not quantized.
        relative_weight_error: ||W - Wq||^2 / ||W||^2 (Frobenius norms), W as it was before it was
            rounded, so after rotation, scaling and clipping.
        gptq: how GPTQ went for it (damping and how often it was raised, dead columns, loss, tokens
            that counted and their mean weight); None for other methods.
    """

    name: str
    parameters: int
    weight_bits: int
    activation_bits: int
    relative_weight_error: float
    gptq: dict[str, Any] | None = None


@dataclass(frozen=True)
class QuantReport:
    """What a method did to a model.

    Attributes:
        method: its name.
        settings: None for fp, which has none.
        layers: in the model's order; empty for fp.
        block_linears: how many of the layers are block linears (seven per block).
        mean_relative_weight_error: over those block linears; None when there are none.
        rotation: sizes and online rotations, or None.
        awq: ratios and clips of each block; empty without AWQ.
        alphas: of static IA-AQ, for each block; empty otherwise.
        notes: what a reader must know, for example that a damping was raised.
    """

    method: str
    settings: QuantSettings | None
    layers: tuple[LayerReport, ...]
    block_linears: int
    mean_relative_weight_error: float | None
    rotation: dict[str, Any] | None = None
    awq: tuple[dict[str, Any], ...] = ()
    alphas: tuple[list[Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, for a result file."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}
