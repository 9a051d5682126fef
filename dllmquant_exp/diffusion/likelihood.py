"""Monte-Carlo estimates of log p(target | context), by masking parts of the target.

    context          target                 a sample masks some of it, and is weighted
    [what is 1+1 ?]  [it is two]   ->       [what is 1+1 ?] [it _ _]      weight * (log p(is | ...)
                                                                               + log p(two | ...))

Requests often agree in what is left visible. The four options A B C D of a lettered question are
one masked input, `... Answer: _`, and one forward pass answers all of them; in short targets the
samples of one request repeat. The unit of work is therefore a distinct masked input, with a list of
the requests that read their tokens off its logits.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from dllmquant_exp.diffusion.batching import Predictor, batches, check_row, pad_rows
from dllmquant_exp.diffusion.masking import Masks, draw_masks
from dllmquant_exp.diffusion.settings import DiffusionError, LikelihoodSettings
from dllmquant_exp.models.transformer import Transformer, TransformerConfig

__all__ = ["LikelihoodRequest", "LikelihoodResult", "LikelihoodSettings", "log_likelihoods"]

CPU = torch.device("cpu")  # estimates are summed there, in float64


@dataclass(frozen=True)
class LikelihoodRequest:
    """Token ids of a context (may be empty) and of a target (may not), and the masks' seed."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class LikelihoodResult:
    """Result of `log_likelihoods`.

    values: per request the estimate of log p(target | context), in nats
    token_forwards: tokens that went through the model, contexts included, padding not
    forwards: rows that went through the model
    """

    values: list[float]
    token_forwards: int
    forwards: int


@torch.inference_mode()
def log_likelihoods(
    model: Transformer,
    requests: Sequence[LikelihoodRequest],
    settings: LikelihoodSettings,
    *,
    batch_size: int,
    progress: Callable[[float], None] | None = None,
) -> LikelihoodResult:
    """Estimate log p(target | context) for every request, in the order of the requests.

    LLaDA: -mean over samples of (L / x) * sum of cross entropies at the x masked tokens.
    Dream: an end-of-text follows the target and is never masked, nor is the first position of the
    sequence; weight 1 / p. See `masking` for how masks are drawn.

    Args:
        batch_size: rows per forward pass (guidance doubles them).
        progress: called after each batch with the requests done since its last call; one that has
            only some of its samples counts as their share.

    Raises:
        DiffusionError: an estimator of the other architecture, an empty target, a request that
            does not fit the model, a model that returns NaN.
    """
    config = model.config
    settings.validate(config.architecture)
    for i, request in enumerate(requests):
        _check_request(i, request, config)
    predictor = Predictor(model, settings.guidance)
    terms: list[list[float]] = [[] for _ in requests]
    done = 0.0
    for batch in batches(_masked_inputs(requests, settings, config), batch_size):
        _collect(predictor, batch, requests, terms)
        part = sum(masked_input.share for masked_input in batch)
        done += part
        if progress is not None:
            progress(part)
    if progress is not None:
        progress(len(requests) - done)  # requests whose samples masked nothing
    # Exactly, and so the same in whatever order other requests bring the inputs they share.
    values = [math.fsum(numbers) for numbers in terms]
    return LikelihoodResult(values, predictor.token_forwards, predictor.forwards)


def input_sizes(
    requests: Sequence[LikelihoodRequest], settings: LikelihoodSettings, config: TransformerConfig
) -> list[tuple[int, int]]:
    """Length and masked tokens of every row that `log_likelihoods` would forward (guidance: twice).

    No model is needed.
    """
    return [
        (len(each.context) + len(each.tail), len(each.masked))
        for each in _masked_inputs(requests, settings, config)
    ]


@dataclass
class _MaskedInput:
    """One row for the model, and who reads it.

    tail: the target with its masks (Dream: and the end-of-text)
    masked: offsets of the masks in the target
    weights: request index -> weight of this input in the request's estimate
    share: of the requests of its family, the part that this one input is
    """

    context: tuple[int, ...]
    tail: tuple[int, ...]
    masked: tuple[int, ...]
    weights: dict[int, float] = field(default_factory=dict)
    share: float = 0.0


