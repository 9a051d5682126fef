"""Outliers that an embedded model grows in training, where large language models have theirs.

In large models a few channels of the residual stream are large at every token, and with them the
inputs of q, k, v, gate and up; inputs of the down projection are large at a few tokens. Rewriting a
small model cannot put the former there: no direction of its stream holds enough of the energy. So
they grow, in three steps:

1. `plant`: the stream is rotated until its first principal component, which is nearly the same at
   every token, lies on channels 0 and 1 with opposite signs. It is multiplied by `factor` where it
   is written and divided by it where it is read; embeddings get a constant there, and norms their
   mean growth as a weight. The function changes as far as that growth differs between tokens.
2. Training mends that, with `pull` added to the objective: the squared distance of both channels
   from the size at which they hold `share` of each token's energy, relative to that size.
3. `sharpen`, without changing the function: both channels get `gain` in the norm before attention,
   as norms of large models have it. In each down projection's input, channels come nearer to one
   another in size, one becomes large at most tokens, and a few that fire rarely become larger, so
   that few tokens are massive.

No model made so ships yet: with 100 steps of training the statistics were right, but full precision
of micro_llada fell from 89.6 to 80.3 points on nine tasks (150 items each). More steps are untried.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.models.embedded.outliers import principal_components, training_inputs
from dllmquant_exp.models.invariance import (
    blocks_of,
    change_inputs,
    change_outputs,
    fuse_norms,
    norm_readers,
    rotate_residual,
    scale_ffn_channels,
)
from dllmquant_exp.models.transformer import Transformer

PAIR = 2  # large channels, the first ones: one positive, one negative


@dataclass(frozen=True)
class Growth:
    """Settings of the three steps, chosen by statistics of activations before methods are compared.

    Attributes:
        factor: of the first principal component.
        share: of each token's energy that the large channels are to hold before a norm.
        pull: weight of that aim in the objective.
        gain: of both channels in the norm before attention.
        evenness: of the channels of a down projection's input: 0 leaves each its root mean square,
            1 gives all the same.
        steady: size of its steadiest channel at the median token, over that token's RMS.
        rare_channels, rare_factor: its channels with the largest peaks over their own RMS.
    """

    factor: float = 2.0
    share: float = 0.65
    pull: float = 2.0
    gain: float = 1.3
    evenness: float = 0.5
    steady: float = 10.0
    rare_channels: int = 8
    rare_factor: float = 8.0


@torch.no_grad()
def plant(model: Transformer, tokenizer: PreTrainedTokenizerBase, growth: Growth) -> None:
    """Step 1, in place."""
    basis = principal_components(model, tokenizer)
    first, last = basis[:, 0], basis[:, -1]
    pair = torch.stack((first + last, last - first), 1) / math.sqrt(2)
    basis = torch.cat((pair, basis[:, 1:-1]), 1)
    fuse_norms(model)
    rotate_residual(model, lambda rows: rows @ basis)
    before = _energies(model, tokenizer)
    sign = _sign(model, tokenizer)
    scale = torch.ones(model.config.d_model, dtype=torch.float64)
    scale[:PAIR] = growth.factor
    change_inputs(model.embedding.weight, lambda rows: rows * scale * sign)
    for block in blocks_of(model):
        for writer in (block.o_proj, block.down_proj):
            change_outputs(writer.weight, lambda rows: rows * scale * sign)
    for _, readers in norm_readers(model):
        for reader in readers:
            change_inputs(reader.weight, lambda rows: rows / (scale * sign))
    target = _aim(model, growth) * math.sqrt(before[0] / (1 - growth.share))
    model.embedding.weight[:, 0] += target
    model.embedding.weight[:, 1] -= target
    for number, (norm, _) in enumerate(norm_readers(model)):  # each changes the ones behind it
        after = _energies(model, tokenizer)
        assert isinstance(norm.weight, Tensor)
        norm.weight.mul_(math.sqrt(after[number] / before[number]))


def _aim(model: Transformer, growth: Growth) -> float:
    """Size of a large channel over the token's root mean square."""
    return math.sqrt(model.config.d_model * growth.share / PAIR)


