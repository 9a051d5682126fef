"""States of decodes at evenly spaced steps, whatever their masks ("Uniform time" of Table 6)."""

from dataclasses import asdict, dataclass
from math import ceil

from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.confidence import scored
from dllmquant_exp.calibration.sampler import (
    Count,
    DecodingSampler,
    Expected,
    TextSource,
    calibration_state,
    encoded_prompts,
)
from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet, sizes
from dllmquant_exp.models.transformer import Architecture, Transformer


@dataclass(frozen=True, kw_only=True)
class UniformTime(DecodingSampler):
    """`samples` states, in the order of prompts and steps.

    A decode of S steps gives the k = `steps_per_prompt` states in the middle of k equal spans.

    Attributes:
        texts: training data sets that prompts are taken from.
        steps_per_prompt: states from one decode.
    """

    texts: tuple[str, ...]
    steps_per_prompt: Count

    def sample(
        self,
        model: Transformer,
        tokenizer: PreTrainedTokenizerBase,
        source: TextSource,
        *,
        seed: int,
        batch_size: int,
    ) -> CalibrationSet:
        k = self.steps_per_prompt
        needed = ceil(self.samples / k)
        prompts = encoded_prompts(source(self.texts, needed), tokenizer)
        chosen = []
        for prompt_length, visits in self.decodes(model, prompts, seed=seed, batch_size=batch_size):
            visited = list(visits)
            if len(visited) < k:
                raise CalibrationError(
                    f"steps_per_prompt = {k}, but a decode with these settings has "
                    f"{len(visited)} steps with something to decide; take fewer"
                )
            middles = [visited[(2 * j + 1) * len(visited) // (2 * k)] for j in range(k)]
            chosen += [calibration_state(x, prompt_length, x.block, x.block_ratio) for x in middles]
        kept = tuple(chosen[: self.samples])
        report = {
            **sizes(kept),
            "seed": seed,
            "decoding": asdict(self.decoding(model.config.architecture)),
            "steps_per_prompt": k,
            "prompts_used": needed,
        }
        return scored(model, CalibrationSet(self.name, kept, report), batch_size)

    def expect(self, architecture: Architecture, text_tokens: float) -> Expected:
        prompts = ceil(self.samples / self.steps_per_prompt)
        return Expected(prompts, prompts, self.samples, text_tokens + self.gen_length)
