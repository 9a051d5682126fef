"""Transfer schedules: how many masks each forward pass of a decode turns into tokens.

LLaDA, gen_length 8, two blocks, 6 steps: every block of 4 masks is decided in 3 steps

    step            1  2  3  4  5  6
    commits         2  1  1  2  1  1
    reach (block)   4  4  4  8  8  8

Dream, gen_length = steps = 8: time runs from 1 to 0.001, and a step from t to s commits the share
1 - s/t of the masks that are left, rounded down. The first step commits nothing and the last two

    step            1  2  3  4  5  6  7  8
    commits         0  1  1  1  1  1  1  2
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dllmquant_exp.diffusion.settings import DecodingSettings

DREAM_LAST_TIME = 1e-3  # eps of Dream's published generation


@dataclass(frozen=True)
class Step:
    """One forward pass.

    reach: masks at response offsets below `reach` may be committed (end of the current block)
    count: masks to commit in every row (LLaDA), or None where `share` decides
    share: part of a row's masks to commit (Dream), or chance of each to be committed (`origin`)
    """

    reach: int
    count: int | None = None
    share: float = 0.0

    def commits(self, masks: Tensor) -> Tensor:
        """Number of masks to commit, [rows], of `masks` [rows] within reach.

        The product is rounded to float32 before it is rounded down, as in Dream's published code.
        """
        if self.count is not None:
            return torch.full_like(masks, self.count)
        return (masks.to(torch.float32) * self.share).to(masks.dtype)


def steps_of(settings: DecodingSettings) -> list[Step]:
    """The forward passes of a decode, in order."""
    if settings.architecture == "llada":
        return llada_steps(settings.gen_length, settings.block_length, settings.steps)
    return dream_steps(settings.gen_length, settings.steps)


def llada_steps(gen_length: int, block_length: int, steps: int) -> list[Step]:
    """Block after block; within a block the counts differ by at most one, larger ones first."""
    blocks = gen_length // block_length
    counts = transfer_counts(block_length, steps // blocks)
    return [
        Step(reach=(block + 1) * block_length, count=count)
        for block in range(blocks)
        for count in counts
    ]


def transfer_counts(masks: int, steps: int) -> list[int]:
    """`masks` spread over `steps`: masks // steps each, one more in the first masks % steps."""
    base, more = divmod(masks, steps)
    return [base + 1] * more + [base] * (steps - more)


def dream_steps(gen_length: int, steps: int) -> list[Step]:
    """One block; the share 1 - s/t of each step in float32, and everything in the last."""
    time = torch.linspace(1, DREAM_LAST_TIME, steps + 1, dtype=torch.float32, device="cpu")
    shares = (1 - time[1:] / time[:-1]).tolist()
    shares[-1] = 1.0
    return [Step(reach=gen_length, share=share) for share in shares]
