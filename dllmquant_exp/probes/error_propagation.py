"""Figure 4: one decode as a grid of steps and tokens, and whether errors at a position propagate.

The paper's claim: errors at unmasked positions and at masked ones with low scores do not propagate,
because only the positions with the highest scores are committed. Here noise of equal size is put at
one kind of position. In one step of a decode it is added to a block's output at

- `high score`: the masked positions that this very step commits,
- `low score`: as many masked positions with the lowest scores,
- `unmasked`: as many response positions that were committed before, drawn at random,

always with the same vectors. Its reach is seen in the same forward pass (change of the logits at
masked positions that are not picked) and at the end: the decode goes on without noise, and the
tokens of the final response that differ are counted. Noise in the last block reaches no other
position, because nothing behind it mixes positions; from earlier blocks attention carries it.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllmquant_exp.calibration.confidence import token_probabilities
from dllmquant_exp.diffusion.sampling import most_confident
from dllmquant_exp.diffusion.schedule import Step, steps_of
from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.attention_maps import spaced_layers
from dllmquant_exp.probes.decodes import StateBatch, Subject, response_logits
from dllmquant_exp.probes.measurement import Measurement, mean, ratio
from dllmquant_exp.reporting.figures.maps import KEPT, MASKED, NEW

GROUPS = ("high score", "low score", "unmasked")
LAYERS = 3
Array = NDArray[np.float64]


def decode_and_noise(subject: Subject) -> Measurement:
    """Both halves of Figure 4.

    Arrays: all of `propagation`; `status` [steps, gen_length], MASKED, NEW (committed by this
    step) or KEPT; `scores` [steps, gen_length], the probability of the model's best token where it
    is masked, else of the token that stands there. Labels: `tokens`, the response's texts.
    """
    noise = propagation(subject)
    number = subject.probe.settings.prompt
    decode = subject.trajectories[number]
    status = status_grid(decode.last_masked, subject.decoding.steps)
    arrays = {**noise.arrays, "status": status, "scores": _scores(subject, number)}
    tokens = [str(subject.tokenizer.decode([token])).strip() or "␣" for token in decode.response]
    labels = {"tokens": tokens, "blocks": subject.probe.settings.blocks, **noise.labels}
    return Measurement(arrays, labels, noise.numbers)


def status_grid(last_masked: tuple[int, ...], steps: int) -> NDArray[np.int8]:
    """[steps, gen_length], from the last step that found each position masked."""
    last, step = np.array(last_masked)[None], np.arange(steps)[:, None]
    return np.where(step < last, MASKED, np.where(step == last, NEW, KEPT)).astype(np.int8)


def _scores(subject: Subject, number: int) -> NDArray[np.float32]:
    alone = replace(subject, trajectories=subject.trajectories[number : number + 1])
    found = []
    for batch in alone.states(1):
        own, best = token_probabilities(
            response_logits(subject.model, batch), batch.of_response(batch.tokens)
        )
        score = torch.where(batch.of_response(batch.masked), best, own)
        found.append(score[0].cpu().numpy())
    return np.stack(found)


@torch.inference_mode()
def propagation(subject: Subject) -> Measurement:
    """Arrays, [layers, groups, prompts], averages over the steps where noise was put in:
    `logit_change`, RMS change of the logits at masked positions that no group picks, as a share of
    the RMS of these logits about their mean; `final_changed`, the share of the final response that
    differs. `layers` [layers]: behind which blocks.

    Raises:
        ProbeError: no step has enough positions of each kind.
    """
    decoding, settings = subject.decoding, subject.probe.settings
    layers = spaced_layers(subject.model.config.n_layers, LAYERS)
    steps = noisy_steps(steps_of(decoding), decoding.gen_length, settings.blocks)
    shape = (len(layers), len(GROUPS), len(subject.trajectories))
    reach = {"logit_change": np.zeros(shape), "final_changed": np.zeros(shape)}
    for batch in subject.states(subject.logits_batch, steps, "noise"):
        for i, j, *changes in _changes(subject, batch, layers):
            for total, change in zip(reach.values(), changes, strict=True):
                total[i, j, batch.place] += change / len(steps)
    labels = {"groups": list(GROUPS), "noise": settings.noise, "noisy_steps": list(steps)}
    return Measurement(reach | {"layers": np.array(layers)}, labels, noise_numbers(reach, layers))


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


def noise_numbers(reach: dict[str, Array], layers: Sequence[int]) -> dict[str, object]:
    """Each group's mean, and other groups' reach over `high score`'s, by measure and block."""
    numbers: dict[str, object] = {}
    for name, by_layer in reach.items():
        for layer, values in zip(layers, by_layer, strict=True):
            high, *others = values
            numbers[f"{name}, block {layer}"] = {
                **{group: mean(found) for group, found in zip(GROUPS, values, strict=True)},
                **{
                    f"{group} over high score": ratio(found, high)
                    for group, found in zip(GROUPS[1:], others, strict=True)
                },
            }
    return numbers


