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

from dllmquant_exp.calibration.confidence import scored
from dllmquant_exp.calibration.sources import TextSource
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    unscored_state,
)
from dllmquant_exp.diffusion.settings import Count, DecodingSettings
from dllmquant_exp.diffusion.trajectory import DecodingState, states, trajectories
from dllmquant_exp.models.transformer import Architecture, Transformer
from dllmquant_exp.store.progress import tracked
from dllmquant_exp.store.schema import Settings

__all__ = ["Count", "DecodingSampler", "Inputs", "Sampler"]


@dataclass(frozen=True)
class Inputs:
    """Everything that a sampler may work with.

    model: in full precision
    texts: gives different training texts of named data sets; a smaller count gives the first ones
    batch_size: rows per forward pass; it should change no choice
    """

    model: Transformer
    tokenizer: PreTrainedTokenizerBase
    texts: TextSource
    seed: int
    batch_size: int

    def prompts(self, names: Sequence[str], count: int) -> list[list[int]]:
        """Token ids of the prompts of training texts, without special tokens."""
        return [
            self.tokenizer(text.prompt, add_special_tokens=False)["input_ids"]
            for text in self.texts(names, count)
        ]

    def scored(self, collected: CalibrationSet) -> CalibrationSet:
        """The same states with the model's confidences."""
        return scored(self.model, collected, self.batch_size)


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
    def sample(self, inputs: Inputs) -> CalibrationSet:
        """Collect the states.

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

    @property
    def least_texts(self) -> int:
        """Training texts that it asks for at least, of the data sets in its setting `texts`."""
        return 0

    @property
    def passes(self) -> float | None:
        """Times that all states go through the model, at most, for plans; None where unknown."""
        return None


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

    @property
    def passes(self) -> float:
        return self.steps + 1  # a decode for every state, and its confidences

    def decodes(
        self, inputs: Inputs, prompts: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, Iterator[DecodingState]]]:
        """The length of each prompt and the states of its decode, made as they are asked for."""
        config, size = inputs.model.config, inputs.batch_size
        decoding = self.decoding(config.architecture)
        seeds = prompt_seeds(inputs.seed, len(prompts))
        made = trajectories(inputs.model, prompts, decoding, seeds=seeds, batch_size=size)
        for each in tracked(made, f"decodes for {self.name}, at most", len(prompts)):
            yield len(each.prompt), states(each, decoding, config.mask_token_id)


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
