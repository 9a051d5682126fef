"""`table=all`: one sweep is a product of choices, and the tables together are not."""

from collections.abc import Sequence
from pathlib import Path

ALL_TABLES = "table=all"
SPEED_TABLE = "table4"


def sweeps(words: Sequence[str], config_folder: Path) -> list[list[str]]:
    """The command lines of a call: itself, or one per table. What tables share is run once.

    Seeds are not for Table 4: it repeats its measurement in rounds, and random weights are as fast
    as others.
    """
    if ALL_TABLES not in words:
        return [list(words)]
    lines = []
    for table in sorted(path.stem for path in (config_folder / "table").glob("*.yaml")):
        own = [w for w in words if table != SPEED_TABLE or not w.startswith("seed=")]
        lines.append([f"table={table}" if word == ALL_TABLES else word for word in own])
    return lines
