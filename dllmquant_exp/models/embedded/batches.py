"""Training batches of the embedded models and LLaDA's objective on them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.models.embedded import tokenizer as micro_tokenizer
from dllmquant_exp.models.embedded import world
from dllmquant_exp.models.embedded.items import Dice
from dllmquant_exp.models.transformer import Transformer

# Sequences of each task in one step, in groups of similar length so that little is padding.
BUCKETS: tuple[dict[str, int], ...] = (
    {
        "micro_truthfulqa": 10,
        "micro_arc": 8,
        "micro_hellaswag": 10,
        "micro_winogrande": 10,
        "micro_piqa": 8,
    },
    {"micro_mmlu": 8, "micro_ceval": 8},
    {"micro_humaneval": 24, "micro_gsm8k": 24},
)
# The same number of sequences, most of them of the tasks that are hardest after that.
HARDER_BUCKETS: tuple[dict[str, int], ...] = (
    {
        "micro_truthfulqa": 8,
        "micro_arc": 8,
        "micro_hellaswag": 6,
        "micro_winogrande": 6,
        "micro_piqa": 6,
    },
    {"micro_mmlu": 10, "micro_ceval": 22},
    {"micro_humaneval": 12, "micro_gsm8k": 32},
)


@dataclass(frozen=True)
class TrainingRow:
    """One training sequence: token ids, and which of them are response."""

    task: str
    tokens: tuple[int, ...]
    response: tuple[bool, ...]


@dataclass(frozen=True)
class Batch:
    """tokens, masked: [B, T]; attention_mask: [B, T]; tasks: one name a row."""

    tokens: Tensor
    attention_mask: Tensor
    masked: Tensor
    tasks: tuple[str, ...]


def training_row(
    task: str, dice: Dice, tokenizer: PreTrainedTokenizerBase, *, closed: bool = False
) -> TrainingRow:
    """One training sequence of a task, from training combinations only.

    closed: an end-of-text that is never masked follows, as in Dream's likelihoods.
    """

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    tokens: list[int] = []
    response: list[bool] = []

    def add(ids: list[int], is_response: bool) -> None:
        tokens.extend(ids)
        response.extend([is_response] * len(ids))

    for text, is_response in world.training_text(task, dice):
        ids = encode(text)
        if is_response and task in world.GENERATION:
            ids += [micro_tokenizer.EOS_ID] * (world.GEN_LENGTH - len(ids))
        add(ids, is_response)
    if closed and task not in world.GENERATION:
        add([micro_tokenizer.EOS_ID], False)
    return TrainingRow(task, tuple(tokens), tuple(response))


def make_batch(
    counts: dict[str, int],
    dice: Dice,
    tokenizer: PreTrainedTokenizerBase,
    *,
    closed: bool = False,
) -> Batch:
    """One sequence per count, each with its masks; see `training_row` for `closed`."""
    tasks = [task for task, count in counts.items() for _ in range(count)]
    rows = [training_row(task, dice, tokenizer, closed=closed) for task in tasks]
    length = max(len(row.tokens) for row in rows)
    tokens = torch.full((len(rows), length), micro_tokenizer.EOS_ID)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.bool)
    masked = torch.zeros(len(rows), length, dtype=torch.bool)
    # Mask counts are spread evenly over the rows of a step: the same distribution as independent
    # draws for every row, with less noise between steps.
    offset = dice.random()
    order = list(range(len(rows)))
    dice.shuffle(order)
    for i, row in enumerate(rows):
        tokens[i, : len(row.tokens)] = torch.tensor(row.tokens)
        attention_mask[i, : len(row.tokens)] = True
        places = [j for j, is_response in enumerate(row.response) if is_response]
        u = (offset + order[i] / len(rows)) % 1.0
        count = 1 + int(u * len(places))
        masked[i, dice.sample(places, count)] = True
    return Batch(tokens, attention_mask, masked, tuple(row.task for row in rows))


def row_losses(model: Transformer, batch: Batch) -> Tensor:
    """Mean cross-entropy over each row's masked tokens, [B]: its share of Eq. 6 divided by L."""
    inputs = batch.tokens.masked_fill(batch.masked, model.config.mask_token_id)
    logits = model(inputs, batch.attention_mask, batch.masked)
    losses = F.cross_entropy(logits, batch.tokens[batch.masked], reduction="none")
    counts = batch.masked.sum(1)
    row = torch.arange(len(counts)).repeat_interleave(counts)
    return losses.new_zeros(len(counts)).index_add(0, row, losses) / counts
