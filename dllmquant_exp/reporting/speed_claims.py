"""The paper's claims about speed and memory, decided by Table 4's measurement of its method."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.figure_claims import Measured
from dllmquant_exp.reporting.results import CellResult
from dllmquant_exp.reporting.speed_results import SpeedBlock, low_bits, row_name, variants
from dllmquant_exp.reporting.statistics import Estimate, mean_interval, z_quantile

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
    threshold: float
    counted: bool = False


def _speed(cell: CellResult) -> Measured | str:
    """Of each round's times; the interval is Student's on their logarithms."""
    full, low = variants(cell)[0], low_bits(cell)[0]
    logs = [math.log(a / b) for a, b in zip(full["seconds"], low["seconds"], strict=True)]
    if len(logs) < 2:
        return f"{NEEDS} with more rounds"
    of_logs = mean_interval(logs, (-math.inf, math.inf))
    value, below, above = map(math.exp, (of_logs.value, of_logs.low, of_logs.high))
    estimate = Estimate(value, below, above)
    error = estimate.half_width / z_quantile()
    star = ", extrapolated" if full["extrapolated"] else ""
    covers = f"other rounds of this decode on this machine{star}"
    what = f"{row_name(cell)}: {low['name']} over {cell.speed['full_precision']}"
    return Measured(SeededAverage(estimate, error, 1, covers), len(logs), what)


def _memory(cell: CellResult) -> Measured:
    """Bytes of the weights, which are counted."""
    full, low = variants(cell)[0], low_bits(cell)[0]
    ratio = full["weight_bytes"] / low["weight_bytes"]
    found = SeededAverage(Estimate(ratio, ratio, ratio), 0.0, 1, "every model of this shape")
    return Measured(found, 1, f"{row_name(cell)}: bytes of the weights")


SPEED_CLAIMS = (
    SpeedClaim("speed_up", "4 bits are over 1.6 times as fast", _speed, 1.6),
    SpeedClaim(
        "memory_saving", "4 bits save over 3.2 times the memory", _memory, 3.2, counted=True
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
