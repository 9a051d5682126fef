"""Where does an error go? Noise of equal size at one kind of position, and what it changes.

In one step of a decode, noise is added to a block's output at

- `high score`: the masked positions that this very step commits,
- `low score`: as many masked positions with the lowest scores,
- `unmasked`: as many response positions that were committed before, drawn at random,

always with the same vectors. What it reaches is seen in the same forward pass (change of the logits
at masked positions that are not picked) and at the end: the decode goes on without noise, and the
tokens of the final response that differ are counted. Noise in the last block reaches no other
position, because nothing behind it mixes positions; from earlier blocks attention carries it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllmquant_exp.diffusion.sampling import most_confident
from dllmquant_exp.diffusion.schedule import Step, steps_of
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.probes import numbers
from dllmquant_exp.probes.attention import spaced_layers
from dllmquant_exp.probes.greedy import commit
from dllmquant_exp.probes.measured import Measured
from dllmquant_exp.probes.progress import watched
from dllmquant_exp.probes.settings import ProbeError
from dllmquant_exp.probes.subject import (
    StateBatch,
    Subject,
    device_of,
    response_logits,
    state_batches,
)

GROUPS = ("high score", "low score", "unmasked")
LAYERS = 3


@torch.inference_mode()
def propagation(subject: Subject) -> Measured:
    """Arrays, [layers, groups, prompts], averages over the steps where noise was put in:
    `logit_change`, RMS change of the logits at masked positions that no group picks, as a share of
    the RMS of these logits about their mean; `final_changed`, the share of the final response that
    differs. `layers` [layers]: behind which blocks.

    Raises:
        ProbeError: no step has enough positions of each kind.
    """
    decodes, decoding = subject.trajectories, subject.decoding
    layers = spaced_layers(subject.model.config.n_layers, LAYERS)
    steps = noisy_steps(steps_of(decoding), decoding.gen_length, subject.probe.settings.blocks)
    shape = (len(layers), len(GROUPS), len(decodes))
    logit_change, final_changed = np.zeros(shape), np.zeros(shape)
    made = state_batches(
        subject.model.config,
        decodes,
        decoding,
        subject.logits_batch,
        steps,
        device_of(subject.model),
    )
    total = -(-len(decodes) // subject.logits_batch) * len(steps)
    for batch in watched(made, "noise", total):
        place = slice(batch.prompts.start, batch.prompts.stop)
        for i, changes in enumerate(_changes(subject, batch, layers)):
            for j, (logits, final) in enumerate(changes):
                logit_change[i, j, place] += logits / len(steps)
                final_changed[i, j, place] += final / len(steps)
    arrays = {
        "logit_change": logit_change,
        "final_changed": final_changed,
        "layers": np.array(layers),
    }
    labels = {
        "groups": list(GROUPS),
        "noise": subject.probe.settings.noise,
        "noisy_steps": list(steps),
    }
    return Measured(arrays, labels, noise_numbers(arrays, layers))


def noisy_steps(schedule: Sequence[Step], gen_length: int, blocks: int) -> list[int]:
    """The middle step of each block that commits something and leaves positions of every kind.

    Raises:
        ProbeError: there is none.
    """
    found, left = [], gen_length
    in_block = len(schedule) // blocks
    for number, step in enumerate(schedule):
        reach = left - (gen_length - step.reach)
        count = min(reach, int(step.commits(torch.tensor([reach]))))
        middle = number % in_block == in_block // 2
        if middle and count > 0 and left > 2 * count and gen_length - left >= count:
            found.append(number)
        left -= count
    if not found:
        raise ProbeError(
            "no step has masked and unmasked positions enough for the noise test; ask for more "
            "steps, or for a longer response"
        )
    return found


def noise_numbers(
    arrays: dict[str, NDArray[np.float64]], layers: Sequence[int]
) -> dict[str, object]:
    """By measure and block: each group's mean, and the other groups' reach over `high score`'s."""
    found: dict[str, object] = {}
    for name in ("logit_change", "final_changed"):
        for layer, values in zip(layers, arrays[name], strict=True):
            by_group = dict(zip(GROUPS, values, strict=True))
            made = {group: numbers.mean(reach) for group, reach in by_group.items()}
            for group in GROUPS[1:]:
                made[f"{group} over high score"] = numbers.ratio(
                    by_group[group], by_group["high score"]
                )
            found[f"{name}, block {layer}"] = made
    return found


