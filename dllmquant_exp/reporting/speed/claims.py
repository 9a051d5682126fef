"""The paper's claims about speed and memory (claims.yaml), decided by results of Table 4's row."""

import math
from dataclasses import dataclass
from importlib.resources import files
from statistics import fmean, stdev

import yaml

from dllmquant_exp.reporting.claims import Measured
from dllmquant_exp.reporting.frame import Cell
from dllmquant_exp.reporting.speed.results import SpeedBlock, low_bits, row_name, variants
from dllmquant_exp.reporting.statistics import Estimate, SeededAverage

NEEDS = "table=table4"


@dataclass(frozen=True)
class SpeedClaim:
    """A ratio of full precision to 4 bits lies above `threshold`.

    Attributes:
        row: whose results decide.
        ratio: the field of a result's variants that is compared.
        threshold: of the ratio's logarithm.
    """

    name: str
    sentence: str
    row: str
    ratio: str
    threshold: float

    @property
    def counted(self) -> bool:
        """Whether the ratio is counted instead of measured, so that no chance is in it."""
        return self.ratio != "seconds"


def _claims() -> tuple[SpeedClaim, ...]:
    data = yaml.safe_load(files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8"))
    return tuple(
        SpeedClaim(of["name"], of["sentence"], data["row"], of["ratio"], math.log(of["above"]))
        for of in data["claims"]
    )


SPEED_CLAIMS = _claims()


def measure_speed_claim(claim: SpeedClaim, block: SpeedBlock | None) -> Measured | str:
    """The claim's ratio, or a text that says what it needs.

    Args:
        block: the model's part of Table 4; the newest of several results of the row decides.
    """
    cells = [cell for cell in block.cells if row_name(cell) == claim.row] if block else []
    if not cells:
        return f"{NEEDS} (row={claim.row})"
    cell = max(cells, key=lambda cell: cell.finished_at)
    return _counted(cell, claim.ratio) if claim.counted else _timed(cell, claim.ratio)


def _timed(cell: Cell, field: str) -> Measured | str:
    """The mean over rounds; the interval is Student's on the ratios' logarithms."""
    full, low = variants(cell)[0], low_bits(cell)[0]
    logs = [math.log(a / b) for a, b in zip(full[field], low[field], strict=True)]
    if len(logs) < 2:
        return f"{NEEDS} with more rounds"
    mean = fmean(logs)
    star = ", extrapolated" if full["extrapolated"] else ""
    found = SeededAverage(
        Estimate(mean, mean, mean),
        stdev(logs) / math.sqrt(len(logs)),
        len(logs),
        f"other rounds of this decode on this machine{star}",
    )
    what = f"{row_name(cell)}: {low['name']} over {cell.speed['full_precision']}"
    return Measured(found, len(logs), what, logarithm=True)


def _counted(cell: Cell, field: str) -> Measured:
    ratio = math.log(variants(cell)[0][field] / low_bits(cell)[0][field])
    found = SeededAverage(Estimate(ratio, ratio, ratio), covers="every model of this shape")
    return Measured(found, 1, f"{row_name(cell)}: bytes of the weights", logarithm=True)
