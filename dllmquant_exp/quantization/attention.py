"""Quantized attention: K, the softmax output P and V.

    S = q K^T / sqrt(head_dim),   P = softmax(S),   O = Q(P) Q(V)

- K: asymmetric, one range per head and token, or per group of `k_group` channels of a head
- P: one range per row (query token and head), unsigned from 0, which is P's smallest value
- V: one range per request and head (or per request, or per request, head and channel). V's scale
  never varies along the tokens: P V sums over them, and an integer product needs one scale for all
  terms of a sum

Ranges are measured on each call and for each request, without its padding, so that an answer does
not depend on what shares its batch. Where P and V are both quantized, their integers are multiplied
and the scales applied to the sums. Such products are exact (below 2^24 in float32), so that neither
padding nor the shape of a batch can change them, not even in the last bit.

With IA-AQ (iaaq.py) V's scale is multiplied by an alpha that is chosen by what P makes of V. P is
the largest tensor of a block on long sequences: it is computed for a few rows at a time, which stay
in the cache while they are multiplied with V and every V_hat(alpha): on the CPU by a kernel
(kernels/fast_attention.py), elsewhere by products of matrices.

With grouped-query attention, the G query heads that read one head of K and V are folded into the
rows: [B, kv_heads * G, T, D] -> [B, kv_heads, G * T, D]. Neither K nor V is ever repeated.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import (
    AttentionFunction,
    Block,
    at_least_float32,
    attention,
    whole_lanes,
)
from dllmquant_exp.quantization.blockwise import BlockBatch
from dllmquant_exp.quantization.hadamard import OnlineHadamard
from dllmquant_exp.quantization.iaaq import SHARED_DIMENSIONS, Iaaq
from dllmquant_exp.quantization.kernels.fast_attention import rounded_products
from dllmquant_exp.quantization.quant_settings import AttentionSettings
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    Quantizer,
    fake_quantize,
    to_integers,
    value_range,
)

_P_AT_ONCE = 2**20  # numbers of P, 4 MB in float32
_ROWS_AT_ONCE = 64  # of each head, at least: matrix products of fewer rows are slow


class QuantizedAttention(nn.Module):
    """A drop-in for transformer.attention with quantized K, P and V.

    Args:
        settings: what is quantized.
        iaaq: the search for V's scale, which fits these settings (see `Iaaq.check`); None uses
            the plain scale (alpha = 1).
    """

    choice: Tensor | None  # static mode: index of the alpha, shaped like `losses` of one request

    def __init__(self, settings: AttentionSettings, iaaq: Iaaq | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.iaaq = iaaq
        # An index rather than the alpha itself, so that no cast to a narrow type changes it.
        self.register_buffer("choice", None)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q: [B, heads, T, D]; k, v: [B, kv_heads, T, D]; mask: [B, 1, 1, T], True at real tokens.

        Returns [B, heads, T, D]; rows at padding are finite, but mean nothing.
        """
        if not q.numel():
            return torch.empty_like(q)
        if self.settings.probabilities is None and self.iaaq is None:
            [(values, scale)] = self._on_grid(v, mask, [None])
            return attention(q, self._quantized_keys(k), (values * scale).to(v.dtype), mask)
        parts = [self._attend(*part) for part in _requests_at_once(q, k, v, mask)]
        return _joined(parts, 0).to(q.dtype)

    def losses(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Eq. 7 for each candidate: [alphas, B, kv_heads | 1, 1, D | 1]; see `Iaaq.losses`."""
        assert self.iaaq is not None
        parts = [
            self.iaaq.losses(*self._candidates(q, k, v, mask), mask)
            for q, k, v, mask in _requests_at_once(q, k, v, mask)
        ]
        return torch.cat(parts, dim=1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`forward` of some of the requests, in float32 or better."""
        if self.iaaq is not None and not self.iaaq.static:
            return self.iaaq.best(*self._candidates(q, k, v, mask), mask).reshape(q.shape)
        [(values, scale)] = self._on_grid(v, mask, [self._fixed_alpha(v)])
        [product] = self._products(q, k, [values], mask)
        return product.mul_(scale).reshape(q.shape)

    def _candidates(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """P V_hat(alpha) of each alpha, and P V, each [B, kv_heads, G * T, D]."""
        assert self.iaaq is not None
        wide = v.to(at_least_float32(v.dtype))
        grids = self._on_grid(v, mask, self.iaaq.alphas)
        values = [*(integers for integers, _ in grids), wide]
        *outputs, exact = self._products(q, k, values, mask)
        return [y.mul_(scale) for y, (_, scale) in zip(outputs, grids, strict=True)], exact

    def _products(
        self, q: Tensor, k: Tensor, values: Sequence[Tensor], mask: Tensor | None
    ) -> list[Tensor]:
        """P times each of `values` [B, kv_heads, T, D], a few rows of P at a time."""
        k = self._quantized_keys(k)
        if self.settings.probabilities is not None:
            fast = rounded_products(q, k, values, mask, self.settings.probabilities)
            if fast is not None:
                return fast
        requests, heads, length, _ = q.shape
        rows = max(_ROWS_AT_ONCE, _P_AT_ONCE // (requests * heads * length))
        values = [whole_lanes(k, value, mask)[1] for value in values]
        k, _, mask = whole_lanes(k, k, mask)
        parts: list[list[Tensor]] = [[] for _ in values]
        for part in q.split(rows, dim=2):
            p, scale = attention_weights(part, k, mask), None
            if self.settings.probabilities is not None:
                p, scale = quantize_probabilities(p, self.settings.probabilities)
            for value, found in zip(values, parts, strict=True):
                product = p @ value if scale is None else (p @ value).mul_(scale)
                # [B, kv_heads, G, rows, D]
                found.append(product.unflatten(2, (-1, part.shape[2])))
        return [_joined(found, 3).flatten(2, 3) for found in parts]

    def _quantized_keys(self, k: Tensor) -> Tensor:
        quantizer = self.settings.keys(k.shape[-1])
        return k if quantizer is None else fake_quantize(k, quantizer)

    def _on_grid(
        self, v: Tensor, mask: Tensor | None, alphas: Sequence[Tensor | float | None]
    ) -> list[tuple[Tensor, Tensor]]:
        """V's integers without their zero point, and alpha * s_hat (None: s_hat), for each alpha.

        Pairs of V and 1 where V is not quantized. The zero point does not depend on alpha: both
        ends of the range shrink alike.
        """
        # In the order of its dimensions: all passes over it are then several times as fast.
        wide = v.to(at_least_float32(v.dtype)).contiguous()
        if self.settings.values is None:
            return [(wide, wide.new_ones(()))] * len(alphas)
        measured, grids = value_parameters(wide, mask, self.settings), []
        for alpha in alphas:
            scaled = Parameters(measured.scale * (1.0 if alpha is None else alpha), measured.zero)
            integers = to_integers(wide, self.settings.values, scaled)
            grids.append((integers.sub_(scaled.zero), scaled.scale))
        return grids

    def _fixed_alpha(self, v: Tensor) -> Tensor | None:
        """Broadcastable to V [B, kv_heads, T, D]; None without IA-AQ."""
        if self.iaaq is None:
            return None
        if self.choice is None:
            raise QuantizationError(
                "static IA-AQ has no alphas yet: call fix_alphas with calibration batches first, "
                "or use mode online"
            )
        wide = at_least_float32(v.dtype)
        return torch.tensor(self.iaaq.alphas, dtype=wide, device=v.device)[self.choice]

    def extra_repr(self) -> str:
        return f"{self.settings}, {self.iaaq}"


class RotatedAttention(nn.Module):
    """Attention whose q and k are rotated per head: q k^T stays, outliers of k are spread.

    Args:
        inner: the attention that follows, for example one that quantizes k.
        head_dim: the rotation's size.

    Raises:
        QuantizationError: there is no H_head_dim.
    """

    def __init__(self, inner: AttentionFunction, head_dim: int) -> None:
        super().__init__()
        self.inner = inner
        self.rotation = OnlineHadamard(head_dim, name="head_dim")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """See `transformer.attention`; q and k behind RoPE."""
        return self.inner(self.rotation(q), self.rotation(k), v, mask)


def set_attention(block: Block, quantized: QuantizedAttention) -> None:
    """Put quantized attention in the place of the plain one, inside a rotation if there is one."""
    if isinstance(block.attention, RotatedAttention):
        block.attention.inner = quantized
    else:
        block.attention = quantized


def quantized_attention(block: nn.Module) -> QuantizedAttention | None:
    """The quantized attention of a block, wherever it lies in it."""
    return next((m for m in block.modules() if isinstance(m, QuantizedAttention)), None)


def _requests_at_once(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """A few requests at a time: they do not see each other, and P is bounded."""
    _, heads, length, _ = q.shape
    size = max(1, _P_AT_ONCE // (heads * length * min(length, _ROWS_AT_ONCE)))
    masks = itertools.repeat(None) if mask is None else mask.split(size)
    return zip(q.split(size), k.split(size), v.split(size), masks, strict=False)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """One part alone needs no copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) in float32 or better, [B, kv_heads, G * T, T], 0 at padded keys.

    See the module's docstring for G; other shapes as in `QuantizedAttention.forward`.
    """
    batch, kv_heads, _, head_dim = k.shape
    wide = at_least_float32(q.dtype)
    rows = q.to(wide).reshape(batch, kv_heads, -1, head_dim)  # heads [kv_heads, G], then T
    scores = rows @ k.to(wide).transpose(2, 3) * head_dim**-0.5
    if mask is None:
        return scores.softmax(-1)
    # Adding takes half the time of filling in P's shape.
    padding = torch.zeros(mask.shape, dtype=wide, device=mask.device).masked_fill_(
        ~mask, -torch.inf
    )
    p = scores.add_(padding).softmax(-1)
    # A request without any real token has no softmax; like PyTorch's attention, give it zeros.
    nothing = ~mask.any(-1, keepdim=True)
    return p.masked_fill_(nothing, 0) if bool(nothing.any()) else p


def quantize_probabilities(p: Tensor, quantizer: Quantizer) -> tuple[Tensor, Tensor]:
    """Integers, in place, and scale [..., 1] of rows [..., T] that are 0 or more.

    Those of `fake_quantize`: the zero point is 0 and nothing lies below the grid. Each pass over P
    that can be saved counts.
    """
    peak = p.amax(-1, keepdim=True) * quantizer.clip_ratio
    scale = peak / quantizer.highest
    scale = torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
    p.div_(scale).round_()
    if quantizer.clip_ratio < 1:
        p.clamp_(max=quantizer.highest)
    return p, scale


def value_parameters(v: Tensor, mask: Tensor | None, settings: AttentionSettings) -> Parameters:
    """Scale s_hat (Eq. 8) and zero point of V [B, kv_heads, T, D], broadcastable to it."""
    quantizer = settings.values
    assert quantizer is not None
    keep = None if mask is None else mask.transpose(2, 3)  # [B, 1, T, 1]
    return value_range(v, SHARED_DIMENSIONS[settings.v_granularity], keep).parameters(quantizer)


def fix_alphas(block: nn.Module, batches: Iterable[BlockBatch]) -> Tensor:
    """Choose the alphas of a static `block.attention` from calibration, and keep them.

    Losses are summed over all requests of all batches, then minimised. Beyond its attention the
    block runs as it is, so quantize its q, k and v projections first if their error should count.

    Args:
        block: its attention is a `QuantizedAttention` with static IA-AQ.
        batches: at least one.

    Returns:
        The alphas in float64, [1, kv_heads | 1, 1, D | 1].

    Raises:
        QuantizationError: NaN or infinite values in a batch; the alphas are then as they were.
    """
    module = quantized_attention(block)
    assert module is not None and module.iaaq is not None and module.iaaq.static
    totals: list[Tensor] = []

    def read(attention: nn.Module, args: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> None:
        totals.append(module.losses(*args).sum(1, keepdim=True, dtype=torch.float64))

    before = module.choice
    # While losses are gathered, any alpha will do for the output, which is thrown away.
    module.choice = torch.zeros((1, 1, 1, 1), dtype=torch.int64)
    hook = module.register_forward_pre_hook(read)
    try:
        for batch in batches:
            batch.run(block)
        losses = torch.stack(totals).sum(0)
        if not bool(losses.isfinite().all()):
            raise QuantizationError("NaN or infinite queries or keys reached static IA-AQ's search")
        before = losses.argmin(0)
    finally:
        hook.remove()
        module.choice = before
    return torch.tensor(module.iaaq.alphas, dtype=torch.float64, device=before.device)[before]
