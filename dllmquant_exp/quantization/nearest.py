"""Round to nearest: every weight to the nearest value of its own grid, without calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dllmquant_exp.quantization.method import Inputs, Rounded, Rounding
from dllmquant_exp.quantization.quantizers import Quantizer, quantize_weight


@dataclass(frozen=True)
class Nearest(Rounding):
    """The step has no settings: bits, grids and clips are `QuantSettings`'."""

    def round(
        self, weights: Sequence[Tensor], quantizer: Quantizer, inputs: Inputs
    ) -> list[Rounded]:
        return [Rounded(quantize_weight(weight, quantizer)) for weight in weights]
