"""The work that is timed: a model's shape, its quantization, and the responses that it decodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch

from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import needs_calibration
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.store.schema import AtLeast, AtMost, Settings

VOCABULARY = 4096  # first tokens of the vocabulary, from which prompts are drawn


class SpeedError(Refusal):
    """A measurement that cannot be made as asked; the message says what would do."""


@dataclass(frozen=True)
class SpeedSettings(Settings):
    """Settings of a speed measurement; the task's `settings` say how responses are decoded.

    Attributes:
        prompt_length: tokens in front of each response; they count as work, not as output.
        responses: decoded at once.
        rounds: in each, every variant decodes once, in random order; medians are over rounds.
        beside_bits: bits of activations that are measured beside the chosen ones, with the same
            weights; None measures the chosen ones alone.
    """

    prompt_length: Annotated[int, AtLeast(1)]
    responses: Annotated[int, AtLeast(1)]
    rounds: Annotated[int, AtLeast(1)]
    beside_bits: Annotated[int, AtLeast(2), AtMost(8)] | None = None


@dataclass(frozen=True)
class Workload:
    """One model that is measured in full precision and in low bits.

    Attributes:
        config: the model's shape.
        load: makes the model in full precision, in a type; None takes random weights.
        method, quant, iaaq: how it is quantized. Only the work of a running model matters: weights
            are rounded to the nearest, whatever the method does to them. None for quant measures
            full precision alone.
        decoding: how responses are decoded; their length must not depend on what they say.
        seed: of random weights, prompts and the order of the rounds.
    """

    config: TransformerConfig
    load: Callable[[torch.dtype], Transformer] | None
    method: Method
    quant: QuantSettings | None
    iaaq: Iaaq | None
    decoding: DecodingSettings
    settings: SpeedSettings
    seed: int

    @property
    def runtime_method(self) -> Method:
        """The steps that leave work to be done while the model runs, and rounding to nearest."""
        if not self.method.quantizes:
            return self.method
        online = {key: step for key, step in self.method.steps.items() if step.online}
        return replace(self.method, steps={**online, "round": Nearest()})

    @property
    def rows(self) -> int:
        """Tokens in a forward pass."""
        return self.settings.responses * self.length

    @property
    def length(self) -> int:
        """Tokens of a prompt and its response."""
        return self.settings.prompt_length + self.decoding.gen_length

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of activations that are measured, the chosen ones first."""
        if self.quant is None:
            return ()
        chosen, beside = self.quant.activation_bits, self.settings.beside_bits
        return (chosen,) if beside in (None, chosen) else (chosen, beside)

    def name_of(self, bits: int) -> str:
        """The name of a measurement with activations of these bits."""
        assert self.quant is not None
        return f"W{self.quant.weight_bits}A{bits}"

    def with_layers(self, layers: int) -> TransformerConfig:
        return replace(self.config, n_layers=layers)

    def prompts(self) -> Sequence[Sequence[int]]:
        """Random tokens from the vocabulary's first ones, without the special ones."""
        config, settings = self.config, self.settings
        special = {config.mask_token_id, config.eos_token_id, config.pad_token_id}
        first = range(min(config.vocab_size, VOCABULARY))
        plain = torch.tensor([token for token in first if token not in special])
        generator = torch.Generator().manual_seed(self.seed)
        shape = (settings.responses, settings.prompt_length)
        chosen = plain[torch.randint(len(plain), shape, generator=generator)]
        tokens: list[list[int]] = chosen.tolist()
        return tokens

    def decode(self, model: Transformer) -> None:
        """Decode all responses to their end."""
        count = self.settings.responses
        generate(model, self.prompts(), self.decoding, seeds=range(count), batch_size=count)

    def __post_init__(self) -> None:
        if needs_calibration(self.runtime_method, self.quant, self.iaaq):
            raise SpeedError(
                "static ranges and static alphas come from calibration, which a measurement of "
                "speed does not do; use quant.activation_ranges=dynamic and iaaq.mode=online"
            )
        if self.length > self.config.max_length:
            raise SpeedError(
                f"prompt_length + gen_length = {self.length} is more than the model's "
                f"{self.config.max_length} positions"
            )
