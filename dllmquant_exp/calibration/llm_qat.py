"""Texts that the full-precision model writes itself, as LLM-QAT does; nothing masked (Table 6)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dllmquant_exp.calibration.sampler import DecodingSampler, Inputs, prompt_seeds
from dllmquant_exp.calibration.states import CalibrationSet, sizes, unscored_state
from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.store.schema import describe


@dataclass(frozen=True, kw_only=True)
class LlmQat(DecodingSampler):
    """`samples` texts of a random first token and up to `gen_length` that the model samples after.

    A text ends with its first end-of-text.
    """

    def decoding(self, architecture: Architecture) -> DecodingSettings:
        """Sampling, as LLM-QAT does: greedy texts would differ by little but their first token."""
        return replace(super().decoding(architecture), temperature=1.0)

    def sample(self, inputs: Inputs) -> CalibrationSet:
        config, seed = inputs.model.config, inputs.seed
        decoding = self.decoding(config.architecture)
        starts = random.Random(f"self-generated {seed}").choices(_words(inputs), k=self.samples)
        made = generate(
            inputs.model,
            [[start] for start in starts],
            decoding,
            seeds=prompt_seeds(seed, self.samples),
            batch_size=inputs.batch_size,
        )
        texts = [
            [start, *_until_end(response, config.eos_token_id)]
            for start, response in zip(starts, made.tokens, strict=True)
        ]
        states = tuple(
            unscored_state(text, [token == config.mask_token_id for token in text], 1)
            for text in texts
        )
        report = {
            **sizes(states),
            "seed": seed,
            "decoding": describe(decoding),
            "forwards": made.forwards,
            "token_forwards": made.token_forwards,
        }
        return inputs.scored(CalibrationSet(self.name, states, report))


def _words(inputs: Inputs) -> list[int]:
    """The token ids that are not special."""
    config, tokenizer = inputs.model.config, inputs.tokenizer
    special = {config.mask_token_id, config.eos_token_id, config.pad_token_id}
    special |= set(tokenizer.all_special_ids)
    return [i for i in range(min(len(tokenizer), config.vocab_size)) if i not in special]


def _until_end(response: Sequence[int], eos: int) -> list[int]:
    end = response.index(eos) + 1 if eos in response else len(response)
    return list(response[:end])
