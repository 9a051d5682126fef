"""The protocol of calibration samplers, and what those that decode prompts share.

A sampler is a frozen dataclass in a file of its own: its fields are its settings, and `sample`
collects the set. A user's own class derives from `Sampler` likewise, and a YAML in the group
`calibration` or `tmas` names it:

    _target_: my_module.Sentences
    name: sentences
    samples: 64
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.sources import CalibrationText, TextSource
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    unscored_state,
)
from dllmquant_exp.diffusion.settings import Count, DecodingSettings
from dllmquant_exp.diffusion.trajectory import DecodingState, states, trajectories
from dllmquant_exp.models.transformer import Architecture, Transformer
from dllmquant_exp.store.schema import Settings

__all__ = ["Count", "DecodingSampler", "Sampler", "TextSource"]


@dataclass(frozen=True)
class Expected:
    """What a set is going to take, before `tokens` cuts it: for plans.

    texts: asked for
    prompts: decoded
    states, length: how many, and tokens of each
    """

    texts: int
    prompts: int
    states: int
    length: float


@dataclass(frozen=True, kw_only=True)
class Sampler(Settings, ABC):
    """Chooses the inputs that a quantization method measures.

    Attributes:
        name: stands in results, labels and caches.
        samples: states to collect.
        tokens: at most so many are kept, whole states drawn at random, to compare two sets at equal
            cost; None keeps all. See `collect`.
    """

    name: str
    samples: Count
    tokens: Count | None = None

    @abstractmethod
    def sample(
        self,
        model: Transformer,
        tokenizer: PreTrainedTokenizerBase,
        source: TextSource,
        *,
        seed: int,
        batch_size: int,
    ) -> CalibrationSet:
        """Collect the states.

        Args:
            model: in full precision.
            source: gives different training texts of the named data sets; a smaller count gives
                the first of them.
            batch_size: rows per forward pass; it should change no choice.

        Returns:
            A set of this sampler's name. Its states may lack confidences.

        Raises:
            CalibrationError: texts or settings that the states cannot be collected with.
            DiffusionError: prompts that the model cannot decode.
        """

    def check(self, architecture: Architecture) -> None:
        """Refuse settings that this architecture cannot follow, before a model is loaded.

        Raises:
            CalibrationError, DiffusionError: with the setting and what would work.
        """

    def expect(self, architecture: Architecture, text_tokens: float) -> Expected:
        """What the set is going to take, where the part of a text that is read has so many tokens.

        Unless a sampler knows better: a state per text, as long as that part, without the model.
        """
        return Expected(self.samples, 0, self.samples, text_tokens)


@dataclass(frozen=True, kw_only=True)
class DecodingSampler(Sampler):
    """A sampler whose states come from decodes.

    Attributes:
        gen_length, steps: of the decodes.
        blocks: of the decodes of a LLaDA; Dream decodes one block.
    """

    gen_length: Count
    steps: Count
    blocks: Count

    def decoding(self, architecture: Architecture) -> DecodingSettings:
        """Greedy decoding by confidence, as the architecture's authors publish it."""
        llada = architecture == "llada"
        if llada and self.gen_length % self.blocks:
            raise CalibrationError(
                f"blocks = {self.blocks} do not divide gen_length {self.gen_length}"
            )
        return DecodingSettings(
            gen_length=self.gen_length,
            steps=self.steps,
            block_length=self.gen_length // self.blocks if llada else self.gen_length,
            remasking="low_confidence" if llada else "entropy",
        )

    def check(self, architecture: Architecture) -> None:
        self.decoding(architecture)

    def expect(self, architecture: Architecture, text_tokens: float) -> Expected:
        return Expected(self.samples, self.samples, self.samples, text_tokens + self.gen_length)

    def decodes(
        self, model: Transformer, prompts: Sequence[Sequence[int]], *, seed: int, batch_size: int
    ) -> Iterator[tuple[int, Iterator[DecodingState]]]:
        """The length of each prompt and the states of its decode, made as they are asked for."""
        decoding = self.decoding(model.config.architecture)
        seeds = prompt_seeds(seed, len(prompts))
        for each in trajectories(model, prompts, decoding, seeds=seeds, batch_size=batch_size):
            yield len(each.prompt), states(each, decoding, model.config.mask_token_id)


def encoded_prompts(
    texts: Sequence[CalibrationText], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids of the prompts of texts, without special tokens."""
    return [tokenizer(text.prompt, add_special_tokens=False)["input_ids"] for text in texts]


def prompt_seeds(seed: int, count: int) -> list[int]:
    """A seed per prompt, which depends on the prompt's place and not on how many there are."""
    dice = random.Random(f"prompts {seed}")
    return [dice.getrandbits(63) for _ in range(count)]


def calibration_state(
    visited: DecodingState, prompt_length: int, block: int, ratio: float
) -> CalibrationState:
    """A state of a decode as a calibration state, without confidences."""
    return unscored_state(
        visited.tokens, visited.masked, prompt_length, block=block, step=visited.step, ratio=ratio
    )
