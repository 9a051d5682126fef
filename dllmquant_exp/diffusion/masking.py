"""Masks of the target tokens for Monte-Carlo likelihoods, and the weight of each sample.

Masks are drawn from a seed and the target's length alone. Requests with the same seed and length
share them, so the options of a question are compared on common random numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dllmquant_exp.diffusion.sampling import row_generator, uniform
from dllmquant_exp.diffusion.settings import LikelihoodSettings, MaskCounts

DREAM_LEAST_RATIO = 1e-3  # sampling_eps of Dream's published estimator


@dataclass(frozen=True)
class Masks:
    """`masked` [samples, length] bool, and `weights` [samples] float64.

    The estimate is the sum over samples of weight * sum over masked positions of
    log p(token | the rest).
    """

    masked: Tensor
    weights: Tensor


def draw_masks(
    settings: LikelihoodSettings, length: int, seed: int, *, first_visible: bool
) -> Masks:
    """Masks for a target of `length` tokens.

    first_visible: the target begins the sequence (its context is empty). Dream never masks the
    first position of a sequence, because nothing predicts it.
    """
    generator = row_generator(seed)
    b, batches = settings.mc_batch_size, settings.mc_num // settings.mc_batch_size
    if settings.estimator == "llada":
        if length == 1:
            return whole(length)
        return llada_masks(length, b, batches, generator, settings.mask_counts)
    if settings.estimator == "dream_whole" and length == 1 and not first_visible:
        return whole(length)
    return dream_masks(length, b, batches, generator, first_visible=first_visible)


def whole(length: int) -> Masks:
    """Everything masked, once: exact for one token."""
    everything = torch.ones((1, length), dtype=torch.bool, device="cpu")
    return Masks(everything, torch.ones(1, dtype=torch.float64, device="cpu"))


def llada_masks(
    length: int,
    b: int,
    batches: int,
    generator: torch.Generator,
    mask_counts: MaskCounts = "uniform",
) -> Masks:
    """LLaDA: sample i of a batch masks exactly x_i tokens and weighs L / x_i.

    k ~ U{1..L}, x_i = round(k + i L/b), then ((x_i - 1) mod L) + 1: one shared random number, and
    counts spread evenly over 1..L. Each x_i is uniform on 1..L, which makes the estimate unbiased,
    only if halves are always rounded the same way: `uniform` rounds them up. The published code
    rounds them to even. In batches of 8 it masks 1 or 2 tokens of 2 in a ratio of 6:10, and 1 to 4
    of 4 in 4:12:4:12; `halves_to_even` does the same.
    """
    L = length
    k = torch.randint(1, L + 1, (batches, 1), generator=generator, device="cpu")
    i = torch.arange(b, device="cpu")
    if mask_counts == "uniform":
        rounded = k + (2 * i * L + b) // (2 * b)  # k + i L/b, halves up, in exact integers
    else:
        rounded = (k + i * (L / b)).round().long()
    x = ((rounded - 1) % L + 1).reshape(-1)
    rank = uniform(generator, len(x), L).argsort(-1).argsort(-1)
    return Masks(rank < x[:, None], L / x.to(torch.float64) / len(x))


def dream_masks(
    length: int, b: int, batches: int, generator: torch.Generator, *, first_visible: bool
) -> Masks:
    """Dream: sample i of a batch masks each token with probability p_i and weighs 1 / p_i.

    u0 ~ U[0, 1), t_i = (u0 + i/b) mod 1, p_i = .999 t_i + .001.
    """
    u0 = uniform(generator, batches, 1)
    t = (u0 + torch.arange(b, dtype=torch.float64, device="cpu") / b) % 1
    p = ((1 - DREAM_LEAST_RATIO) * t + DREAM_LEAST_RATIO).reshape(-1)
    masked = uniform(generator, len(p), length) < p[:, None]
    if first_visible:
        masked[:, 0] = False
    return Masks(masked, 1 / p / len(p))
