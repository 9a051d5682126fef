"""The paper's claims (claims.yaml), each decided by a comparison of numbers.

A kind of claim is a class with the settings that claims.yaml gives it and with a `measure`:
`Comparison` of scores, `RecordedRatio` of a figure, `SpeedRatio` of Table 4. `verdicts` decides.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import yaml

from dllmquant_exp.reporting.statistics import SeededAverage

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
UNMEASURED, AT_CHANCE, NO_EVENT = "not measured", "at chance", "no event"


@cache
def claims_data() -> dict[str, Any]:
    """The content of claims.yaml."""
    text = files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


@dataclass(frozen=True, kw_only=True)
class Claim(ABC):
    """An effect lies above a threshold, or below it.

    Attributes:
        unit: points (in percent, the effect itself is a fraction), ratio, share or times.
        below: a threshold as well; where there is none, the effect is to exceed `above`.
    """

    name: str
    sentence: str
    above: float = 0.0
    below: float | None = None
    unit: str = "points"
    kind: ClassVar[str]

    @abstractmethod
    def measure(self, evidence: Any) -> "Found":
        """The claim's effect in one model's evidence of its kind, or what it needs."""

    @property
    def family(self) -> str:
        """Claims of one family share Holm's correction; empty: no chance is in the claim."""
        return self.kind

    @property
    def threshold(self) -> float:
        """In the unit of the effect that is tested."""
        return self.above if self.below is None else self.below


@dataclass(frozen=True)
class Measured:
    """The effect that decides a claim, its comparison in words, and over how many items.

    Attributes:
        p: two-sided, of "the effect is the claim's threshold"; None where it follows from `found`.
        logarithm: whether `found` and the threshold are logarithms of the values that are shown.
        seeds: behind it.
    """

    found: SeededAverage
    n: int
    what: str
    p: float | None = None
    logarithm: bool = False
    seeds: int = 1

    def shown(self, value: float) -> float:
        """A value of `found` as it is shown."""
        return math.exp(value) if self.logarithm else value

    @property
    def limits(self) -> tuple[float, float, float]:
        """The effect and its 95% interval as they are shown."""
        of = self.found.estimate
        return self.shown(of.value), self.shown(of.low), self.shown(of.high)


@dataclass(frozen=True)
class Unmeasured:
    """The reason why nothing decides a claim: what it needs."""

    needs: str
    verdict: str = field(default=UNMEASURED)


Found = Measured | Unmeasured
Evidence = Mapping[str, Any]  # of one model, by the kind of claim; what it lacks is not measured
