"""Rows of different lengths in one forward pass, with guidance, counted.

| prompt ............ | response or target | padding ... |
0               prompt_length           length           T
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from dllmquant_exp.diffusion.settings import DecodingSettings, DiffusionError
from dllmquant_exp.models.transformer import Transformer, TransformerConfig, at_least_float32

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of at most `size` items; the source is read only as far as needed."""
    if size < 1:
        raise DiffusionError(f"batch_size = {size} must be at least 1")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def pad_rows(
    rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Right-pad token ids to tokens [B, T] and lengths [B]."""
    lengths = [len(row) for row in rows]
    width = max(lengths)
    padded = [[*row, *[pad_token_id] * (width - len(row))] for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)


def check_row(what: str, tokens: Sequence[int], length: int, config: TransformerConfig) -> None:
    """Raise DiffusionError unless `length` positions fit the model and all `tokens` are in it."""
    if length > config.max_length:
        raise DiffusionError(
            f"{what} needs {length} positions and the model has max_length = {config.max_length}; "
            "shorten the prompt or the answer"
        )
    if tokens and not 0 <= min(tokens) <= max(tokens) < config.vocab_size:
        raise DiffusionError(
            f"{what} has token ids from {min(tokens)} to {max(tokens)}, outside the vocabulary of "
            f"{config.vocab_size}; is this the model's own tokenizer?"
        )


def check_prompts(
    config: TransformerConfig,
    prompts: Sequence[Sequence[int]],
    settings: DecodingSettings,
    seeds: Sequence[int],
) -> None:
    """Raise DiffusionError for what `generate` could not decode; see there."""
    settings.validate(config.architecture)
    if settings.confidence_eos_eot_inf and settings.end_of_turn is None:
        raise DiffusionError(
            "confidence_eos_eot_inf needs end_of_turn, the id of the tokenizer's end-of-turn token"
        )
    if len(seeds) != len(prompts):
        raise DiffusionError(f"{len(prompts)} prompts have {len(seeds)} seeds; give one each")
    for i, prompt in enumerate(prompts):
        check_row(f"prompt {i}", prompt, len(prompt) + settings.gen_length, config)


class Predictor:
    """A model's logits at masked positions, with classifier-free guidance, and what they cost.

    `forwards` counts rows that went through the model, `token_forwards` their tokens. Padding is
    not counted, so neither number depends on the batch size. Guidance doubles both.
    """

    def __init__(self, model: Transformer, guidance: float = 0.0) -> None:
        self.model = model
        self.config = model.config
        self.device = next(model.parameters()).device
        self.guidance = guidance
        self.forwards = 0
        self.token_forwards = 0

    def __call__(
        self, tokens: Tensor, lengths: Tensor, prompt_lengths: Tensor, asked: Tensor
    ) -> Tensor:
        """Logits at the `asked` positions, in float32 or better.

        Args:
            tokens: [B, T] ids, right-padded.
            lengths: [B] tokens of each row without padding.
            prompt_lengths: [B] how many of them are the prompt; guidance hides these.
            asked: [B, T] bool, the positions to predict.

        Returns:
            [n, vocab_size], row-major over `asked`. With guidance g it is
            unconditional + (g + 1) (conditional - unconditional), where the unconditional row has
            the whole prompt masked.

        Raises:
            DiffusionError: the model returned a NaN or an infinity.
        """
        column = torch.arange(tokens.shape[1], device=tokens.device)
        if not self.guidance:
            return self._forward(tokens, column < lengths[:, None], asked)
        hidden = tokens.masked_fill(column < prompt_lengths[:, None], self.config.mask_token_id)
        both = self._forward(
            torch.cat((tokens, hidden)),
            (column < lengths[:, None]).repeat(2, 1),
            asked.repeat(2, 1),
        )
        conditional, unconditional = both.chunk(2)
        return unconditional + (self.guidance + 1) * (conditional - unconditional)

    def _forward(self, tokens: Tensor, attention_mask: Tensor, asked: Tensor) -> Tensor:
        self.forwards += len(tokens)
        self.token_forwards += int(attention_mask.sum())
        logits = self.model(tokens, attention_mask, asked)
        logits = logits.to(at_least_float32(logits.dtype))
        if not logits.isfinite().all():
            raise DiffusionError(
                "the model returned NaN or infinite logits; check its weights, and the scales if "
                "it is quantized"
            )
        return logits
