"""States of decodes at evenly spaced steps, whatever their masks ("Uniform time" of Table 6)."""

from dataclasses import dataclass
from math import ceil

from dllmquant_exp.calibration.sampler import (
    Count,
    DecodingSampler,
    Inputs,
    calibration_state,
)
from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet, sizes
from dllmquant_exp.store.schema import describe


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

    def sample(self, inputs: Inputs) -> CalibrationSet:
        k, needed = self.steps_per_prompt, self.least_texts
        chosen = []
        for prompt_length, visits in self.decodes(inputs, inputs.prompts(self.texts, needed)):
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
            "seed": inputs.seed,
            "decoding": describe(self.decoding(inputs.model.config.architecture)),
            "steps_per_prompt": k,
            "prompts_used": needed,
        }
        return inputs.scored(CalibrationSet(self.name, kept, report))

    @property
    def least_texts(self) -> int:
        return ceil(self.samples / self.steps_per_prompt)

    @property
    def passes(self) -> float:
        return self.steps / self.steps_per_prompt + 1
