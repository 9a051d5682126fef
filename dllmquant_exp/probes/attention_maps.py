"""Figures 3 and 5: softmax maps and values in full precision, in the middle of a decode."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import AttentionFunction, Transformer
from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.decodes import StateBatch, Subject
from dllmquant_exp.probes.measurement import Measurement, mean, ratio
from dllmquant_exp.quantization.attention import attention_weights

MASS = 0.9  # of a query's attention, for the share of keys that holds it
NEAR = 2  # positions to either side of the diagonal
MAPS = 4  # blocks shown in Figure 5


@torch.inference_mode()
def softmax_and_values(subject: Subject) -> Measurement:
    """Figure 3: one head's softmax map, and the values of all heads, of one prompt.

    Arrays: `softmax` [T, T], queries by keys; `values` [T, kv_heads * head_dim]; `prompt_length`.
    Numbers: per prompt, how uneven the values' largest magnitudes are over channels and tokens.
    """
    settings, layers = subject.probe.settings, subject.model.config.n_layers
    layer = layers // 2 if settings.layer < 0 else settings.layer
    _check_shown(subject, layer)
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
    labels = {"layer": layer, "head": settings.head, "step": subject.decoding.steps // 2}
    numbers = {f"largest_over_median_of_{name}": mean(found) for name, found in spread.items()}
    return Measurement(shown | _prompt_length(subject), labels, numbers)


@torch.inference_mode()
def softmax_over_blocks(subject: Subject) -> Measurement:
    """Figure 5: one head's softmax map in several blocks, and how sparse all heads and blocks are.

    Arrays: `maps` [MAPS, T, T] of one prompt, queries by keys; `layers` [MAPS]; `keys_for_mass`
    [layers, prompts], the share of keys that hold 90% of a query's attention, and `near_diagonal`
    [layers, prompts], attention at most NEAR positions away; both are averages over queries and
    heads. `uniform_near_diagonal` [prompts]: the latter if attention were spread evenly.
    """
    settings, n_layers = subject.probe.settings, subject.model.config.n_layers
    layers = spaced_layers(n_layers, MAPS)
    _check_shown(subject, 0)
    count = len(subject.trajectories)
    keys, near = (np.zeros((n_layers, count)) for _ in range(2))
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
    arrays = {
        "maps": np.stack(maps),
        "layers": np.array(layers),
        "keys_for_mass": keys,
        "near_diagonal": near,
        "uniform_near_diagonal": uniform,
    }
    numbers = {
        "keys_for_90%": mean(keys.mean(0)),
        "near_diagonal": mean(near.mean(0)),
        "near_diagonal_over_uniform": ratio(near.mean(0), uniform),
    }
    step = subject.decoding.steps // 2
    labels = {"head": settings.head, "step": step, "near": NEAR, "mass": MASS}
    return Measurement(arrays | _prompt_length(subject), labels, numbers)


def attention_of(model: Transformer, batch: StateBatch) -> list[tuple[Tensor, Tensor]]:
    """Softmax map [heads, T, T] and values [T, kv_heads * head_dim] of every block, one request.

    On the CPU, in float32.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def watching(attention: AttentionFunction) -> AttentionFunction:
        def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            length = q.shape[2]
            softmax = attention_weights(q, k, mask)[0].reshape(model.config.n_heads, length, length)
            found.append((softmax.float().cpu(), v[0].transpose(0, 1).flatten(1).float().cpu()))
            return attention(q, k, v, mask)

        return run

    before = [(block, block.attention) for block in blocks_of(model)]
    try:
        for block, attention in before:
            block.attention = watching(attention)
        model.hidden(batch.tokens, batch.attention_mask)
    finally:
        for block, attention in before:
            block.attention = attention
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


def _single_states(subject: Subject, title: str) -> Iterable[StateBatch]:
    """Every prompt's state in the middle of its decode, alone: nothing is padded."""
    return subject.states(1, [subject.decoding.steps // 2], title)


def _prompt_length(subject: Subject) -> dict[str, NDArray[np.int64]]:
    """Position in the maps where the response begins."""
    shown = subject.trajectories[subject.probe.settings.prompt]
    return {"prompt_length": np.array(len(shown.prompt))}


def _check_shown(subject: Subject, layer: int) -> None:
    config, head = subject.model.config, subject.probe.settings.head
    if layer >= config.n_layers or head >= config.n_heads:
        raise ProbeError(
            f"layer = {layer} and head = {head} must be below the model's {config.n_layers} layers "
            f"and {config.n_heads} heads"
        )