def _changes(
    subject: Subject, batch: StateBatch, layers: Sequence[int]
) -> Iterator[tuple[int, int, Array, Array]]:
    """Numbers of a layer and a group; [B] change of logits and share of the response changed."""
    model, device = subject.model, batch.tokens.device
    exact = response_logits(model, batch)
    response, masked = batch.of_response(batch.tokens), batch.of_response(batch.masked)
    plain = subject.committed(exact, response, batch.step)
    decodes = [subject.trajectories[i] for i in batch.prompts]
    final = torch.tensor([decode.response for decode in decodes], device=device)
    groups = positions_of_groups(exact, masked, plain != response, subject.probe.seed)
    others = masked & ~groups[0] & ~groups[1]
    for (i, layer), (j, chosen) in itertools.product(enumerate(layers), enumerate(groups)):
        where = torch.zeros_like(batch.response)
        where[batch.response] = chosen.flatten()
        if model.config.shifted:  # a position is predicted one place before it stands
            where = where.roll(-1, 1)
        add = _noise(where, batch, subject.probe.settings.noise)
        with model.blocks[layer].register_forward_hook(add):
            noisy = response_logits(model, batch)
        now = subject.committed(noisy, response, batch.step)
        ended = final.clone()
        differs = (now != plain).any(1)
        if bool(differs.any()):  # what commits the same tokens also ends the same
            ended[differs] = _decode_on(subject, batch, now, differs)
        wrong = (ended != final).double().mean(1)
        yield i, j, _relative_change(noisy, exact, others).cpu().numpy(), wrong.cpu().numpy()


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


def _noise(where: Tensor, batch: StateBatch, size: float) -> Callable[..., Tensor]:
    """A hook that adds noise to a block's output at `where` [B, T], of `size` times its RMS.

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

    return add


def _relative_change(noisy: Tensor, exact: Tensor, where: Tensor) -> Tensor:
    """RMS of the logits' change over their RMS about their mean, at `where` [B, positions]: [B]."""
    keep = where[..., None]
    change = ((noisy - exact).double().square() * keep).sum((1, 2))
    centred = (exact - exact.mean(-1, keepdim=True)).double().square() * keep
    return (change / centred.sum((1, 2))).sqrt()


def _decode_on(subject: Subject, batch: StateBatch, now: Tensor, rows: Tensor) -> Tensor:
    """Final responses of some rows whose responses are `now` behind the batch's step."""
    tokens, response, where = batch.tokens[rows].clone(), now[rows], batch.response[rows]
    state = replace(
        batch, prompts=range(len(tokens)), tokens=tokens, response=where,
        attention_mask=batch.attention_mask[rows],
    )  # fmt: skip
    for step in range(batch.step + 1, subject.decoding.steps):
        tokens[where] = response.flatten()
        response = subject.committed(response_logits(subject.model, state), response, step)
    return response
