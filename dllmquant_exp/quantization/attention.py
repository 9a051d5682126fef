"""Quantized attention: K, the softmax output P and V, and IA-AQ's search for V's scale.

    S = q K^T / sqrt(head_dim),   P = softmax(S),   O = Q(P) Q(V)

- K: asymmetric, one range per head and token, or per group of `k_group` channels of a head
- P: one range per row (query token and head), unsigned from 0, which is P's smallest value
- V: one range per request and head (or per request, or per request, head and channel). V's scale
  never varies along the tokens: P V sums over them, and an integer product needs one scale for all
  terms of a sum

Ranges are measured on each call and for each request, without its padding, so that an answer does
not depend on what shares its batch. As in linear.py, the arithmetic is floating point on values
that a low-bit format represents exactly.

IA-AQ (Eq. 7-9) multiplies V's scale by the alpha that minimises || P (V_hat(alpha) - V) ||_F^2, the
error of V weighted by the quantized softmax output. Eq. 7 leaves out the dequantization; without it
the norm compares integers with reals. All ranges of V that share an alpha share one norm, so that
each norm can be minimised on its own.

With grouped-query attention, the G query heads that read one head of K and V are folded into the
rows: [B, kv_heads * G, T, D] -> [B, kv_heads, G * T, D]. Neither K nor V is ever repeated.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import at_least_float32, attention
from dllmquant_exp.quantization.attention_settings import (
    AttentionSettings,
    IaaqSettings,
    ValueGranularity,
    require_compatible,
)
from dllmquant_exp.quantization.blockwise import BlockBatch
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    Quantizer,
    fake_quantize,
    from_integers,
    to_integers,
    value_range,
)

# Dimensions of V [B, kv_heads, T, D] that share a range. Tokens always do, requests never.
_SHARED: dict[ValueGranularity, tuple[int, ...]] = {
    "per_tensor": (1, 2, 3),
    "per_head": (2, 3),
    "per_channel": (2,),
}


_LARGEST_P = 2**24  # numbers, 64 MB in float32


class QuantizedAttention(nn.Module):
    """A drop-in for transformer.attention with quantized K, P and V.

    Args:
        settings: what is quantized.
        iaaq: the search for V's scale; None uses the plain scale (alpha = 1).

    Raises:
        QuantizationError: IA-AQ without a quantized V, or finer than it.
    """

    choice: Tensor | None  # static mode: index of the alpha, shaped like `alpha_losses` of one B

    def __init__(self, settings: AttentionSettings, iaaq: IaaqSettings | None = None) -> None:
        super().__init__()
        if iaaq is not None:
            require_compatible(settings, iaaq)
        self.settings = settings
        self.iaaq = iaaq
        # An index rather than the alpha itself, so that no cast to a narrow type changes it.
        self.register_buffer("choice", None)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q: [B, heads, T, D]; k, v: [B, kv_heads, T, D]; mask: [B, 1, 1, T], True at real tokens.

        Returns [B, heads, T, D]; rows at padding are finite, but mean nothing.

        Requests do not see each other, so a few at a time bound the memory that P takes.
        """
        at_once = max(1, _LARGEST_P // (q.shape[1] * q.shape[2] ** 2))
        masks = [None] * len(q) if mask is None else mask.split(at_once)
        parts = zip(q.split(at_once), k.split(at_once), v.split(at_once), masks, strict=False)
        return torch.cat([self._attend(*part) for part in parts])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`forward` of some of the requests."""
        k = self._quantized_keys(k)
        if self.settings.probabilities is None and self.iaaq is None:
            return attention(q, k, self._quantized_values(v, mask, None).to(v.dtype), mask)
        p = self._quantized_weights(q, k, mask)
        v_hat = self._quantized_values(v, mask, self._alpha(p, v, mask))
        return (p @ v_hat.to(p.dtype)).reshape(q.shape).to(q.dtype)

    def losses(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Eq. 7 for each candidate: [alphas, B, kv_heads | 1, 1, D | 1]; see `alpha_losses`."""
        if self.iaaq is None:
            raise QuantizationError("IA-AQ is off, so that there are no alphas to compare")
        p = self._quantized_weights(q, self._quantized_keys(k), mask)
        return alpha_losses(p, v, mask, self.settings, self.iaaq)

    def _quantized_keys(self, k: Tensor) -> Tensor:
        quantizer = self.settings.keys(k.shape[-1])
        return k if quantizer is None else fake_quantize(k, quantizer)

    def _quantized_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        p = attention_weights(q, k, mask)
        quantizer = self.settings.probabilities
        return p if quantizer is None else quantize_probabilities(p, quantizer)

    def _quantized_values(self, v: Tensor, mask: Tensor | None, alpha: Tensor | None) -> Tensor:
        if self.settings.values is None:
            return v
        measured = value_parameters(v, mask, self.settings)
        return _on_grid(v, self.settings.values, measured, 1.0 if alpha is None else alpha)

    def _alpha(self, p: Tensor, v: Tensor, mask: Tensor | None) -> Tensor | None:
        """Broadcastable to V [B, kv_heads, T, D]; None without IA-AQ."""
        if self.iaaq is None:
            return None
        if self.iaaq.mode == "online":
            choice = alpha_losses(p, v, mask, self.settings, self.iaaq).argmin(0)
        elif self.choice is not None:
            choice = self.choice
        else:
            raise QuantizationError(
                "static IA-AQ has no alphas yet: call fix_alphas with calibration batches first, "
                "or use mode online"
            )
        return torch.tensor(self.iaaq.alphas, dtype=p.dtype, device=p.device)[choice]

    def extra_repr(self) -> str:
        return f"{self.settings}, {self.iaaq}"


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
    # A request without any real token has no softmax; like PyTorch's attention, give it zeros.
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)


