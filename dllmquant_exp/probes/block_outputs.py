"""Figures 1 and 6: the first block's output at every step of a decode.

The first block reads embedded tokens, so that only one block of the model runs, and only one batch
of its outputs is in memory.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllmquant_exp.models.transformer import Block
from dllmquant_exp.probes.decodes import StateBatch, Subject
from dllmquant_exp.probes.measurement import Measurement, mean, ratio
from dllmquant_exp.quantization.blockwise import BlockBatch, TokenBatch, first_block_batches

QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
TOKENS_KEPT = 4096  # of each iteration, for the quantiles of every channel


@torch.inference_mode()
def block_output_range(subject: Subject) -> Measurement:
    """Figure 1: quantiles of the first block's output over all tokens and channels.

    Arrays: `quantiles` [prompts, steps, 7] at QUANTILES, of each prompt's own output.
    """
    shape = (len(subject.trajectories), subject.decoding.steps, len(QUANTILES))
    found = np.full(shape, np.nan)
    for batch in subject.states(subject.batch_size, title="first block's output"):
        output = _first_block(subject, batch).run(subject.model.blocks[0]).float()
        for number, row, keep in zip(batch.prompts, output, batch.attention_mask, strict=True):
            found[number, batch.step] = sorted_quantiles(row[keep].flatten(), QUANTILES)
    labels = {"quantiles": list(QUANTILES), "blocks": subject.probe.settings.blocks}
    return Measurement({"quantiles": found}, labels, range_numbers(found))


def range_numbers(quantiles: NDArray[np.float64]) -> dict[str, object]:
    """Do outputs change over the steps, and gradually? This is what Figure 1 is cited for.

    The distance of two steps is the mean absolute difference of their quantiles over the range
    (maximum - minimum) of the first step, prompt by prompt.
    """
    width = quantiles[:, :, -1] - quantiles[:, :, 0]  # [prompts, steps]
    shape = quantiles / width[:, :1, None]
    neighbours = np.abs(np.diff(shape, axis=1)).mean((1, 2))
    ends = np.abs(shape[:, -1] - shape[:, 0]).mean(1)
    return {
        "range_first_step": mean(width[:, 0]),
        "range_last_step": mean(width[:, -1]),
        "range_last_over_first": ratio(width[:, -1], width[:, 0]),
        "distance_of_neighbours": mean(neighbours),
        "distance_first_to_last": mean(ends),
        "first_to_last_over_neighbours": ratio(ends, neighbours),
    }


@torch.inference_mode()
def ffn_channels(subject: Subject) -> Measurement:
    """Figure 6: distribution of every channel of the first block's FFN output at three iterations.

    Minimum and maximum are over all tokens of all prompts, the quantiles between them over at most
    TOKENS_KEPT tokens, drawn at random, the same ones at every iteration.

    Arrays: `channels` [3, d_model, 7] at QUANTILES; `steps` [3].
    Numbers: distances of iterations, prompt by prompt; see `iteration_distances`.
    """
    decodes, decoding = subject.trajectories, subject.decoding
    steps = [0, decoding.steps // 2, decoding.steps - 1]
    lengths = [len(decode.prompt) + decoding.gen_length for decode in decodes]
    kept = chosen_tokens(lengths, subject.probe.seed)
    seen: list[list[tuple[Tensor, ...]]] = [[] for _ in steps]  # kept rows, minimum, maximum
    outputs: dict[int, list[NDArray[np.float32]]] = {}  # of one batch of prompts, step after step
    distances = np.zeros((len(decodes), 3))
    for batch in subject.states(subject.batch_size, steps, "first block's FFN output"):
        place = steps.index(batch.step)
        for number, padded in zip(batch.prompts, _ffn_output(subject, batch), strict=True):
            row = padded[: lengths[number]]
            seen[place].append((row[kept[number]], row.amin(0), row.amax(0)))
            outputs.setdefault(number, []).append(row.numpy())
            if place == len(steps) - 1:
                distances[number] = iteration_distances(*outputs.pop(number))
    channels = np.stack([channel_quantiles(*zip(*parts, strict=True)) for parts in seen])
    middle, last, chance = distances.T
    numbers = {
        "distance_first_to_middle": mean(middle),
        "distance_first_to_last": mean(last),
        "distance_by_chance": mean(chance),
        "first_to_last_over_chance": ratio(last, chance),
    }
    arrays = {"channels": channels, "steps": np.array(steps)}
    labels = {"quantiles": list(QUANTILES), "tokens": sum(map(len, kept))}
    return Measurement(arrays, labels, numbers)


def iteration_distances(
    first: NDArray[np.float32], middle: NDArray[np.float32], last: NDArray[np.float32]
) -> tuple[float, float, float]:
    """One prompt's distance of the first iteration to the middle one, to the last, and by chance.

    Means over channels. The even tokens of the first iteration are compared with the odd tokens of
    another one, and the odd with the even; by chance: with the first iteration itself. All three
    distances are over equally many tokens, and no token meets itself, so that they are alike where
    iterations are.

    first, middle, last: [tokens, channels] of the same tokens, at least two.
    """

    def distance(other: NDArray[np.float32]) -> float:
        halves = (first[::2], other[1::2]), (first[1::2], other[::2])
        return float(np.mean([channel_distance(*pair) for pair in halves]))

    return distance(middle), distance(last), distance(first)


def chosen_tokens(lengths: Sequence[int], seed: int) -> list[Tensor]:
    """Positions kept of every prompt: TOKENS_KEPT of all tokens at random, or all where fewer."""
    total = sum(lengths)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randperm(total, generator=generator)[:TOKENS_KEPT].sort().values
    starts = [0, *itertools.accumulate(lengths)]
    return [kept[(kept >= a) & (kept < b)] - a for a, b in itertools.pairwise(starts)]


def channel_quantiles(
    rows: Sequence[Tensor], lowest: Sequence[Tensor], highest: Sequence[Tensor]
) -> NDArray[np.float64]:
    """[channels, 7] at QUANTILES of `rows` [tokens, channels], the ends over all that are given."""
    inner = np.quantile(torch.cat([*rows]).double().numpy(), QUANTILES[1:-1], axis=0)
    low, high = torch.stack([*lowest]).amin(0), torch.stack([*highest]).amax(0)
    return np.concatenate([low.double().numpy()[None], inner, high.double().numpy()[None]]).T


def channel_distance(first: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """[channels]: mean absolute difference of quantiles, over the first's 1% to 99% range.

    first, other: [tokens, channels]; numbers of tokens may differ.
    """
    grid = np.linspace(0.01, 0.99, 33)
    a, b = np.quantile(first, grid, axis=0), np.quantile(other, grid, axis=0)
    width = a[-1] - a[0]
    return np.abs(a - b).mean(0) / np.where(width > 0, width, 1)


def sorted_quantiles(values: Tensor, shares: Sequence[float]) -> NDArray[np.float64]:
    """Quantiles of `values` [n], linear between neighbours; torch.quantile refuses 2^24 values."""
    ordered = values.sort().values
    place = torch.tensor(shares, dtype=torch.float64) * (len(ordered) - 1)
    below = place.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    low, high = (ordered[i.to(ordered.device)].double().cpu() for i in (below, above))
    found: NDArray[np.float64] = (low + (high - low) * (place - below)).numpy()
    return found


def _first_block(subject: Subject, batch: StateBatch) -> BlockBatch:
    tokens = TokenBatch(batch.tokens, batch.attention_mask, batch.attention_mask.float())
    (found,) = first_block_batches(subject.model, [tokens])
    return found


def _ffn_output(subject: Subject, batch: StateBatch) -> Tensor:
    """Output of the first block's down projection, [B, T, d_model] in float32 on the CPU."""
    block = subject.model.blocks[0]
    assert isinstance(block, Block)
    seen: list[Tensor] = []
    with block.down_proj.register_forward_hook(lambda _module, _args, y: seen.append(y)):
        _first_block(subject, batch).run(block)
    (output,) = seen
    return output.float().cpu()
