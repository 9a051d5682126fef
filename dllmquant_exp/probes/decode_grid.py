"""Figure 4: one decode as a grid of steps and tokens, and whether errors at a position spread.

The paper's claim: errors at unmasked positions and at masked ones with low scores do not propagate,
because only the positions with the highest scores are committed. Tested in `noise.py`.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.confidence import token_probabilities
from dllmquant_exp.probes.measured import Measured
from dllmquant_exp.probes.noise import propagation
from dllmquant_exp.probes.subject import Subject, device_of, response_logits, state_batches

MASKED, NEW, KEPT = 0, 1, 2


def decode_and_noise(subject: Subject) -> Measured:
    """Both halves of Figure 4.

    Arrays: those of `noise.propagation`; `status` [steps, gen_length], MASKED, NEW (committed by
    this step) or KEPT; `scores` [steps, gen_length], the probability of the model's best token
    where it is masked, else of the token that stands there. Labels: `tokens`, the response's texts.
    """
    noise = propagation(subject)
    number = subject.probe.settings.prompt
    decode = subject.trajectories[number]
    status = status_grid(decode.last_masked, subject.decoding.steps)
    arrays = {**noise.arrays, "status": status, "scores": _scores(subject, number)}
    tokens = [_text(subject.tokenizer, token) for token in decode.response]
    labels = {"tokens": tokens, "blocks": subject.probe.settings.blocks, **noise.labels}
    return Measured(arrays, labels, noise.numbers)


def status_grid(last_masked: tuple[int, ...], steps: int) -> NDArray[np.int8]:
    """[steps, gen_length], from the last step that found each position masked."""
    last, step = np.array(last_masked)[None], np.arange(steps)[:, None]
    return np.where(step < last, MASKED, np.where(step == last, NEW, KEPT)).astype(np.int8)


def _scores(subject: Subject, number: int) -> NDArray[np.float32]:
    found = []
    made = state_batches(
        subject.model.config,
        subject.trajectories[number : number + 1],
        subject.decoding,
        1,
        device=device_of(subject.model),
    )
    for batch in made:
        logits = response_logits(subject.model, batch)
        tokens = batch.tokens[batch.response][None]
        own, best = token_probabilities(logits, tokens)
        score = torch.where(batch.masked[batch.response][None], best, own)
        found.append(score[0].cpu().numpy())
    return np.stack(found)


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.decode([token])).strip() or "␣"
