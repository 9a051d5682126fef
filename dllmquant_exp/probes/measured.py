"""What a measurement hands to `record`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Measured:
    """Arrays by name, what their rows and columns are, and the numbers that claims need.

    labels, numbers: JSON-able. Every number is an object of `numbers.py`.
    """

    arrays: Mapping[str, NDArray[Any]]
    labels: Mapping[str, Any]
    numbers: Mapping[str, Any]
