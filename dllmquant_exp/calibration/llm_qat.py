"""Texts that the full-precision model writes itself, as LLM-QAT does; nothing masked (Table 6)."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.confidence import scored
from dllmquant_exp.calibration.sampler import DecodingSampler, Expected, TextSource, prompt_seeds
from dllmquant_exp.calibration.states import CalibrationSet, sizes, unscored_state
from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.models.transformer import Architecture, Transformer


@dataclass(frozen=True, kw_only=True)
class LlmQat(DecodingSampler):
    """`samples` texts of a random first token and up to `gen_length` that the model samples after.

    A text ends with its first end-of-text.
    """

    def decoding(self, architecture: Architecture) -> DecodingSettings:
        """Sampling, as LLM-QAT does: greedy texts would differ by little but their first token."""
        return replace(super().decoding(architecture), temperature=1.0)

    def sample(
        self,
        model: Transformer,
        tokenizer: PreTrainedTokenizerBase,
        source: TextSource,
        *,
        seed: int,
        batch_size: int,
    ) -> CalibrationSet:
        config = model.config
        decoding = self.decoding(config.architecture)
        starts = random.Random(f"self-generated {seed}").choices(
            _words(model, tokenizer), k=self.samples
        )
        seeds = prompt_seeds(seed, self.samples)
        prompts = [[start] for start in starts]
        made = generate(model, prompts, decoding, seeds=seeds, batch_size=batch_size)
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
            "decoding": asdict(decoding),
            "forwards": made.forwards,
            "token_forwards": made.token_forwards,
        }
        return scored(model, CalibrationSet(self.name, states, report), batch_size)

    def expect(self, architecture: Architecture, text_tokens: float) -> Expected:
        return Expected(0, self.samples, self.samples, 1 + self.gen_length)


def _words(model: Transformer, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that are not special."""
    config = model.config
    special = {config.mask_token_id, config.eos_token_id, config.pad_token_id}
    special |= set(tokenizer.all_special_ids)
    return [i for i in range(min(len(tokenizer), config.vocab_size)) if i not in special]


def _until_end(response: Sequence[int], eos: int) -> list[int]:
    end = response.index(eos) + 1 if eos in response else len(response)
    return list(response[:end])