def _changes(
    subject: Subject, batch: StateBatch, layers: Sequence[int]
) -> Iterator[list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """For each layer and group: logit change and share of the final response changed, [B] each."""
    model, decoding = subject.model, subject.decoding
    step = steps_of(decoding)[batch.step]
    exact = response_logits(model, batch)
    response = batch.tokens[batch.response].view(len(batch.prompts), -1)
    masked = batch.masked[batch.response].view(response.shape)
    mask_id = model.config.mask_token_id
    plain = commit(exact, response, mask_id, step, decoding.remasking)
    final = torch.tensor(
        [subject.trajectories[i].response for i in batch.prompts], device=response.device
    )
    groups = positions_of_groups(
        exact, masked, plain != response, subject.probe.experiment.common.seed
    )
    others = masked & ~groups[0] & ~groups[1]
    for layer in layers:
        changes = []
        for chosen in groups:
            where = torch.zeros_like(batch.response)
            where[batch.response] = chosen.flatten()
            if model.config.shifted:  # a position is predicted one place before it stands
                where = where.roll(-1, 1)
            with _noise_behind(model, layer, where, batch, subject.probe.settings.noise):
                noisy = response_logits(model, batch)
            change = _relative_change(noisy, exact, others)
            now = commit(noisy, response, mask_id, step, decoding.remasking)
            ended = final.clone()
            differs = (now != plain).any(1)
            if bool(differs.any()):  # what commits the same tokens also ends the same
                ended[differs] = _decode_on(subject, batch, now, differs)
            wrong = (ended != final).double().mean(1)
            changes.append((change.cpu().numpy(), wrong.cpu().numpy()))
        yield changes


def positions_of_groups(
    exact: Tensor, masked: Tensor, committed: Tensor, seed: int
) -> list[Tensor]:
    """Positions of each of GROUPS, [B, gen_length] bool, equally many in a row.

    Args:
        exact: [B, gen_length, vocab], logits.
        masked, committed: [B, gen_length] bool, before the step and by the step.
    """
    counts = committed.sum(1)
    score = exact.softmax(-1).amax(-1)
    low = most_confident((-score).masked_fill(~masked | committed, -torch.inf), counts)
    generator = torch.Generator().manual_seed(seed)
    lot = torch.rand(masked.shape, generator=generator).to(masked.device)
    unmasked = most_confident(lot.masked_fill(masked, -torch.inf), counts)
    return [committed, low, unmasked]


@contextmanager
def _noise_behind(
    model: Transformer, layer: int, where: Tensor, batch: StateBatch, size: float
) -> Iterator[None]:
    """Add noise to a block's output at `where` [B, T]; its RMS is `size` times the output's.

    The vectors depend on prompt and step only, so that all groups and layers get the same ones, up
    to the size of the block's output.
    """

    def add(_block: torch.nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        changed = output.clone()
        for row, number in enumerate(batch.prompts):
            count = int(where[row].sum())
            generator = torch.Generator().manual_seed(2**20 * number + batch.step)
            vectors = torch.randn(count, output.shape[2], generator=generator)
            rms = output[row][batch.attention_mask[row]].float().square().mean().sqrt()
            changed[row, where[row]] += (size * rms * vectors.to(output.device)).to(output.dtype)
        return changed

    hook = model.blocks[layer].register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def _relative_change(noisy: Tensor, exact: Tensor, where: Tensor) -> Tensor:
    """RMS of the logits' change over their RMS about their mean, at `where` [B, positions]: [B]."""
    keep = where[..., None]
    change = ((noisy - exact).double().square() * keep).sum((1, 2))
    centred = (exact - exact.mean(-1, keepdim=True)).double().square() * keep
    return (change / centred.sum((1, 2))).sqrt()


def _decode_on(subject: Subject, batch: StateBatch, now: Tensor, rows: Tensor) -> Tensor:
    """Final responses of some rows whose responses are `now` behind the batch's step."""
    model, decoding = subject.model, subject.decoding
    tokens, response = batch.tokens[rows].clone(), now[rows]
    attention_mask, where = batch.attention_mask[rows], batch.response[rows]
    chosen = [i for i, row in zip(batch.prompts, rows.tolist(), strict=True) if row]
    for number in range(batch.step + 1, decoding.steps):
        tokens[where] = response.flatten()
        state = StateBatch(
            number, range(len(chosen)), tokens, attention_mask, where, torch.zeros_like(where)
        )
        step = steps_of(decoding)[number]
        logits = response_logits(model, state)
        mask_id = model.config.mask_token_id
        response = commit(logits, response, mask_id, step, decoding.remasking)
    return response
