"""One bidirectional transformer for LLaDA (Llama shape) and Dream (Qwen2 shape).

- token embedding, untied language-model head, no causal mask anywhere
- RMSNorm before attention and before the feed-forward network, computed in float32 or better
- rotary position embedding, half-split, angles in float32 or better
- grouped-query attention: `n_kv_heads` may be smaller than `n_heads`
- gated SiLU feed-forward network; biases on q, k and v for Dream only
- Dream was adapted from an autoregressive model, so its prediction for position i is computed at
  position i - 1; `forward` undoes that shift, and callers always see logits aligned with tokens
- logits are computed only at the positions asked for: with a vocabulary of 126,464 the head costs
  as much as several blocks

Rows of a batch are padded on the right and masked by a real attention mask, so padding never
changes what a row computes: on a CPU with MKL and AVX2, in float32 and float64, not even in the
last bit (see `whole_lanes`; d_ffn must be a multiple of 32, as SiLU's vectors are whole then).
Elsewhere libraries choose the order of a sum by the shape of a batch.

    tokens [B, T] -> embedding -> n_layers x (norm, attention, norm, FFN) -> norm -> head -> logits
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Architecture = Literal["llada", "dream"]
# Far beyond any model; a small file that asks for more would only fill the memory.
LARGEST = {"d_model": 1 << 17, "n_layers": 1000, "d_ffn": 1 << 20, "vocab_size": 1 << 22}


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and special tokens of one model. Sizes are counts, `rope_theta` is the RoPE base."""

    architecture: Architecture
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ffn: int
    vocab_size: int  # rows of the embedding and of the head
    max_length: int
    rope_theta: float
    norm_eps: float
    mask_token_id: int
    eos_token_id: int
    pad_token_id: int

    def __post_init__(self) -> None:
        if self.architecture not in ("llada", "dream"):
            raise ValueError(f"architecture {self.architecture!r} is not one of: llada, dream")
        for name in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ffn", "vocab_size"):
            value = getattr(self, name)
            if not 1 <= value <= LARGEST.get(name, value):
                limit = f" and at most {LARGEST[name]}" if name in LARGEST else ""
                raise ValueError(f"{name} = {value} must be at least 1{limit}")
        if self.d_model % self.n_heads or self.head_dim % 2:
            raise ValueError(
                f"d_model = {self.d_model} must be n_heads = {self.n_heads} times an even head_dim"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads = {self.n_heads} must be a multiple of n_kv_heads = {self.n_kv_heads}"
            )
        for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is outside the vocabulary of {self.vocab_size}"
                )

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def qkv_bias(self) -> bool:
        return self.architecture == "dream"

    @property
    def shifted(self) -> bool:
        """True where the prediction for position i is computed at position i - 1 (Dream)."""
        return self.architecture == "dream"


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float64 stays float64; everything narrower is computed in float32."""
    return torch.promote_types(dtype, torch.float32)


def rotary_angles(
    positions: int, head_dim: int, theta: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """cos and sin of the RoPE angles, each [positions, head_dim / 2], in float32 or better."""
    dtype = at_least_float32(like.dtype)
    exponent = torch.arange(0, head_dim, 2, dtype=dtype, device=like.device) / head_dim
    angle = torch.outer(torch.arange(positions, dtype=dtype, device=like.device), theta**-exponent)
    return angle.cos(), angle.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + head_dim/2]) of `x` [B, heads, T, head_dim]."""
    # In the order of its dimensions, x is read and its halves are joined in half the time.
    first, second = x.to(cos.dtype).contiguous().chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


LANES = 16  # numbers of float32 in the widest vector of a CPU


def whole_lanes(k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask with masked keys at the end, up to a multiple of LANES; on the CPU.

    A vector unit sums the softmax of a row lane by lane, and what is left over in another way. In
    whole vectors, masked keys add zeros only: a row's sums are then the same ones, in the same
    order, however far its batch is padded. k, v: [B, kv_heads, T, D]; mask: [B, 1, 1, T] or None.
    """
    missing = -k.shape[2] % LANES if k.is_cpu else 0
    if not missing:
        return k, v, mask
    if mask is None:
        mask = torch.ones((1, 1, 1, k.shape[2]), dtype=torch.bool, device=k.device)
    k, v = (torch.cat((x, x.new_zeros(*x.shape[:2], missing, x.shape[3])), 2) for x in (k, v))
    return k, v, F.pad(mask, (0, missing))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, bidirectional.

    q: [B, heads, T, head_dim]; k, v: [B, kv_heads, T, head_dim]; mask: [B, 1, 1, T], True where a
    key may be attended to. Returns [B, heads, T, head_dim].
    """
    k, v, mask = whole_lanes(k, v, mask)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1]
    )


AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class RMSNorm(nn.Module):
    """x / rms(x), computed in float32 or better and cast back, then times the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(at_least_float32(x.dtype))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


class Block(nn.Module):
    """Attention and feed-forward network, each behind a norm and added to the residual stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d, bias = config.d_model, config.qkv_bias
        kv = config.n_kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.attention: AttentionFunction = attention  # a quantized one can take its place
        self.attention_norm = RMSNorm(d, config.norm_eps)
        self.q_proj = nn.Linear(d, d, bias=bias)
        self.k_proj = nn.Linear(d, kv, bias=bias)
        self.v_proj = nn.Linear(d, kv, bias=bias)
        self.o_proj = nn.Linear(d, d, bias=False)
        self.ffn_norm = RMSNorm(d, config.norm_eps)
        self.gate_proj = nn.Linear(d, config.d_ffn, bias=False)
        self.up_proj = nn.Linear(d, config.d_ffn, bias=False)
        self.down_proj = nn.Linear(config.d_ffn, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attend(self.attention_norm(x), cos, sin, mask)
        return x + self.feed_forward(self.ffn_norm(x))

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        def heads(y: Tensor) -> Tensor:  # [B, T, heads * head_dim] -> [B, heads, T, head_dim]
            return y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        q = apply_rotary(heads(self.q_proj(x)), cos, sin)
        k = apply_rotary(heads(self.k_proj(x)), cos, sin)
        mixed = self.attention(q, k, heads(self.v_proj(x)), mask)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Transformer(nn.Module):
    """The mask predictor of a diffusion language model."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def hidden(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Output of the last block before the final norm, [B, T, d_model]; see `forward`."""
        x = self.embedding(tokens)
        cos, sin = rotary_angles(tokens.shape[1], self.config.head_dim, self.config.rope_theta, x)
        mask = None
        if attention_mask is not None and not bool(attention_mask.all()):
            mask = attention_mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return x

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits for the token AT each position, whatever the architecture's internal shift.

        Args:
            tokens: [B, T] token ids, padded on the right.
            attention_mask: [B, T] bool, True at real tokens; None where no row is padded.
            positions: [B, T] bool, the positions to predict; None for all of them.

        Returns:
            [n, vocab_size] for the n positions asked for, in row-major order, or
            [B, T, vocab_size] when `positions` is None.

        Example, Dream: tokens = [[p, q, M, M]], positions = [[0, 0, 1, 1]] returns two rows, which
        the head computed from the hidden states of q and of the first M.
        """
        x = self.hidden(tokens, attention_mask)
        if self.config.shifted:
            x = torch.cat((x[:, :1], x[:, :-1]), dim=1)
        if positions is not None:
            x = x[positions]
        return self.head(self.final_norm(x))
