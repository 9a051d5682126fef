"""Decoding by unmasking: a response starts as masks, and every step commits some of them.

A row with a prompt of 3, gen_length 6, two blocks, two steps per block (`_` is a mask):

    p p p | _ _ _ _ _ _      before
    p p p | a _ c _ _ _      step 1, block 1: the two surest of its three masks
    p p p | a b c _ _ _      step 2, block 1
    p p p | a b c _ e f      step 3, block 2
    p p p | a b c d e f      step 4, block 2

Nothing committed is ever masked again. Therefore a row may stop as soon as the beginning of its
response, up to the first mask, holds all that will be read: where responses are cut at their
end-of-text or at a stop string, one of these. Later steps cannot change it.

Every row has its own random generator and its own counts, so what a row decodes to does not depend
on the rows that share its batch, as far as its logits do not (see models/transformer.py).
Confidences are compared as they are, without being rounded first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dllmquant_exp.diffusion.batching import Predictor, batches, check_prompts, pad_rows
from dllmquant_exp.diffusion.sampling import (
    categorical,
    confidence_of,
    dream_logits,
    gumbel_argmax,
    most_confident,
    row_generator,
    uniform,
)
from dllmquant_exp.diffusion.schedule import Step, steps_of
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.models.transformer import Transformer

__all__ = ["DecodingSettings", "Generations", "decode", "generate"]

# These choose positions without looking at predictions, so the choice comes before the forward pass
# and nothing is predicted elsewhere.
BLIND_REMASKING = ("random", "origin")


@dataclass(frozen=True)
class Generations:
    """Result of `generate`.

    tokens: per prompt `gen_length` ids; what was not decoded (after the end) is the mask id
    token_forwards: tokens that went through the model, prompts included, padding not
    forwards: rows that went through the model
    """

    tokens: list[list[int]]
    token_forwards: int
    forwards: int


@torch.inference_mode()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    settings: DecodingSettings,
    *,
    seeds: Sequence[int],
    batch_size: int,
    finished: Callable[[list[int]], bool] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Generations:
    """Decode one response per prompt, by LLaDA's or Dream's published algorithm.

    Where the published code leaves a choice, or lets a row depend on its batch:
    - ties in confidence go to the leftmost position, see `most_confident`
    - Dream's number of reveals is int(masks * share) per row; the published code averages the
      masks over the batch
    - the softmax is computed in float32, in float64 for a float64 model. LLaDA's code has computed
      it in float64 and in the model's own bfloat16, where many confidences tie
    - as published, a position where the model predicts the mask token itself stays masked, and
      later steps may fill it; mask tokens inside a prompt belong to the prompt

    Args:
        prompts: token ids; they may differ in length.
        seeds: one per prompt, for temperature, `random` and `origin`.
        batch_size: rows per forward pass (guidance doubles them).
        finished: gets a row's response up to its first mask, and says whether all that will be
            read of it is decided. Without it, an end-of-text ends a row.
        progress: called after each step with the prompts done since its last call; a prompt that
            is decoded still counts as the share of its steps.

    Raises:
        DiffusionError: settings of the other architecture; a prompt that does not fit; seeds that
            are not one per prompt; a model that returns NaN.
    """
    config = model.config
    check_prompts(config, prompts, settings, seeds)

    def ended(_: int, prefix: list[int]) -> bool:
        return config.eos_token_id in prefix if finished is None else finished(prefix)

    predictor = Predictor(model, settings.guidance)
    tokens = decode(predictor, prompts, settings, seeds, batch_size, ended, progress)
    return Generations(tokens, predictor.token_forwards, predictor.forwards)


def decode(
    predictor: Predictor,
    prompts: Sequence[Sequence[int]],
    settings: DecodingSettings,
    seeds: Sequence[int],
    batch_size: int,
    ended: Callable[[int, list[int]], bool],
    progress: Callable[[float], None] | None = None,
    observe: Callable[[int, list[int], Tensor], None] | None = None,
) -> list[list[int]]:
    """`generate` with an end of its own: `ended(i, prefix)` for prompt i, and no other rule.

    observe: called before every step with its number, the prompts still being decoded, and their
        responses [rows, gen_length] as the model is about to see them.
    """
    responses: list[list[int]] = [[] for _ in prompts]
    longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    schedule = steps_of(settings)
    for indices in batches(longest_first, batch_size):
        rows, schedule = (
            _Rows.start(predictor, prompts, settings, seeds, indices),
            steps_of(settings),
        )
        for number, step in enumerate(schedule):
            if observe is not None:
                observe(number, rows.indices, rows.response())
            _commit(rows, step, settings, predictor)
            before = len(rows.indices)
            _retire(rows, rows.over(ended), responses)
            if progress is not None:
                spared = (before - len(rows.indices)) * (len(schedule) - number - 1)
                progress((before + spared) / len(schedule))
            if not rows.indices:
                break
        _retire(rows, [True] * len(rows.indices), responses)
    return responses


class _Rows:
    """The rows of a batch that are still being decoded.

    tokens [B, T] holds | prompt | response | padding |; `columns` [B, gen_length] says where the
    response of each row lies; `prefixes` counts the tokens before its first mask.
    """

    def __init__(
        self,
        tokens: Tensor,
        prompt_lengths: Tensor,
        gen_length: int,
        mask_token_id: int,
        indices: list[int],
        generators: list[torch.Generator],
    ) -> None:
        self.tokens = tokens
        self.prompt_lengths = prompt_lengths
        self.gen_length = gen_length
        self.mask_token_id = mask_token_id
        self.indices = indices
        self.generators = generators
        self.prefixes = [0] * len(indices)

    @classmethod
    def start(
        cls,
        predictor: Predictor,
        prompts: Sequence[Sequence[int]],
        settings: DecodingSettings,
        seeds: Sequence[int],
        indices: list[int],
    ) -> "_Rows":
        config = predictor.config
        blank = [config.mask_token_id] * settings.gen_length
        rows = [[*prompts[i], *blank] for i in indices]
        tokens, lengths = pad_rows(rows, config.pad_token_id, predictor.device)
        generators = [row_generator(seeds[i]) for i in indices]
        prompt_lengths = lengths - settings.gen_length
        return cls(
            tokens, prompt_lengths, settings.gen_length, config.mask_token_id, indices, generators
        )

    @property
    def lengths(self) -> Tensor:
        return self.prompt_lengths + self.gen_length

    @property
    def columns(self) -> Tensor:
        offset = torch.arange(self.gen_length, device=self.tokens.device)
        return self.prompt_lengths[:, None] + offset

    def response(self) -> Tensor:
        """[B, gen_length] ids."""
        return self.tokens.gather(1, self.columns)

    def write(self, response: Tensor) -> None:
        self.tokens = self.tokens.scatter(1, self.columns, response)

    def in_sequence(self, asked: Tensor) -> Tensor:
        """A mask over the response [B, gen_length] as a mask over the sequence [B, T]."""
        return torch.zeros_like(self.tokens, dtype=torch.bool).scatter(1, self.columns, asked)

    def over(self, ended: Callable[[int, list[int]], bool]) -> list[bool]:
        """Rows that need no further step, as bools. Only rows whose prefix grew are asked."""
        response = self.response()
        prefixes = (response != self.mask_token_id).long().cumprod(1).sum(1).tolist()
        answers = [
            new > old and ended(index, row[:new])
            for index, row, old, new in zip(
                self.indices, response.tolist(), self.prefixes, prefixes, strict=True
            )
        ]
        self.prefixes = prefixes
        return answers

    def drop(self, gone: list[bool]) -> None:
        """Compact the batch, and cut the padding that only the dropped rows needed."""
        stay = [i for i, is_gone in enumerate(gone) if not is_gone]
        self.indices = [self.indices[i] for i in stay]
        self.generators = [self.generators[i] for i in stay]
        self.prefixes = [self.prefixes[i] for i in stay]
        kept = torch.tensor(stay, dtype=torch.long, device=self.tokens.device)
        self.prompt_lengths = self.prompt_lengths[kept]
        width = int(self.lengths.max()) if stay else 0
        self.tokens = self.tokens[kept, :width]


def _commit(rows: _Rows, step: Step, settings: DecodingSettings, predictor: Predictor) -> None:
    """One step: predict where it matters, and turn the step's share of masks into tokens.

    Rows that commit nothing in this step (Dream's first ones, LLaDA with more steps than tokens)
    do not go through the model.
    """
    response = rows.response()
    masked = response == rows.mask_token_id
    masked[:, step.reach :] = False
    counts = step.commits(masked.sum(1))
    if settings.remasking in BLIND_REMASKING:
        asked = _blind_choice(masked, counts, step, settings.remasking, rows.generators)
    else:
        asked = masked & (counts > 0)[:, None]
    busy = asked.any(1)
    if not busy.any():
        return
    logits = predictor(
        rows.tokens[busy],
        rows.lengths[busy],
        rows.prompt_lengths[busy],
        rows.in_sequence(asked)[busy],
    )
    if settings.suppress_eos:
        logits[:, predictor.config.eos_token_id] = -torch.inf
    if settings.architecture == "dream":
        logits = dream_logits(logits, settings.temperature, settings.top_p, settings.top_k)
    tokens = _draw(logits, settings, asked.sum(1).tolist(), rows.generators)
    proposal = response.masked_scatter(asked, tokens)
    if settings.remasking not in BLIND_REMASKING:
        if settings.confidence_eos_eot_inf:
            ends = [settings.end_of_turn]
            ends += [predictor.config.eos_token_id] if settings.temperature == 0 else []
            logits[:, ends] = -torch.inf
        surest = confidence_of(logits, tokens, settings.remasking)
        confidence = surest.new_full(asked.shape, -torch.inf).masked_scatter(asked, surest)
        asked = most_confident(confidence, counts)
    rows.write(torch.where(asked, proposal, response))


def _blind_choice(
    masked: Tensor, counts: Tensor, step: Step, remasking: str, generators: list[torch.Generator]
) -> Tensor:
    """Positions to commit, [B, gen_length] bool, by one uniform number for every mask in reach.

    `random`: the `counts` largest numbers. `origin`: every number below the step's share.
    """
    sizes = masked.sum(1).tolist()
    u = torch.cat([uniform(g, n) for n, g in zip(sizes, generators, strict=True)])
    scores = u.new_full(masked.shape, -torch.inf, device=masked.device)
    scores = scores.masked_scatter(masked, u.to(masked.device))
    if remasking == "random":
        return most_confident(scores, counts)
    return masked & (scores < step.share)


def _draw(
    logits: Tensor, settings: DecodingSettings, sizes: list[int], generators: list[torch.Generator]
) -> Tensor:
    """Tokens [n] for logits [n, vocab], the first sizes[0] of them for row 0, and so on."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    drawn = []
    for row, generator in zip(logits.split(sizes), generators, strict=True):
        if settings.architecture == "dream":  # dream_logits has divided by the temperature
            drawn.append(categorical(row, generator))
        else:
            drawn.append(gumbel_argmax(row, settings.temperature, generator))
    return torch.cat(drawn)


def _retire(
    rows: _Rows,
    over: list[bool],
    responses: list[list[int]],
) -> None:
    """Hand back the responses of the rows that are over, and go on with the others."""
    if not any(over):
        return
    for index, tokens, is_over in zip(rows.indices, rows.response().tolist(), over, strict=True):
        if is_over:
            responses[index] = tokens
    rows.drop(over)