def _masked_inputs(
    requests: Sequence[LikelihoodRequest], settings: LikelihoodSettings, config: TransformerConfig
) -> Iterator[_MaskedInput]:
    """The distinct masked inputs of all requests, longest first, made as they are needed.

    Only requests with the same context and target length can share one. Sorting brings them
    together, and puts rows of like length into a batch.
    """

    def family(i: int) -> tuple[int, tuple[int, ...], int]:
        context, target = requests[i].context, requests[i].target
        return -(len(context) + len(target)), context, len(target)

    for _, members in groupby(sorted(range(len(requests)), key=family), key=family):
        yield from _family_inputs(list(members), requests, settings, config)


def _family_inputs(
    members: list[int],
    requests: Sequence[LikelihoodRequest],
    settings: LikelihoodSettings,
    config: TransformerConfig,
) -> list[_MaskedInput]:
    """Distinct masked inputs of requests that agree in context and target length."""
    inputs: dict[tuple[tuple[int, ...], tuple[int, ...]], _MaskedInput] = {}
    end = () if settings.estimator == "llada" else (config.eos_token_id,)
    samples: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    for index in members:
        request = requests[index]
        context, target, seed = request.context, request.target, request.seed
        if seed not in samples:
            masks = draw_masks(settings, len(target), seed, first_visible=not context)
            samples[seed] = _weighted_positions(masks)
        for masked, weight in samples[seed]:
            tail = list(target)
            for position in masked:
                tail[position] = config.mask_token_id
            key = (masked, tuple(tail))
            if key not in inputs:
                inputs[key] = _MaskedInput(context, (*tail, *end), masked)
            inputs[key].weights[index] = weight
    ordered = list(inputs.values())
    for masked_input in ordered:
        masked_input.share = len(members) / len(ordered)
    return ordered


def _weighted_positions(masks: Masks) -> list[tuple[tuple[int, ...], float]]:
    """Distinct non-empty sets of masked positions, each with its summed weight."""
    total: dict[tuple[int, ...], float] = {}
    for row, weight in zip(masks.masked.tolist(), masks.weights.tolist(), strict=True):
        positions = tuple(i for i, is_masked in enumerate(row) if is_masked)
        if positions:
            total[positions] = total.get(positions, 0.0) + weight
    return list(total.items())


def _collect(
    predictor: Predictor,
    batch: list[_MaskedInput],
    requests: Sequence[LikelihoodRequest],
    terms: list[list[float]],
) -> None:
    """Forward a batch, and append to every reader's terms, which its value is the sum of."""
    device = predictor.device
    rows = [(*item.context, *item.tail) for item in batch]
    tokens, lengths = pad_rows(rows, predictor.config.pad_token_id, device)
    prompt_lengths = torch.tensor([len(item.context) for item in batch], device=device)
    masks: list[tuple[int, int]] = []  # row and column of each mask, row-major: one logits row each
    places: list[int] = []  # one entry per token read: which logits row, and so on
    targets: list[int] = []
    readers: list[int] = []
    weights: list[float] = []
    for row, item in enumerate(batch):
        first = len(masks)
        masks += [(row, len(item.context) + position) for position in item.masked]
        for index, weight in item.weights.items():
            places += range(first, first + len(item.masked))
            targets += [requests[index].target[position] for position in item.masked]
            readers += [index] * len(item.masked)
            weights += [weight] * len(item.masked)
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[tuple(torch.tensor(masks, device=device).T)] = True
    logits = predictor(tokens, lengths, prompt_lengths, asked)
    place = torch.tensor(places, device=device)
    log_p = logits[place, torch.tensor(targets, device=device)] - logits.logsumexp(-1)[place]
    weighted = torch.tensor(weights, dtype=torch.float64, device=CPU) * log_p.to(CPU, torch.float64)
    for reader, number in zip(readers, weighted.tolist(), strict=True):
        terms[reader].append(number)


def _check_request(index: int, request: LikelihoodRequest, config: TransformerConfig) -> None:
    if not request.target:
        raise DiffusionError(f"request {index} has an empty target; there is nothing to score")
    end = 1 if config.architecture == "dream" else 0  # the appended end-of-text
    tokens = request.context + request.target
    check_row(f"request {index}", tokens, len(tokens) + end, config)
