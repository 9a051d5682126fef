"""From logits to a token and a confidence, position by position.

Pure functions on logits [n, vocab]. Random ones take the generator of the row that the positions
belong to.
"""

import torch
from torch import Tensor

from dllmquant_exp.diffusion.settings import DiffusionError


def row_generator(seed: int) -> torch.Generator:
    """The random numbers of one row or request. On the CPU: the same ones on every device."""
    return torch.Generator(device="cpu").manual_seed(seed)


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers from U[0, 1), float64, on the CPU."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")


def gumbel_argmax(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """LLaDA's sampling: argmax of exp(logits) / (-log u)^T with u uniform, in float64, [n].

    It follows softmax(logits / T). The maximum is subtracted first, which divides all by one factor
    and keeps exp from overflowing.
    """
    wide = logits.to(torch.float64)
    u = uniform(generator, *logits.shape).to(logits.device)
    noise = (-u.log()) ** temperature
    return ((wide - wide.amax(-1, keepdim=True)).exp() / noise).argmax(-1)


def categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Dream's sampling: tokens [n] from softmax(logits), by one uniform number per position."""
    cumulative = logits.to(torch.float64).softmax(-1).cumsum(-1)
    target = uniform(generator, len(logits), 1).to(logits.device) * cumulative[:, -1:]
    # right=True: the first token whose cumulative probability exceeds the target, so never one
    # of probability zero
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def dream_logits(
    logits: Tensor, temperature: float, top_p: float, top_k: int | None = None
) -> Tensor:
    """Temperature, then the nucleus, then the `top_k` likeliest; other tokens get -inf.

    A token stays in the nucleus if the more likely ones before it have at most `top_p` together, so
    the most likely one always does. Tokens as likely as the last of the `top_k` stay too.
    """
    if temperature > 0:
        logits = logits / temperature
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1).roll(1, -1)
        before[:, 0] = 0
        ordered = ordered.masked_fill(before > top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, order, ordered)
    if top_k is not None:
        last = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < last, -torch.inf)
    return logits


def confidence_of(logits: Tensor, tokens: Tensor, remasking: str) -> Tensor:
    """Confidence of the model at each position, [n]; the surest are committed first.

    logits: [n, vocab], without noise. tokens: [n], what would be committed.
    """
    p = logits.softmax(-1)
    if remasking in ("low_confidence", "maskgit_plus"):
        return p.gather(-1, tokens[:, None]).squeeze(-1)
    if remasking == "topk_margin":
        top = p.topk(2, dim=-1).values
        return top[:, 0] - top[:, 1]
    if remasking == "entropy":
        return (p * (p + 1e-10).log()).sum(-1)
    raise DiffusionError(f"remasking {remasking!r} has no confidence")


def most_confident(confidence: Tensor, counts: Tensor) -> Tensor:
    """The `counts` [B] largest entries of each row of `confidence` [B, n] as a bool mask.

    The tie rule of the whole product: of equal entries, the leftmost is taken first. A sure model
    has many of exactly 1, and confidence_eos_eot_inf makes many of exactly 0. torch.topk, which the
    published code uses, promises no order; a result that is the same in every batch needs one.
    """
    order = confidence.sort(dim=-1, descending=True, stable=True).indices
    taken = torch.arange(confidence.shape[1], device=confidence.device) < counts[:, None]
    return torch.zeros_like(taken).scatter(-1, order, taken)
