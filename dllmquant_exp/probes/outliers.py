"""Figure 10: where a model's activations have outliers, and how large they are.

Statistics of a tensor [tokens, features], for the input or output of each kind of linear:

    channel  largest over median of the channels' largest magnitudes: a few large channels
    token    largest magnitude over root mean square inside a token, the median over tokens; at most
             the root of the number of features
    error    share of the energy that is lost to 4 bits, with one asymmetric range per token: error
             of all tokens over energy of all tokens
    median   the same share of each token, the median over tokens: a few massive tokens can hold
             most of the energy
    spread   largest over median root mean square of the tokens: massive tokens

Models of billions of parameters have large channels at every token in the inputs of q, k, v, gate
and up, massive tokens in the input of down, and little of either in values.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.measurement import Measurement, mean
from dllmquant_exp.quantization.quantizers import Quantizer, fake_quantize

STATISTICS = ("channel", "token", "error", "median", "spread")
GROUPS = ("masked", "unmasked")
KINDS = {  # a linear of the block, and whether its input is looked at or its output
    "input of q, k, v": ("q_proj", "input"),
    "input of gate, up": ("gate_proj", "input"),
    "input of o": ("o_proj", "input"),
    "input of down": ("down_proj", "input"),
    "keys": ("k_proj", "output"),
    "values": ("v_proj", "output"),
}
FOUR_BITS = Quantizer(bits=4, symmetric=False, granularity="per_token")


@dataclass
class Tally:
    """One tensor's tokens as they come: what its statistics need.

    Attributes:
        peaks: [features], the largest magnitude of each channel so far.
        tokens: per batch [tokens, 4]: largest magnitude, mean square, error of rounding, energy.
        prompts: per batch [tokens], where each token is from.
    """

    peaks: Tensor | None = None
    tokens: list[Tensor] = field(default_factory=list)
    prompts: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, prompts: Tensor) -> None:
        """Count tokens [n, features], and the prompts [n] that they are from."""
        if not len(x):
            return
        x = x.float()
        peaks = x.abs().amax(0)
        self.peaks = peaks if self.peaks is None else torch.maximum(self.peaks, peaks)
        error = (fake_quantize(x, FOUR_BITS) - x).pow(2).sum(-1)
        energy = x.pow(2).sum(-1)
        found = (x.abs().amax(-1), energy / x.shape[-1], error, energy)
        self.tokens.append(torch.stack(found, 1).cpu())
        self.prompts.append(prompts.cpu())

    def lost(self, count: int) -> np.ndarray:
        """Error and energy of each of `count` prompts, [2, prompts]."""
        found = torch.zeros(2, count, dtype=torch.float64)
        for prompts, tokens in zip(self.prompts, self.tokens, strict=True):
            found.index_add_(1, prompts, tokens[:, 2:].T.double())
        return found.numpy()

    def statistics(self) -> list[float]:
        """In the order of STATISTICS; NaN without tokens, and tokens of zeros count nowhere."""
        if self.peaks is None:
            return [float("nan")] * len(STATISTICS)
        found = torch.cat(self.tokens).double()
        largest, square, error, energy = found[found[:, 3] > 0].T
        size = square.sqrt()
        return [
            float(self.peaks.max() / self.peaks.median()),
            float((largest / size).median()),
            float(error.sum() / energy.sum()),
            float((error / energy).median()),
            float(size.max() / size.median()),
        ]


@torch.inference_mode()
def outliers(subject: Subject) -> Measurement:
    """Arrays: `statistics` [groups, kinds, layers, statistics] over the states of all prompts.

    Labels: names of the array's places, and the `steps` of the states. Numbers: `error` of each
    kind, a mean over blocks and prompts.
    """
    count, layers = subject.probe.settings.states, subject.model.config.n_layers
    steps = [i * subject.decoding.steps // count for i in range(count)]
    tallies = {
        (group, kind, layer): Tally()
        for group in GROUPS for kind in KINDS for layer in range(layers)
    }  # fmt: skip
    keep: dict[str, Tensor] = {}
    prompts: Tensor

    def see(kind: str, layer: int, x: Tensor) -> None:
        for group, chosen in keep.items():
            tallies[group, kind, layer].add(x[chosen], prompts[chosen])

    with watched(subject.model, see):
        for batch in subject.states(subject.batch_size, steps, "outliers"):
            keep["masked"] = batch.masked
            keep["unmasked"] = batch.attention_mask & ~batch.masked
            prompts = torch.tensor(batch.prompts, device=subject.device)[:, None].expand_as(
                batch.masked
            )
            subject.model.hidden(batch.tokens, batch.attention_mask)
    found = np.array([tally.statistics() for tally in tallies.values()])
    shape = (len(GROUPS), len(KINDS), layers, len(STATISTICS))
    labels = {
        "groups": list(GROUPS), "kinds": list(KINDS), "statistics": list(STATISTICS),
        "steps": steps,
    }  # fmt: skip
    numbers = {"error": {kind: mean(errors(tallies, kind, subject)) for kind in KINDS}}
    return Measurement({"statistics": found.reshape(shape)}, labels, numbers)


def errors(
    tallies: Mapping[tuple[str, str, int], Tally], kind: str, subject: Subject
) -> np.ndarray:
    """Each prompt's share of energy lost to 4 bits in one kind of tensor, the mean over blocks."""
    count = len(subject.trajectories)
    shares = []
    for layer in range(subject.model.config.n_layers):
        error, energy = np.sum([tallies[group, kind, layer].lost(count) for group in GROUPS], 0)
        shares.append(error / energy)
    return np.mean(shares, axis=0)


@contextmanager
def watched(model: Transformer, see: Callable[[str, int, Tensor], None]) -> Iterator[None]:
    """Show every tensor of KINDS with its kind and block, [B, T, features], as the model runs."""

    def hook(kind: str, layer: int, side: str) -> Callable[..., None]:
        def show(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            see(kind, layer, inputs[0] if side == "input" else output)

        return show

    hooks = [
        block.get_submodule(name).register_forward_hook(hook(kind, layer, side))
        for layer, block in enumerate(blocks_of(model))
        for kind, (name, side) in KINDS.items()
    ]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