def quantize_probabilities(p: Tensor, quantizer: Quantizer) -> Tensor:
    """`fake_quantize(p, quantizer)` of rows that are 0 or more, in place.

    Their zero point is 0 and nothing is below the grid. P is the largest tensor of a block on long
    sequences, so that each pass over it that can be saved counts.
    """
    peak = p.amax(-1, keepdim=True) * quantizer.clip_ratio
    scale = peak / quantizer.highest
    scale = torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
    p.div_(scale).round_()
    if quantizer.clip_ratio < 1:
        p.clamp_(max=quantizer.highest)
    return p.mul_(scale)


def value_parameters(v: Tensor, mask: Tensor | None, settings: AttentionSettings) -> Parameters:
    """Scale s_hat (Eq. 8) and zero point of V [B, kv_heads, T, D], broadcastable to it."""
    quantizer = settings.values
    if quantizer is None:
        raise QuantizationError(f"v_bits = {settings.v_bits}: V is not quantized and has no scale")
    keep = None if mask is None else mask.transpose(2, 3)  # [B, 1, T, 1]
    return value_range(v, _SHARED[settings.v_granularity], keep).parameters(quantizer)


def alpha_losses(
    p: Tensor, v: Tensor, mask: Tensor | None, settings: AttentionSettings, iaaq: IaaqSettings
) -> Tensor:
    """|| P (V_hat(alpha) - V) ||_F^2 of Eq. 7, for each candidate and whatever shares an alpha.

    Args:
        p: [B, kv_heads, G * T, T], the quantized softmax output.
        v: [B, kv_heads, T, D], not quantized.
        mask: [B, 1, 1, T]; rows and keys at padding do not count.

    Returns:
        [alphas, B, kv_heads | 1, 1, D | 1], in float32 or better: size 1 where an alpha is shared.
    """
    assert settings.values is not None
    measured = value_parameters(v, mask, settings)
    if mask is not None:
        rows = mask.repeat(1, 1, 1, p.shape[2] // p.shape[3]).transpose(2, 3)  # [B, 1, G * T, 1]
        p = p.masked_fill(~rows, 0)
    losses = []
    for alpha in iaaq.alphas:
        v_hat = _on_grid(v, settings.values, measured, alpha)
        error = p @ (v_hat - v).to(p.dtype)
        losses.append(error.square().sum(_SHARED[iaaq.granularity], keepdim=True))
    return torch.stack(losses)


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
        QuantizationError: no such attention, no batches, or NaN or infinite values in one; the
            alphas are then as they were.
    """
    # Under QuaRot's rotation of the keys it lies inside a RotatedAttention.
    module = next((m for m in block.modules() if isinstance(m, QuantizedAttention)), None)
    if module is None or module.iaaq is None:
        raise QuantizationError("this block's attention has no IA-AQ; nothing to fix")
    if module.iaaq.mode != "static":
        raise QuantizationError("IA-AQ is online and finds its alphas on each call; nothing to fix")
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
        if not totals:
            raise QuantizationError("static IA-AQ needs at least one calibration batch; got none")
        losses = torch.stack(totals).sum(0)
        if not bool(losses.isfinite().all()):
            raise QuantizationError("NaN or infinite queries or keys reached static IA-AQ's search")
        before = losses.argmin(0)
    finally:
        hook.remove()
        module.choice = before
    return torch.tensor(module.iaaq.alphas, dtype=torch.float64, device=before.device)[before]


def _on_grid(
    v: Tensor, quantizer: Quantizer, measured: Parameters, alpha: Tensor | float
) -> Tensor:
    """V_hat(alpha): `v` on the grid of scale alpha * s_hat. The zero point does not depend on
    alpha, since both ends of the range shrink alike."""
    scaled = Parameters(measured.scale * alpha, measured.zero)
    return from_integers(to_integers(v, quantizer, scaled), quantizer, scaled)
