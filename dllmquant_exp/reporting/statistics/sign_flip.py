"""A paired test of "mean(above) is `threshold` times mean(below)", and the interval it implies.

Under this hypothesis the differences above - threshold * below of the pairs (prompts, items) are as
likely of either sign. Flipping their signs gives the distribution of their sum: exactly up to EXACT
pairs, by Monte Carlo beyond (one seed: the same data give the same answer). With n pairs p is never
below 2^(1 - n), however little happened in them. The test is exact where the differences are
symmetric, as for two exchangeable treatments at a threshold of 1; elsewhere it is approximate
(simulated at a threshold of .1: p < 5% in 4 to 10% of repetitions with 8 pairs of skewed values).

The interval holds every threshold that the test does not reject: p < 5% exactly where the 95%
interval excludes the threshold (for ties, within 1e-9). scipy's permutation_test has no such
interval, and would draw other signs.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT = 16  # pairs; 32,768 sign patterns up to a common sign
ROUNDS = 9999  # of Monte Carlo
TIE = 1e-9  # largest rounding error of a count
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RatioTest:
    """The test of every ratio at once; see `ratio_test`.

    Attributes:
        lower, upper: [patterns], each sorted: limits between which a pattern is as extreme as the
            observed one.
        floor: no ratio lies below it.
    """

    lower: Array
    upper: Array
    floor: float

    @property
    def smallest(self) -> float:
        """The least possible p."""
        return 1 / len(self.lower)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The ratios with a p of at least 1 - confidence. Either limit can be infinite."""
        rare = math.ceil((1 - confidence) * len(self.lower) - TIE)  # the count not to be rejected
        low, high = float(self.lower[rare - 1]), float(self.upper[-rare])
        return max(low, self.floor), high


def ratio_test(above: ArrayLike, below: ArrayLike) -> RatioTest:
    """The test of mean(above) / mean(below).

    Where nothing above is negative, the lower limit of an interval is at least 0.

    A sign pattern splits the pairs into two parts. It is as extreme as the observed one exactly
    for thresholds between the two parts' own ratios: (A1 - t B1)(A2 - t B2) <= 0. The ratio of the
    whole lies between them, p falls to both sides of it, and the limits are quantiles of the parts'
    smaller and larger ratios.

    Args:
        above, below: [n] of the same pairs.

    Raises:
        ValueError: other shapes, a negative value below, or nothing but zeros there.
    """
    a, b = _column(above), _column(below)
    if len(a) != len(b) or (b < 0).any() or not b.any():
        raise ValueError(
            "a ratio needs pairs, and values below that are at least 0 and not all 0; got "
            f"{len(a)} above and {len(b)} below, the least of which is {b.min()}"
        )
    flips = _flips(len(a))
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (part @ a / (part @ b) for part in (flips, ~flips))
    empty = np.isnan(one) | np.isnan(other)  # 0/0: such a part decides no threshold
    lower = np.sort(np.where(empty, -math.inf, np.minimum(one, other)))
    upper = np.sort(np.where(empty, math.inf, np.maximum(one, other)))
    return RatioTest(lower, upper, 0.0 if (a >= 0).all() else -math.inf)


def ratio_interval(
    above: ArrayLike, below: ArrayLike, confidence: float = 0.95
) -> tuple[float, float]:
    """The ratios mean(above) / mean(below) that the test does not reject.

    Either limit can be infinite: with 5 pairs no outcome is rare enough to reject anything.
    Arguments and errors are the same as for `ratio_test`.
    """
    return ratio_test(above, below).interval(confidence)


def _column(values: ArrayLike) -> Array:
    found = np.asarray(values, float)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ValueError(f"a test over pairs needs finite values [n], got shape {found.shape}")
    return found


@lru_cache(maxsize=4)
def _flips(n: int) -> NDArray[np.bool_]:
    """[patterns, n], which signs are flipped; the first pattern is the observed one."""
    if n <= EXACT:  # the first sign stays: flipping all of them changes no test
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1) & 1
        exact = np.pad(bits.astype(bool), ((0, 0), (1, 0)))
        exact.setflags(write=False)  # several tests share it
        return exact
    generator = np.random.default_rng(0)
    flips = generator.integers(0, 2, (ROUNDS + 1, n), np.uint8).astype(bool)
    flips[0] = False
    flips.setflags(write=False)
    return flips
