"""The paper's claims about speed and memory, decided by the newest result of one row of Table 4."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

from dllmquant_exp.reporting.claims import Claim, Found, Measured, Unmeasured, claims_data
from dllmquant_exp.reporting.frame import Cell
from dllmquant_exp.reporting.speed import low_bits, row_name, variants
from dllmquant_exp.reporting.statistics import Estimate, SeededAverage
from dllmquant_exp.store.schema import read


@dataclass(frozen=True, kw_only=True)
class SpeedRatio(Claim):
    """Full precision over 4 bits lies above a ratio.

    Attributes:
        row: whose result decides.
        ratio: the field of a result's variants that is compared: `seconds`, a value per round, or
            one that is counted, without any chance in it.
    """

    kind = "speed"
    row: str
    ratio: str
    unit: str = "times"

    @property
    def family(self) -> str:
        return self.kind if self.ratio == "seconds" else ""

    @property
    def threshold(self) -> float:
        return math.log(self.above)

    def measure(self, cells: Sequence[Cell]) -> Found:
        """The claim's ratio, or what it needs.

        Args:
            cells: the model's speed tasks, the newest last.
        """
        own = [c for c in cells if c.status == "finished" and row_name(c) == self.row]
        if not own:
            return Unmeasured(f"table=table4 (row={self.row})")
        full, low = variants(own[-1])[0], low_bits(own[-1])[0]
        if not self.family:
            ratio = math.log(full[self.ratio] / low[self.ratio])
            found = SeededAverage(Estimate(ratio, ratio, ratio), covers="every model of this shape")
            return Measured(found, 1, f"{self.row}: bytes of the weights", logarithm=True)
        # The mean over rounds; the interval is Student's on the ratios' logarithms.
        logs = [math.log(a / b) for a, b in zip(full[self.ratio], low[self.ratio], strict=True)]
        if len(logs) < 2:
            return Unmeasured("table=table4 with more rounds")
        mean, error = fmean(logs), stdev(logs) / math.sqrt(len(logs))
        star = ", extrapolated" if full["extrapolated"] else ""
        covers = f"other rounds of this decode on this machine{star}"
        found = SeededAverage(Estimate(mean, mean, mean), error, len(logs), covers)
        what = f"{self.row}: {low['name']} over {own[-1].speed['full_precision']}"
        return Measured(found, len(logs), what, logarithm=True)


@cache
def speed_claims() -> tuple[SpeedRatio, ...]:
    entries = claims_data()["speed"]
    return tuple(read(SpeedRatio, entry, f"claims.yaml: {entry['name']}") for entry in entries)
