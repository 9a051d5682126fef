"""The paper's claims about speed and memory, decided by Table 4's measurement of its method."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev

from dllmquant_exp.reporting.cells import CellResult
from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.measured import Measured
from dllmquant_exp.reporting.speed_results import SpeedBlock, low_bits, row_name, variants
from dllmquant_exp.reporting.statistics import Estimate

ROW = (
    "dllmquant_plusplus"  # the paper does not say of which method its Table 4 is; this is its best
)
NEEDS = "table=table4"


@dataclass(frozen=True)
class SpeedClaim:
    """A ratio of full precision to 4 bits lies above `threshold`.

    Attributes:
        counted: whether the ratio is counted, without any chance in it, instead of measured.
    """

    name: str
    sentence: str
    ratio: Callable[[CellResult], Measured | str]
    threshold: float  # of the ratio's logarithm
    counted: bool = False


def _speed(cell: CellResult) -> Measured | str:
    """Of each round's times; the interval is Student's on their logarithms."""
    full, low = variants(cell)[0], low_bits(cell)[0]
    logs = [math.log(a / b) for a, b in zip(full["seconds"], low["seconds"], strict=True)]
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


def _memory(cell: CellResult) -> Measured:
    """Bytes of the weights, which are counted."""
    full, low = variants(cell)[0], low_bits(cell)[0]
    ratio = math.log(full["weight_bytes"] / low["weight_bytes"])
    found = SeededAverage(Estimate(ratio, ratio, ratio), covers="every model of this shape")
    return Measured(found, 1, f"{row_name(cell)}: bytes of the weights", logarithm=True)


SPEED_CLAIMS = (
    SpeedClaim("speed_up", "4 bits are over 1.6 times as fast", _speed, math.log(1.6)),
    SpeedClaim(
        "memory_saving",
        "4 bits save over 3.2 times the memory",
        _memory,
        math.log(3.2),
        counted=True,
    ),
)


def measure_speed_claim(claim: SpeedClaim, block: SpeedBlock | None) -> Measured | str:
    """The claim's ratio, or what it needs.

    Args:
        block: the model's part of Table 4; of several results of the row the newest decides.
    """
    cells = [cell for cell in block.cells if row_name(cell) == ROW] if block else []
    if not cells:
        return f"{NEEDS} (row={ROW})"
    return claim.ratio(max(cells, key=lambda cell: cell.finished_at))
