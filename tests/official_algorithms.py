"""The published algorithms as plain loops: one request, no batch, no early stop, every logit.

They restate LLaDA's generate.py and get_log_likelihood.py and Dream's generation_utils.py, and
share nothing with `dllmquant_exp.diffusion` but where random numbers come from: one uniform number
per choice, drawn from the request's own generator in the order of the positions.
"""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import Tensor

from dllmquant_exp.diffusion import DecodingSettings, LikelihoodRequest, LikelihoodSettings

Trace = list[list[int]]  # the response after each step


def decoded(model: Any, prompt: list[int], settings: DecodingSettings, seed: int) -> Trace:
    """A whole decode, step by step."""
    plain = llada if settings.architecture == "llada" else dream
    with torch.inference_mode():
        return plain(model, prompt, settings, seed)


# ---------------------------------------------------------------- decoding


def all_logits(model: Any, x: list[int], prompt: int, s: DecodingSettings) -> Tensor:
    logits = model(torch.tensor([x]))[0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if s.guidance:
        hidden = model(torch.tensor([[model.config.mask_token_id] * prompt + x[prompt:]]))[0]
        hidden = hidden.to(logits.dtype)
        logits = hidden + (s.guidance + 1) * (logits - hidden)
    if s.suppress_eos:
        logits[:, model.config.eos_token_id] = -torch.inf
    return logits


def leftmost_top(scores: dict[int, float], k: int) -> list[int]:
    """The k highest scores; of equal ones, which the published topk leaves open, the leftmost."""
    return sorted(scores, key=lambda i: (-scores[i], i))[:k]


def llada_token(logits: Tensor, temperature: float, u: Tensor) -> int:
    if temperature == 0:
        return int(logits.argmax())
    wide = logits.double()
    return int(((wide - wide.max()).exp() / (-u.log()) ** temperature).argmax())


def llada_confidence(logits: Tensor, token: int, s: DecodingSettings, eos: int) -> float:
    """Softmax at the chosen token, after the two ends have left it.

    The published line is `logits_with_noise[:, :, 126081] = logits[:, :, 126348] = -inf`, where the
    first name is another name of the logits at temperature 0 alone.
    """
    logits = logits.clone()
    if s.confidence_eos_eot_inf:
        logits[s.end_of_turn] = -torch.inf
        if s.temperature == 0:
            logits[eos] = -torch.inf
    return float(logits.softmax(-1)[token])


def llada(model: Any, prompt: list[int], s: DecodingSettings, seed: int) -> Trace:
    generator = torch.Generator().manual_seed(seed)
    mask, eos, vocabulary = (
        model.config.mask_token_id,
        model.config.eos_token_id,
        model.config.vocab_size,
    )
    start, x, trace = len(prompt), [*prompt, *[mask] * s.gen_length], []
    blocks = s.gen_length // s.block_length
    steps = s.steps // blocks
    for block in range(blocks):
        end = start + (block + 1) * s.block_length
        m = sum(x[i] == mask for i in range(end - s.block_length, end))
        for step in range(steps):
            k = m // steps + (1 if step < m % steps else 0)
            masks = [i for i in range(start, end) if x[i] == mask]
            logits = all_logits(model, x, start, s)
            if s.remasking == "random":
                u = torch.rand(len(masks), generator=generator, dtype=torch.float64).tolist()
                masks = sorted(leftmost_top(dict(zip(masks, u, strict=True)), k))
            elif k == 0:
                masks = []
            noise = torch.ones(len(masks), vocabulary)
            if s.temperature > 0:
                shape = (len(masks), vocabulary)
                noise = torch.rand(shape, generator=generator, dtype=torch.float64)
            x0 = {
                i: llada_token(logits[i], s.temperature, u)
                for i, u in zip(masks, noise, strict=True)
            }
            confidence = {i: llada_confidence(logits[i], x0[i], s, eos) for i in masks}
            for i in leftmost_top(confidence, k):
                x[i] = x0[i]
            trace.append(x[start:])
    return trace


def nucleus(p: list[float], top_p: float, top_k: int | None) -> list[float]:
    """The smallest set of likeliest tokens with more than top_p, of these top_k; renormalized."""
    kept, total = [0.0] * len(p), 0.0
    for i in sorted(range(len(p)), key=lambda i: -p[i])[:top_k]:
        kept[i] = p[i]
        total += p[i]
        if total > top_p:
            break
    return [value / sum(kept) for value in kept]


def dream_confidence(p: list[float], token: int, remasking: str) -> float:
    if remasking == "origin":
        return 0.0  # every chosen position is revealed
    if remasking == "maskgit_plus":
        return p[token]
    if remasking == "topk_margin":
        first, second = sorted(p, reverse=True)[:2]
        return first - second
    return sum(q * math.log(q + 1e-10) for q in p)


def dream_token(p: list[float], temperature: float, u: float) -> int:
    if temperature == 0:
        return p.index(max(p))
    total = 0.0
    for token, q in enumerate(p):
        total += q
        if u < total:
            return token
    raise AssertionError("probabilities do not sum to 1")


def dream(model: Any, prompt: list[int], s: DecodingSettings, seed: int) -> Trace:
    generator = torch.Generator().manual_seed(seed)
    mask = model.config.mask_token_id
    start, x, trace = len(prompt), [*prompt, *[mask] * s.gen_length], []
    time = torch.linspace(1, 1e-3, s.steps + 1)
    for step in range(s.steps):
        share = float(1 - time[step + 1] / time[step]) if step < s.steps - 1 else 1.0
        masks = [i for i in range(start, len(x)) if x[i] == mask]
        k = int(len(masks) * share)
        logits = all_logits(model, x, start, s)
        if s.remasking == "origin":
            u = torch.rand(len(masks), generator=generator, dtype=torch.float64).tolist()
            masks = [i for i, v in zip(masks, u, strict=True) if v < share]
            k = len(masks)
        elif k == 0:
            masks = []
        noise = [0.0] * len(masks)
        if s.temperature > 0:
            noise = torch.rand(len(masks), generator=generator, dtype=torch.float64).tolist()
        x0, confidence = {}, {}
        for i, u in zip(masks, noise, strict=True):
            p = (logits[i] / (s.temperature or 1.0)).softmax(-1).tolist()
            p = nucleus(p, s.top_p, s.top_k)
            x0[i] = dream_token(p, s.temperature, u)
            confidence[i] = dream_confidence(p, x0[i], s.remasking)
        for i in leftmost_top(confidence, k):
            x[i] = x0[i]
        trace.append(x[start:])
    return trace


# ---------------------------------------------------------------- likelihood


def masked_log_p(
    model: Any, request: LikelihoodRequest, masked: list[int], settings: LikelihoodSettings
) -> float:
    """Sum of log p over the masked target positions: one unbatched forward, all logits."""
    mask, eos = model.config.mask_token_id, model.config.eos_token_id
    context, target = list(request.context), list(request.target)
    noisy = [mask if i in masked else token for i, token in enumerate(target)]
    tail = noisy + ([] if settings.estimator == "llada" else [eos])
    with torch.inference_mode():
        logits = model(torch.tensor([context + tail]))[0]
        if settings.guidance:
            hidden = model(torch.tensor([[mask] * len(context) + tail]))[0]
            logits = hidden + (settings.guidance + 1) * (logits - hidden)
    return sum(
        -float(F.cross_entropy(logits[len(context) + i], torch.tensor(target[i]))) for i in masked
    )


def subsets(length: int) -> Iterator[tuple[int, ...]]:
    """Every non-empty set of masked positions."""
    for size in range(1, length + 1):
        yield from combinations(range(length), size)


def llada_bound(
    model: Any,
    request: LikelihoodRequest,
    settings: LikelihoodSettings,
    counts: dict[int, float] | None = None,
) -> float:
    """The expected estimate: over x, and over all subsets of x tokens, (L / x) sum log p.

    counts: probability of each x; all alike where it is not given.
    """
    L = len(request.target)
    return sum(
        (counts[len(S)] if counts else 1 / L)
        * (L / len(S))
        * masked_log_p(model, request, list(S), settings)
        / math.comb(L, len(S))
        for S in subsets(L)
    )


def dream_bound(model: Any, request: LikelihoodRequest, settings: LikelihoodSettings) -> float:
    """Integral over t of the sum over subsets of p^|S| (1-p)^(L-|S|) / p * sum log p."""
    L = len(request.target)
    weight = {
        size: quad(
            lambda t, n=size: (0.999 * t + 1e-3) ** (n - 1) * (0.999 - 0.999 * t) ** (L - n), 0, 1
        )[0]
        for size in range(1, L + 1)
    }
    return sum(weight[len(S)] * masked_log_p(model, request, list(S), settings) for S in subsets(L))


def halves_to_even(length: int, b: int) -> dict[int, float]:
    """Probability of each number of masks in a batch of b as the published code draws it."""
    found = dict.fromkeys(range(1, length + 1), 0.0)
    for k in range(1, length + 1):
        for i in range(b):
            x = (round(k + i * length / b) - 1) % length + 1  # Python rounds halves to even
            found[x] += 1 / (length * b)
    return found
