"""GPTQ with a weighted Hessian: rounding errors of early columns are made up for by later ones.

    H = (2/n) sum_t w_t x_t x_t^T          w_t = 1: GPTQ;  w_t of Eq. 10: CGQ

The objective 1/2 tr(E H E^T), E = W - Wq, is the weighted mean squared error of the layer's output
per token. Columns are rounded in order, and each sees the errors E of those before it:

    H = (A + I) D (A + I)^T                A strictly upper triangular, D diagonal
    Wq[:, k] = round(W[:, k] + E[:, :k] A[:k, k])
    1/2 tr(E H E^T) = 1/2 sum_k D[k] |what rounding alone did to column k|^2

Why this is GPTQ. The textbook (Frantar et al. 2023, Algorithm 1) takes the upper Cholesky factor U
of H^-1 = U^T U and passes each column's error on as soon as it is known:

    for i in columns:
        Wq[:, i] = round(W[:, i])
        err[:, i] = (W[:, i] - Wq[:, i]) / U[i, i]
        W[:, i+1:] -= err[:, i] U[i, i+1:]

The column that it rounds is w_k = W[:, k] - sum_{i<k} err_i U[i, k], with the original W. Since
w_k = Wq[:, k] + err_k U[k, k], all columns together say W - Wq = err U, that is E = err U. The
factor of H above gives U = D^-1/2 (A + I)^-1, so that err = E (A + I) D^1/2 and err_k U[k, k] =
E[:, k] + E[:, :k] A[:k, k]: the same w_k = W[:, k] + E[:, :k] A[:k, k]. (Chee et al. 2023, QuIP,
Theorem 6.) The form above needs one factorization of H and no inverse.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from dllmquant_exp.models.one_thread import one_thread
from dllmquant_exp.quantization.hessian import Hessian
from dllmquant_exp.quantization.method import Inputs, Rounded, Rounding, idle_without_rounding
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import (
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    parameters,
    row_scales,
)
from dllmquant_exp.quantization.reports import LayerReport
from dllmquant_exp.store.schema import Above, AtLeast, AtMost

MAX_ESCALATIONS = 6  # up to 10,000 times the mean diagonal from the default damping


@dataclass(frozen=True)
class Gptq(Rounding):
    """The step, and its settings.

    Attributes:
        damp: added to the diagonal of H, as a fraction of its mean; above 0.
        act_order: round the columns in the order of descending diag(H), not as they stand.
        block_size: columns that are rounded one by one before a matrix product passes their errors
            on. Speed only: results differ by the rounding of sums.
        dtype: type of H and of the recursion, float32 or float64.
    """

    damp: Annotated[float, Above(0), AtMost(100)] = 0.01
    act_order: bool = False
    block_size: Annotated[int, AtLeast(1)] = 128
    dtype: Literal["float32", "float64"] = "float32"

    passes: ClassVar[float | None] = 4  # one up to each group of linears that share an input

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32

    def idle(self, quant: QuantSettings) -> str | None:
        return idle_without_rounding(quant)

    def round(
        self, weights: Sequence[Tensor], quantizer: Quantizer, inputs: Inputs
    ) -> list[Rounded]:
        hessian = Hessian(weights[0].shape[1], self.torch_dtype, weights[0].device)
        for x, token_weights in inputs:
            hessian.add(x, token_weights)
        mean = hessian.total_weight / hessian.tokens
        seen = {"tokens": hessian.tokens, "mean_token_weight": mean}
        results = gptq(weights, hessian.matrix(), quantizer, self)
        return [replace(result, report={**(result.report or {}), **seen}) for result in results]

    def notes(self, layers: Sequence[LayerReport]) -> list[str]:
        raised = {x.name: x.rounding["escalations"] for x in layers
                  if x.rounding is not None and x.rounding["escalations"]}  # fmt: skip
        if not raised:
            return []
        return [
            f"GPTQ raised the damping by up to 10^{max(raised.values())} for {len(raised)} of "
            f"{len(layers)} linears, whose second moments could not be factorized: "
            f"{', '.join(list(raised)[:7])}"
        ]


def gptq(
    weights: Sequence[Tensor], hessian: Tensor, quantizer: Quantizer, settings: Gptq
) -> list[Rounded]:
    """Round the weights of layers that share their input (q, k, v; gate, up), in one pass.

    Each keeps ranges of its own. They are measured on the original weights, before any error is
    passed on and whatever the order of the columns ("static groups").

    Args:
        weights: each [out_i, in]; not changed.
        hessian: [in, in], symmetric, from `Hessian.matrix`; not changed.
        quantizer: per_channel, per_tensor or per_group.

    Returns:
        Whole numbers and scales. A report says

        damping: what was added to each diagonal element of H
        escalations: how often it was raised by 10 because H could not be factorized
        dead_columns: inputs that were 0 at every calibration token; their weights are set to 0
        loss: weighted mean over tokens of ||W x - Wq x||^2, without the damping's share

    Raises:
        QuantizationError: weights that are not finite, a group size that does not divide, or an H
            that no damping up to 10^6 times the first makes positive definite.
    """
    H = hessian.to(settings.torch_dtype)
    dead = H.diagonal() == 0
    alive = [weight.detach().masked_fill(dead, 0) for weight in weights]
    order = (
        torch.argsort(H.diagonal(), descending=True, stable=True) if settings.act_order else None
    )
    A, D, damping, escalations = _factorize(H, dead, order, settings.damp)
    columns = _Columns.of(alive, quantizer, order, settings.torch_dtype)
    numbers, errors, updated = _round_columns(columns, A, quantizer, settings.block_size)

    rounded = numbers * columns.scale[columns.group]
    loss = ((updated - rounded).square() * D[:, None]).sum(0) - damping * errors.square().sum(0)
    back = numbers if order is None else torch.empty_like(numbers).index_copy_(0, order, numbers)
    results, low = [], 0
    for weight in weights:
        rows = slice(low, low := low + len(weight))
        scale = columns.scale[:, rows].T.contiguous()
        found = QuantizedWeight(back[:, rows].T.to(torch.int8).contiguous(), scale)
        report = {
            "damping": damping,
            "escalations": escalations,
            "dead_columns": int(dead.sum()),
            "loss": max(0.0, float(loss[rows].double().sum()) / 2),
        }
        results.append(Rounded(found, report))
    return results


@dataclass(frozen=True)
class _Columns:
    """Weights and their grids, one row per column, in the order of rounding.

    w: [in, rows], rows of all weights side by side: columns are contiguous here.
    scale, zero: [groups, rows]; group[k] is the group of column k.
    """

    w: Tensor
    scale: Tensor
    zero: Tensor
    group: list[int]

    @staticmethod
    def of(
        weights: Sequence[Tensor], quantizer: Quantizer, order: Tensor | None, dtype: torch.dtype
    ) -> "_Columns":
        scales: list[Tensor] = []
        zeros: list[Tensor] = []
        for weight in weights:
            measured = parameters(weight, quantizer)
            for found, into in ((measured.scale, scales), (measured.zero, zeros)):
                into.append(row_scales(found, len(weight)).T.to(dtype))
        w = torch.cat([weight.to(dtype) for weight in weights]).T
        index = torch.arange(len(w), device=w.device) if order is None else order
        size = quantizer.group_size or len(w)
        return _Columns(
            w[index].contiguous(),  # a copy, always
            torch.cat(scales, dim=1),
            torch.cat(zeros, dim=1),
            (index // size).tolist(),
        )


def _round_columns(
    columns: _Columns, A: Tensor, quantizer: Quantizer, block_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The recursion of the module's docstring, everything transposed: [in, rows].

    Errors are passed on by halves: once the left half of a range is rounded, one matrix product
    takes its errors to the right half. Ranges of `block_size` columns are rounded one by one.

    Returns: whole numbers, E = W - Wq, and the weights as they were just before rounding.
    """
    W = columns.w
    E, N = W.clone(), torch.empty_like(W)
    At = A.T.contiguous()
    scale, low, high = (
        tensor.unbind()
        for tensor in (
            columns.scale,
            quantizer.lowest - columns.zero,
            quantizer.highest - columns.zero,
        )
    )
    step = torch.empty_like(W[0])

    def one_by_one(start: int, stop: int) -> None:
        for k in range(start, stop):
            g, w, n = columns.group[k], W[k], N[k]
            if k > start:
                w.addmv_(E[start:k].T, At[k, start:k])
            torch.div(w, scale[g], out=step)
            torch.clamp(step.round_(), low[g], high[g], out=n)
            E[k].sub_(torch.mul(n, scale[g], out=step))

    def halves(start: int, stop: int) -> None:
        if stop - start <= block_size:
            return one_by_one(start, stop)
        blocks = -(-(stop - start) // block_size)
        middle = start + (blocks + 1) // 2 * block_size
        halves(start, middle)
        W[middle:stop].addmm_(At[middle:stop, start:middle], E[start:middle])
        halves(middle, stop)

    halves(0, len(W))
    return N, E, W


def _factorize(
    H: Tensor, dead: Tensor, order: Tensor | None, damp: float
) -> tuple[Tensor, Tensor, float, int]:
    """A [in, in] and D [in] with H + damping I = (A + I) D (A + I)^T, in `order`.

    Returns also the damping, and how often it had to be raised by 10.
    """
    live = H.diagonal()[~dead]
    mean = float(live.mean()) if len(live) else 1.0
    # Any positive value does for a dead column: its weights are 0 and stay so.
    H = H + torch.diag(dead.to(H.dtype) * mean)
    if order is not None:
        H = H[order][:, order]
    flipped = H.flip(0, 1)  # lower factor of the flipped matrix = upper factor of H, flipped
    for escalations in range(MAX_ESCALATIONS + 1):
        damping = damp * 10**escalations * mean
        damped = flipped.clone()
        damped.diagonal().add_(damping)
        with one_thread():
            lower, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed) and bool(lower.isfinite().all()):
            upper = lower.flip(0, 1)
            root = upper.diagonal().clone()
            return torch.triu(upper / root, 1), root.square(), damping, escalations
    raise QuantizationError(
        f"the Hessian is not positive definite even with {damping:.3g} added to its diagonal (mean "
        f"{mean:.3g}); use more calibration tokens or dtype float64"
    )
