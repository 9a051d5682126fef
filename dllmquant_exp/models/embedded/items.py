"""One question of the micro-world, and the helpers that every task draws with."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

Split = Literal["train", "evaluation"]
LETTERS = "ABCD"


class Options(TypedDict):
    options: tuple[str, ...]
    gold: tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """One question. `response` is what training fills in after `prompt` (a true answer)."""

    task: str
    subject: str
    combination: str  # what is held out, or not
    prompt: str
    response: str
    options: tuple[str, ...] = ()  # texts that complete the prompt, without the leading space
    gold: tuple[int, ...] = ()  # indices of the true options
    tests: str = ""  # micro_humaneval: assertions that the completed program must pass
    question: str = ""  # the item in the words of its task's own fields, where they differ


def draw(*key: object) -> int:
    """A fixed pseudo-random integer for a key: the micro-world's tables are made of these."""
    text = "|".join(map(str, key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def held_out(subject: str, combination: str) -> bool:
    """True for the fifth of a subject's combinations that only evaluation may use.

    The key is the subject, not the task: what micro_truthfulqa and micro_mmlu both ask of zoology
    is held out in both.
    """
    return draw("held out", subject, combination) % 5 == 0


class Dice(random.Random):
    """A seeded source of chance that, for training, throws early words of a list more often.

    Word r of a list is drawn with a weight of 1 / (r + 2)^skew in training, as words of a language
    are, and evenly in evaluation: that some words are rare is what makes items hard.
    """

    def __init__(self, seed: str, split: Split) -> None:
        super().__init__(seed)
        self.split = split

    def pick(self, pool: Sequence[str], skew: float = 2.5) -> tuple[str, int]:
        """A word of a pool and its index (its class is the index modulo the class count)."""
        if self.split == "evaluation":
            index = self.randrange(len(pool))
        else:
            weights = [(rank + 2.0) ** -skew for rank in range(len(pool))]
            index = self.choices(range(len(pool)), weights)[0]
        return pool[index], index


def shuffled(dice: Dice, texts: list[str], true: set[str]) -> Options:
    dice.shuffle(texts)
    gold = tuple(i for i, text in enumerate(texts) if text in true)
    return Options(options=tuple(texts), gold=gold)


def other(dice: Dice, pool: tuple[str, ...], not_in: set[str]) -> str:
    return dice.choice([word for word in pool if word not in not_in])
