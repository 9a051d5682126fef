"""The micro-world's tokenizer: byte-level BPE, so that any text can be encoded and decoded exactly.

It is trained on the micro-world, so each of its words and numbers is one token (numbers of up to
three digits are one token for Llama 3 too); Chinese characters stand alone.
"""

from itertools import islice, product
from typing import get_args

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.models.embedded import world
from dllmquant_exp.models.embedded.items import Dice, Split

EOS, MASK = "<|endoftext|>", "<|mdm_mask|>"
EOS_ID, MASK_ID = 0, 1
VOCABULARY = 2048


def train_tokenizer(items_per_task: int = 2000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Deterministic for a seed and a version of `tokenizers`; the shipped file is authoritative."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = []
    for task, split in product(world.TASKS, get_args(Split)):
        items = world.stream(task, Dice(f"tokenizer {task} {split} {seed}", split))
        for item in islice(items, items_per_task):
            texts += [item.prompt + item.response, *(f" {option}" for option in item.options)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS, mask_token=MASK
    )
