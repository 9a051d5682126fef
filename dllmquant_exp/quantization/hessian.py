"""The weighted second moments of a layer's input, summed over calibration batches."""

import torch
from torch import Tensor

from dllmquant_exp.models.storage import all_finite
from dllmquant_exp.quantization.quantizers import QuantizationError

_COLUMNS = 256  # width of the strips of H that are summed; only those on and below the diagonal


class Hessian:
    """Sums w_t x_t x_t^T over the calls of a layer, [in, in]; layers with one input share one."""

    def __init__(
        self,
        features: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require_wide(dtype)
        self._sum = torch.zeros(features, features, dtype=dtype, device=device)  # lower strips only
        self.tokens = 0  # that counted: weight above 0
        self.total_weight = 0.0

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Count the tokens of one call.

        Args:
            x: [..., in], the layer's input.
            weights: [...], each at least 0, or None for 1 everywhere. Tokens of weight 0 (padding)
                are left out, whatever they contain.

        Raises:
            QuantizationError: shapes that do not fit, negative weights, NaN or infinite values.
        """
        features = self._sum.shape[0]
        if x.shape[-1] != features:
            raise QuantizationError(f"input with {x.shape[-1]} features, expected {features}")
        x = x.reshape(-1, features).to(self._sum.dtype)
        if weights is not None:
            x, weights = _counted(x, weights.reshape(-1).to(x.dtype))
        if not all_finite(x):
            raise QuantizationError(
                "the calibration input has NaN or infinite values; check the model's type "
                "(float16 overflows above 65504) and the calibration tokens"
            )
        self.tokens += len(x)
        self.total_weight += len(x) if weights is None else float(weights.double().sum())
        if weights is not None:
            x = x * weights.sqrt()[:, None]
        for low in range(0, features, _COLUMNS):  # H is symmetric: the lower half will do
            high = min(low + _COLUMNS, features)
            self._sum[low:high, :high].addmm_(x[:, low:high].T, x[:, :high])

    def matrix(self) -> Tensor:
        """H = (2/n) sum w x x^T over the n tokens that counted, symmetric.

        Raises:
            QuantizationError: no token counted, or the sum overflowed.
        """
        if self.tokens == 0:
            raise QuantizationError("no calibration token with a weight above 0 reached the layer")
        lower = torch.tril(self._sum) * (2 / self.tokens)
        if not bool(lower.diagonal().isfinite().all()):
            raise QuantizationError(f"the Hessian overflows {lower.dtype}; use float64")
        return lower + torch.tril(lower, -1).T


def _counted(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of x [n, in] and weights [n] whose weight is above 0."""
    if len(weights) != len(x):
        raise QuantizationError(f"{len(weights)} token weights for {len(x)} tokens")
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()):
        raise QuantizationError("token weights must be finite and at least 0")
    keep = weights > 0
    return (x, weights) if bool(keep.all()) else (x[keep], weights[keep])


def require_wide(dtype: torch.dtype) -> None:
    """Raise QuantizationError unless sums in `dtype` are wide enough to factorize."""
    if dtype not in (torch.float32, torch.float64):
        raise QuantizationError(f"dtype {dtype} must be torch.float32 or torch.float64")
