"""What was found of a claim, be it about scores, figures or speed."""

import math
from dataclasses import dataclass

from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.statistics import Estimate


@dataclass(frozen=True)
class Measured:
    """An effect, what it is of (rows, or a recorded figure), and over how many items.

    Attributes:
        p: two-sided, of "the effect is the claim's threshold"; None where it follows from `found`.
    """

    found: SeededAverage
    n: int
    what: str
    p: float | None = None  # of the claim's own test; None = that of `found`
    logarithm: bool = False  # whether `found` and the threshold are logarithms of what is shown

    @property
    def effect(self) -> Estimate:
        of = self.found.estimate
        return Estimate(self.shown(of.value), self.shown(of.low), self.shown(of.high))

    def shown(self, value: float) -> float:
        """A value of `found` as it is shown."""
        return math.exp(value) if self.logarithm else value
