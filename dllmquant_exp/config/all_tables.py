"""`table=all` and `controls=on`: one sweep is a product of choices, and these are several."""

import re
from collections.abc import Sequence
from pathlib import Path

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.reporting.rows import SPEED_TABLE

ALL_TABLES = "table=all"
# Rows that have another number of calibration samples than the row with TMAS that they are compared
# with: 128, or the 512 of uniform time, which is too many where TMAS finds fewer states (Dream).
CONTROLS = {
    "table1": "awq,quarot",
    "table2": "awq,quarot",
    "table5": "awq,quarot",
    "table6": "static_random,static_llm_qat,static_uniform_time",
}
CONTROL_SAMPLES = "${model.calibration.control_samples}"


def sweeps(words: Sequence[str], config_folder: Path) -> list[list[str]]:
    """The command lines of a call: itself, or one per table. What tables share is run once.

    Seeds are not for Table 4: it repeats its measurement in rounds, and random weights are as fast
    as others. With controls=on, each table's rows of `CONTROLS` follow once more, calibrated on as
    many samples as TMAS collects states on the model.

    Raises:
        ConfigError: no such table; controls=... that is neither on nor off, or where it would
            change nothing.
    """
    _check_tables(words, config_folder)
    switches = [word for word in words if word.startswith("controls=")]
    lines = _per_table([word for word in words if word not in switches], config_folder)
    if not switches or switches == ["controls=off"]:
        return lines
    if switches != ["controls=on"]:
        raise ConfigError(f"{' '.join(switches)}: controls is on or off")
    return lines + _controls(lines)


def _per_table(words: list[str], config_folder: Path) -> list[list[str]]:
    if ALL_TABLES not in words:
        return [words]
    lines = []
    for table in _tables(config_folder):
        own = [w for w in words if table != SPEED_TABLE or not w.startswith("seed=")]
        lines.append([f"table={table}" if word == ALL_TABLES else word for word in own])
    return lines


def _check_tables(words: Sequence[str], config_folder: Path) -> None:
    """Hydra, which does not know of `all`, would not name it; what is no plain name is left to it.

    Raises:
        ConfigError: no such table.
    """
    known = [*_tables(config_folder), ALL_TABLES.partition("=")[2]]
    for word in words:
        if re.fullmatch(r"table=\w+(,\w+)*", word):
            unknown = set(word.partition("=")[2].split(",")) - {*known, "null"}
            if unknown:
                raise ConfigError(
                    f"table has no option {min(unknown)!r} (there are: {', '.join(known)})"
                )


def _tables(config_folder: Path) -> list[str]:
    return sorted(path.stem for path in (config_folder / "table").glob("*.yaml"))


def _controls(lines: list[list[str]]) -> list[list[str]]:
    if any(word.startswith("row=") for line in lines for word in line):
        raise ConfigError("controls=on adds rows to a table's own, and row=... replaces them all")
    found = [
        [*line, f"row={rows}", f"calibration.samples={CONTROL_SAMPLES}"]
        for line in lines
        for table, rows in CONTROLS.items()
        if f"table={table}" in line
    ]
    if not found:
        raise ConfigError(
            f"controls=on repeats rows of {', '.join(CONTROLS)} with as many calibration samples "
            "as TMAS has states, and has no effect without one of these tables (or table=all)"
        )
    return found
