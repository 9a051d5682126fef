"""Random segments of text, nothing masked: what the baselines calibrate on ("Random")."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.sampler import Count, Expected, Sampler, TextSource
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    sizes,
    unscored_state,
)
from dllmquant_exp.models.transformer import Architecture, Transformer

SEPARATOR = "\n\n"  # between texts, as in GPTQ's preparation of WikiText-2


@dataclass(frozen=True, kw_only=True)
class RandomSegments(Sampler):
    """`samples` segments of `length` tokens, cut from training texts in random order.

    The states carry no confidences: no model takes part.

    Attributes:
        texts: training data sets that segments are cut from.
        length: tokens of a segment.
    """

    texts: tuple[str, ...]
    length: Count

    def sample(
        self,
        model: Transformer,
        tokenizer: PreTrainedTokenizerBase,
        source: TextSource,
        *,
        seed: int,
        batch_size: int,
    ) -> CalibrationSet:
        texts = self._enough_texts(tokenizer, source)
        segments = cut(texts, tokenizer, count=self.samples, length=self.length, seed=seed)
        states = tuple(unscored_state(s, [False] * len(s), len(s)) for s in segments)
        report = {**sizes(states), "seed": seed, "length": self.length}
        return CalibrationSet(self.name, states, report)

    def expect(self, architecture: Architecture, text_tokens: float) -> Expected:
        texts = ceil(self.samples * self.length / text_tokens)
        return Expected(texts, 0, self.samples, self.length)

    def _enough_texts(self, tokenizer: PreTrainedTokenizerBase, source: TextSource) -> list[str]:
        """Texts that hold all tokens of the segments; as texts differ in length, by trying."""
        wanted, count = self.samples * self.length, self.samples
        while True:
            texts = [text.text for text in source(self.texts, count)]
            encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
            tokens = sum(len(ids) for ids in encoded)
            if tokens >= wanted:
                return texts
            count = max(count + 1, int(1.1 * count * wanted / max(tokens, 1)))


def cut(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    length: int,
    seed: int,
) -> list[list[int]]:
    """`count` segments of `length` tokens of the texts in random order; no token is used twice.

    Raises:
        CalibrationError: too little text for them.
    """
    order = random.Random(f"random segments {seed}").sample(range(len(texts)), len(texts))
    tokens: list[int] = []
    for i in order:
        tokens += tokenizer(texts[i] + SEPARATOR, add_special_tokens=False)["input_ids"]
        if len(tokens) >= count * length:
            return [tokens[start : start + length] for start in range(0, count * length, length)]
    raise CalibrationError(
        f"{len(texts)} texts hold {len(tokens)} tokens, enough for {len(tokens) // length} "
        f"segments of {length}, not {count}: ask for fewer or shorter ones, or give more texts"
    )
