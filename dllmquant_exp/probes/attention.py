"""Figures 3 and 5: softmax maps and values in full precision, in the middle of a decode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import AttentionFunction, Transformer, TransformerConfig
from dllmquant_exp.probes import numbers
from dllmquant_exp.probes.measured import Measured
from dllmquant_exp.probes.progress import watched
from dllmquant_exp.probes.settings import ProbeError
from dllmquant_exp.probes.subject import StateBatch, Subject, device_of, state_batches
from dllmquant_exp.quantization.attention import attention_weights

MASS = 0.9  # of a query's attention, for the share of keys that holds it
NEAR = 2  # positions to either side of the diagonal
MAPS = 4  # blocks shown in Figure 5


@torch.inference_mode()
def softmax_and_values(subject: Subject) -> Measured:
    """Figure 3: one head's softmax map, and the values of all heads, of one prompt.

    Arrays: `softmax` [T, T], queries by keys; `values` [T, kv_heads * head_dim]; `prompt_length`.
    Numbers: per prompt, how uneven the values' largest magnitudes are over channels and tokens.
    """
    config, settings = subject.model.config, subject.probe.settings
    layer = config.n_layers // 2 if settings.layer < 0 else settings.layer
    _check_shown(config, layer, settings.head)
    spread: dict[str, list[float]] = {"channels": [], "tokens": []}
    shown: dict[str, NDArray[np.float32]] = {}
    for batch in _single_states(subject, "values"):
        softmax, values = attention_of(subject.model, batch)[layer]
        largest = values.abs()
        for name, dim in (("channels", 0), ("tokens", 1)):
            peaks = largest.amax(dim)
            spread[name].append(float(peaks.amax() / peaks.median()))
        if settings.prompt in batch.prompts:
            shown = {"softmax": softmax[settings.head].numpy(), "values": values.numpy()}
    decode = subject.trajectories[settings.prompt]
    arrays = shown | {"prompt_length": np.array(len(decode.prompt))}
    labels = {"layer": layer, "head": settings.head, "step": subject.decoding.steps // 2}
    found = {f"largest_over_median_of_{k}": numbers.mean(v) for k, v in spread.items()}
    return Measured(arrays, labels, found)


@torch.inference_mode()
def softmax_over_blocks(subject: Subject) -> Measured:
    """Figure 5: one head's softmax map in several blocks, and how sparse all heads and blocks are.

    Arrays: `maps` [MAPS, T, T] of one prompt, queries by keys; `layers` [MAPS]; `keys_for_mass`
    [layers, prompts], the share of keys that hold 90% of a query's attention, and `near_diagonal`
    [layers, prompts], attention at most NEAR positions away; both are averages over queries and
    heads. `uniform_near_diagonal` [prompts]: the latter if attention were spread evenly.
    """
    config, settings = subject.model.config, subject.probe.settings
    layers = spaced_layers(config.n_layers, MAPS)
    _check_shown(config, 0, settings.head)
    count = len(subject.trajectories)
    keys, near = (np.zeros((config.n_layers, count)) for _ in range(2))
    uniform, maps = np.zeros(count), []
    for batch in _single_states(subject, "softmax maps"):
        (number,) = batch.prompts
        found = attention_of(subject.model, batch)
        for layer, (softmax, _) in enumerate(found):
            keys[layer, number] = keys_for_mass(softmax)
            near[layer, number] = near_diagonal(softmax)
        length = batch.tokens.shape[1]
        uniform[number] = near_diagonal(torch.full((1, length, length), 1 / length))
        if number == settings.prompt:
            maps = [found[layer][0][settings.head].numpy() for layer in layers]
    decode = subject.trajectories[settings.prompt]
    arrays = {
        "maps": np.stack(maps),
        "layers": np.array(layers),
        "keys_for_mass": keys,
        "near_diagonal": near,
        "uniform_near_diagonal": uniform,
        "prompt_length": np.array(len(decode.prompt)),
    }
    made = {
        "keys_for_90%": numbers.mean(keys.mean(0)),
        "near_diagonal": numbers.mean(near.mean(0)),
        "near_diagonal_over_uniform": numbers.ratio(near.mean(0), uniform),
    }
    labels = {
        "head": settings.head,
        "step": subject.decoding.steps // 2,
        "near": NEAR,
        "mass": MASS,
    }
    return Measured(arrays, labels, made)


def _check_shown(config: TransformerConfig, layer: int, head: int) -> None:
    if layer >= config.n_layers or head >= config.n_heads:
        raise ProbeError(
            f"layer = {layer} and head = {head} must be below the model's {config.n_layers} layers "
            f"and {config.n_heads} heads"
        )


def attention_of(model: Transformer, batch: StateBatch) -> list[tuple[Tensor, Tensor]]:
    """Softmax map [heads, T, T] and values [T, kv_heads * head_dim] of every block, one request.

    On the CPU, in float32.
    """
    found: list[tuple[Tensor, Tensor]] = []
    heads = model.config.n_heads

    def keep(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
        length = q.shape[2]
        softmax = attention_weights(q, k, mask)[0].reshape(heads, length, length)
        found.append((softmax.float().cpu(), v[0].transpose(0, 1).flatten(1).float().cpu()))

    with _watched(model, keep):
        model.hidden(batch.tokens, batch.attention_mask)
    return found


def keys_for_mass(softmax: Tensor, mass: float = MASS) -> float:
    """Smallest share of keys that holds `mass` of a query's attention: mean of [heads, T, T]."""
    ordered = softmax.double().sort(-1, descending=True).values
    needed = (ordered.cumsum(-1) < mass - 1e-6).sum(-1) + 1
    return float(needed.double().mean()) / softmax.shape[-1]


def near_diagonal(softmax: Tensor) -> float:
    """Attention to keys at most NEAR positions away, [heads, T, T] -> mean over queries."""
    position = torch.arange(softmax.shape[-1])
    near = (position[:, None] - position).abs() <= NEAR
    return float((softmax.double() * near).sum(-1).mean())


def spaced_layers(layers: int, count: int) -> list[int]:
    """At most `count` layers from the first to the last, evenly spaced."""
    if layers <= count:
        return list(range(layers))
    return [round(i * (layers - 1) / (count - 1)) for i in range(count)]


def _single_states(subject: Subject, title: str) -> Iterator[StateBatch]:
    """Every prompt's state in the middle of its decode, alone: nothing is padded."""
    made = state_batches(
        subject.model.config,
        subject.trajectories,
        subject.decoding,
        1,
        [subject.decoding.steps // 2],
        device_of(subject.model),
    )
    yield from watched(made, title, len(subject.trajectories))


@contextmanager
def _watched(
    model: Transformer, keep: Callable[[Tensor, Tensor, Tensor, Tensor | None], None]
) -> Iterator[None]:
    """Every block's attention calls `keep` with its arguments before it does its work."""
    blocks = list(blocks_of(model))
    before = [block.attention for block in blocks]

    def watching(attention: AttentionFunction) -> AttentionFunction:
        def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            keep(q, k, v, mask)
            return attention(q, k, v, mask)

        return run

    try:
        for block in blocks:
            block.attention = watching(block.attention)
        yield
    finally:
        for block, attention in zip(blocks, before, strict=True):
            block.attention = attention
