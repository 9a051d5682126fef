"""The weighted second moments of a layer's input, summed over calibration batches."""

import torch
from torch import Tensor

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
        self._sum = torch.zeros(features, features, dtype=dtype, device=device)  # lower strips only
        self.tokens = 0  # that counted: weight above 0
        self.total_weight = 0.0

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Count the tokens of one call.

        Args:
            x: [..., in], the layer's input.
            weights: [...], each at least 0, or None for 1 everywhere. Tokens of weight 0 (padding)
                are left out, whatever they contain.
        """
        features = self._sum.shape[0]
        x = x.reshape(-1, features).to(self._sum.dtype)
        if weights is None:
            self.total_weight += len(x)
        else:
            weights = weights.reshape(-1).to(x.dtype)
            x, weights = x[weights > 0], weights[weights > 0]
            self.total_weight += float(weights.double().sum())
            x = x * weights.sqrt()[:, None]
        self.tokens += len(x)
        for low in range(0, features, _COLUMNS):  # H is symmetric: the lower half will do
            high = min(low + _COLUMNS, features)
            self._sum[low:high, :high].addmm_(x[:, low:high].T, x[:, :high])

    def matrix(self) -> Tensor:
        """H = (2/n) sum w x x^T over the n tokens that counted, symmetric.

        Raises:
            QuantizationError: no token counted, or the sum is not finite.
        """
        if self.tokens == 0:
            raise QuantizationError("no calibration token with a weight above 0 reached the layer")
        lower = torch.tril(self._sum) * (2 / self.tokens)
        if not bool(lower.diagonal().isfinite().all()):
            raise QuantizationError(
                f"the Hessian is not finite in {lower.dtype}; check the calibration inputs, or use "
                "float64"
            )
        return lower + torch.tril(lower, -1).T