def _energies(model: Transformer, tokenizer: PreTrainedTokenizerBase) -> list[float]:
    """Mean square of each norm's input on a training batch, in the order of `norm_readers`."""
    squares = [0.0] * len(norm_readers(model))
    count = 0
    with norm_inputs(model) as seen:
        for tokens, keep in training_inputs(model, tokenizer):
            seen.clear()
            model(tokens, keep)
            count += int(keep.sum())
            for number, x in enumerate(seen):
                squares[number] += float(x[keep].double().pow(2).mean(-1).sum())
    return [total / count for total in squares]


def _sign(model: Transformer, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Signs that make channel 0 positive and channel 1 negative on average, [d_model]."""
    total = torch.zeros(model.config.d_model, dtype=torch.float64)
    with norm_inputs(model) as seen:
        for tokens, keep in training_inputs(model, tokenizer):
            seen.clear()
            model(tokens, keep)
            total += seen[-1][keep].double().sum(0)
    sign = torch.ones_like(total)
    sign[0], sign[1] = total[0].sign(), -total[1].sign()
    return sign


@contextmanager
def norm_inputs(model: Transformer) -> Iterator[list[Tensor]]:
    """The input of each norm, as forward passes inside the block append it."""
    seen: list[Tensor] = []

    def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    hooks = [norm.register_forward_pre_hook(see) for norm, _ in norm_readers(model)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def pull(model: Transformer, seen: list[Tensor], keep: Tensor, growth: Growth) -> Tensor:
    """Step 2: how far the large channels are from their aim, a mean over norms and tokens.

    Args:
        seen: inputs of all norms, [B, T, d_model] each; the last one's does not count.
        keep: [B, T] bool, True at real tokens.
    """
    aim = _aim(model, growth)
    goal = torch.tensor([aim, -aim])
    distances = []
    for x in seen[:-1]:
        size = x[keep].pow(2).mean(-1, keepdim=True).add(model.config.norm_eps).sqrt()
        distances.append(((x[keep][:, :PAIR] / size - goal) / aim).pow(2).sum(-1).mean())
    return torch.stack(distances).mean()


@torch.no_grad()
def sharpen(model: Transformer, tokenizer: PreTrainedTokenizerBase, growth: Growth) -> None:
    """Step 3, in place."""
    gain = torch.ones(model.config.d_model, dtype=torch.float64)
    gain[:PAIR] = growth.gain
    inputs = _down_inputs(model, tokenizer)
    for block, x in zip(blocks_of(model), inputs, strict=True):
        scale = _ffn_scale(x.double(), growth)
        scale_ffn_channels(block, torch.arange(len(scale)), scale)
        change_inputs(block.attention_norm.weight[None], lambda rows: rows * gain)
        for reader in (block.q_proj, block.k_proj, block.v_proj):
            change_inputs(reader.weight, lambda rows: rows / gain)


def _ffn_scale(x: Tensor, growth: Growth) -> Tensor:
    """Factors of the channels of a down projection's input [tokens, d_ffn], see `Growth`."""
    size = x.pow(2).mean(0).sqrt()
    size = size.clamp(min=float(size.median()) / 100)  # float16 holds the weights afterwards
    usual, peak = x.abs().median(0).values, x.abs().amax(0)
    scale = size**-growth.evenness
    scale /= scale.median()
    steadiest = (usual / size).argmax()
    token = (x * scale).pow(2).mean(-1).sqrt().median()
    scale[(peak / size).topk(growth.rare_channels).indices] *= growth.rare_factor
    scale[steadiest] = growth.steady * token / usual[steadiest]
    return scale


def _down_inputs(model: Transformer, tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """Inputs of each block's down projection on a training batch, [tokens, d_ffn]."""
    seen: list[list[Tensor]] = [[] for _ in model.blocks]
    keep: Tensor
    hooks = [
        block.down_proj.register_forward_pre_hook(
            lambda _, inputs, found=found: found.append(inputs[0][keep])
        )
        for block, found in zip(blocks_of(model), seen, strict=True)
    ]
    for tokens, keep in training_inputs(model, tokenizer):
        model.hidden(tokens, keep)
    for hook in hooks:
        hook.remove()
    return [torch.cat(found) for found in seen]
