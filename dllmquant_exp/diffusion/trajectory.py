"""The states that a decode goes through: what the model is given at every step.

A position is masked until the step that commits it, and never again. A whole decode is its last
response plus, for every position, the last step that still found it masked:

    response     a b c d         step 0 is given   _ _ _ _
    last_masked  1 0 3 2         step 1            _ b _ _
                                 step 2            a b _ _
                                 step 3            a b _ d

Unlike `generate`, nothing stops early here: as in the published code, every step is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dllmquant_exp.diffusion.batching import Predictor, batches, check_prompts
from dllmquant_exp.diffusion.decoding import decode
from dllmquant_exp.diffusion.schedule import steps_of
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.models.transformer import Transformer


@dataclass(frozen=True)
class Trajectory:
    """One decode.

    prompt: token ids
    response: token ids in the end; the mask id where no step committed anything
    last_masked: per response position the last step (from 0) that found it masked
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    last_masked: tuple[int, ...]


@dataclass(frozen=True)
class DecodingState:
    """The model's input at one step.

    tokens, masked: over prompt and response; a mask token in the prompt is not `masked`
    step: from 0
    block: which of the decoder's blocks is being decoded, from 0; always 0 for Dream
    block_ratio, response_ratio: unmasked positions / all positions, of that block or of the
        response. The paper calls this share mask ratio (Algorithm 1, line 11)
    """

    tokens: tuple[int, ...]
    masked: tuple[bool, ...]
    step: int
    block: int
    block_ratio: float
    response_ratio: float


def trajectories(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    settings: DecodingSettings,
    *,
    seeds: Sequence[int],
    batch_size: int,
) -> Iterator[Trajectory]:
    """Decode the prompts in their order, `batch_size` at a time, only as far as is asked for.

    Args:
        prompts, settings, seeds: as for `generate`.

    Raises:
        DiffusionError: as `generate`, before anything is decoded.
    """
    check_prompts(model.config, prompts, settings, seeds)
    predictor = Predictor(model, settings.guidance)
    pairs = zip(prompts, seeds, strict=True)
    return (
        trajectory
        for batch in batches(pairs, batch_size)
        for trajectory in _decode_batch(predictor, batch, settings)
    )


@torch.inference_mode()
def _decode_batch(
    predictor: Predictor, batch: list[tuple[Sequence[int], int]], settings: DecodingSettings
) -> list[Trajectory]:
    prompts, seeds = zip(*batch, strict=True)
    mask_token_id = predictor.config.mask_token_id
    last_masked = torch.zeros((len(prompts), settings.gen_length), dtype=torch.long)

    def note(step: int, indices: list[int], response: Tensor) -> None:
        last_masked[indices] = last_masked[indices].masked_fill(
            (response == mask_token_id).to(last_masked.device), step
        )

    responses = decode(
        predictor, prompts, settings, seeds, len(prompts), lambda *_: False, observe=note
    )
    return [
        Trajectory(tuple(prompt), tuple(response), tuple(last))
        for prompt, response, last in zip(prompts, responses, last_masked.tolist(), strict=True)
    ]


def states(
    trajectory: Trajectory, settings: DecodingSettings, mask_token_id: int
) -> Iterator[DecodingState]:
    """The states of the steps that had something to decide, in order.

    A step whose block holds no mask is left out (LLaDA with more steps than tokens). A step that
    commits nothing although it could (Dream's first one) is not: published code runs the model
    there, with the same state as in the next step.
    """
    for step, schedule in enumerate(steps_of(settings)):
        masked = tuple(step <= last for last in trajectory.last_masked)
        block = masked[schedule.reach - settings.block_length : schedule.reach]
        if not any(block):
            continue
        response = tuple(
            mask_token_id if is_masked else token
            for is_masked, token in zip(masked, trajectory.response, strict=True)
        )
        yield DecodingState(
            tokens=trajectory.prompt + response,
            masked=(False,) * len(trajectory.prompt) + masked,
            step=step,
            block=schedule.reach // settings.block_length - 1,
            block_ratio=block.count(False) / len(block),
            response_ratio=masked.count(False) / len(masked),
        )
