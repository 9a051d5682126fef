"""Random segments of text, nothing masked: what the baselines calibrate on ("Random")."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from dllmquant_exp.calibration.sampler import Count, Inputs, Sampler
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    sizes,
    unscored_state,
)

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

    def sample(self, inputs: Inputs) -> CalibrationSet:
        segments = self._cut(self._enough_texts(inputs), inputs)
        states = tuple(unscored_state(s, [False] * len(s), len(s)) for s in segments)
        report = {**sizes(states), "seed": inputs.seed, "length": self.length}
        return CalibrationSet(self.name, states, report)

    @property
    def least_texts(self) -> int:
        return self.samples

    @property
    def passes(self) -> float:
        return 0

    def _enough_texts(self, inputs: Inputs) -> list[str]:
        """Texts that hold all tokens of the segments; as texts differ in length, by trying."""
        wanted, count = self.samples * self.length, self.samples
        while True:
            texts = [text.text for text in inputs.texts(self.texts, count)]
            encoded = inputs.tokenizer(texts, add_special_tokens=False)["input_ids"]
            tokens = sum(len(ids) for ids in encoded)
            if tokens >= wanted:
                return texts
            count = max(count + 1, int(1.1 * count * wanted / max(tokens, 1)))

    def _cut(self, texts: Sequence[str], inputs: Inputs) -> list[list[int]]:
        """The segments, from the texts in random order; no token is used twice."""
        count, length = self.samples, self.length
        dice = random.Random(f"random segments {inputs.seed}")
        tokens: list[int] = []
        for i in dice.sample(range(len(texts)), len(texts)):
            tokens += inputs.tokenizer(texts[i] + SEPARATOR, add_special_tokens=False)["input_ids"]
            if len(tokens) >= count * length:
                break
        else:
            raise CalibrationError(
                f"{len(texts)} texts hold {len(tokens)} tokens, too few for {count} segments of "
                f"{length}: ask for fewer or shorter ones, or give more texts"
            )
        return [tokens[start : start + length] for start in range(0, count * length, length)]
