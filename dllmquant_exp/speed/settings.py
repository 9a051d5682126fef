"""What a measurement of speed is asked to do."""

from dataclasses import dataclass

from dllmquant_exp.errors import Refusal
from dllmquant_exp.quantization.quantizers import BITS


class SpeedError(Refusal):
    """A measurement that cannot be made as asked; the message says what would do."""


@dataclass(frozen=True)
class SpeedSettings:
    """How speed is measured; how responses are decoded is the task's `settings`.

    Attributes:
        prompt_length: tokens in front of each response; they count as work, not as output.
        responses: decoded at once.
        rounds: in each, every variant decodes once, in random order; medians are over rounds.
        beside_bits: bits of activations that are measured beside the chosen ones, with the same
            weights; None measures the chosen ones alone.
    """

    prompt_length: int
    responses: int
    rounds: int
    beside_bits: int | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_length", "responses", "rounds"):
            if getattr(self, name) < 1:
                raise SpeedError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.beside_bits is not None and self.beside_bits not in BITS:
            raise SpeedError(
                f"beside_bits = {self.beside_bits} is not one of: null, {', '.join(map(str, BITS))}"
            )
