"""One greedy step of a decode from logits at the whole response.

`diffusion.decoding` asks the model for the positions that a step may commit; the probes have the
logits of all positions anyway, and go on from there.
"""

import torch
from torch import Tensor

from dllmquant_exp.diffusion.sampling import confidence_of, most_confident
from dllmquant_exp.diffusion.schedule import Step


def commit(logits: Tensor, response: Tensor, mask_id: int, step: Step, remasking: str) -> Tensor:
    """The response behind a step, without sampling: what `generate` does at temperature 0.

    Args:
        logits: [B, gen_length, vocab], of the model that is given `response`.
        response: [B, gen_length] ids, `mask_id` where they are still to be decided.

    Returns:
        [B, gen_length].
    """
    reach = response == mask_id
    reach[:, step.reach :] = False
    tokens = logits.argmax(-1)
    sure = confidence_of(logits.flatten(0, 1), tokens.flatten(), remasking).view(response.shape)
    chosen = most_confident(sure.masked_fill(~reach, -torch.inf), step.commits(reach.sum(1)))
    return torch.where(chosen & reach, tokens, response)
