"""The paper's claims: which comparison decides each of them (claims.yaml), and what it says.

A claim about scores, figures or speed is measured where its numbers come from; `verdicts` decides.
"""

import math
from dataclasses import dataclass

from dllmquant_exp.reporting.statistics import Estimate, SeededAverage


@dataclass(frozen=True)
class Measured:
    """The effect that decides a claim, its comparison in words, and over how many items.

    Attributes:
        p: two-sided, of "the effect is the claim's threshold"; None where it follows from `found`.
        logarithm: whether `found` and the threshold are logarithms of the values that are shown.
    """

    found: SeededAverage
    n: int
    what: str
    p: float | None = None
    logarithm: bool = False

    @property
    def effect(self) -> Estimate:
        of = self.found.estimate
        return Estimate(self.shown(of.value), self.shown(of.low), self.shown(of.high))

    def shown(self, value: float) -> float:
        """A value of `found` as it is shown."""
        return math.exp(value) if self.logarithm else value
