"""`table=all`, several tables and `controls=on`: one sweep is a product of choices, these are more.

A table's file may say which of its rows have controls, the same rows calibrated on as many samples
as TMAS collects states (`controls: awq,quarot`), and which words it leaves out where they are meant
for the other tables (`leaves: [seed, limit]`).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from dllmquant_exp.config.folder import Folders
from dllmquant_exp.config.overrides import CONTROLS, Overrides
from dllmquant_exp.errors import ConfigError

ALL = "all"
LEAVES = "leaves"  # a key of conf/table, as CONTROLS
CONTROL_SAMPLES = "${model.calibration.control_samples}"


def sweeps(line: Overrides) -> list[Overrides]:
    """List the command lines of a call: the call itself or one per table, then the controls'.

    Raises:
        ConfigError: no such table; controls=... that is neither on nor off, or where it would
            change nothing.
    """
    switch = line.values(CONTROLS)
    lines = list(_per_table(line.without(CONTROLS)))
    if switch not in ((), ("off",), ("on",)):
        raise ConfigError(f"{' '.join(line.touching(CONTROLS))}: controls is on or off")
    if switch == ("on",):
        lines += _controls(lines)
    return [replace(found, beside_others=len(lines) > 1) for found in lines]


def _per_table(line: Overrides) -> Iterator[Overrides]:
    tables = line.values("table")
    known = line.folders.options("table")
    unknown = [table for table in tables if table not in (*known, ALL, "null")]
    if unknown:
        raise ConfigError(
            f"table has no option {unknown[0]!r} (there are: {', '.join([*known, ALL])})"
        )
    if tables == (ALL,):
        tables = tuple(Folders().options("table"))
    if len(tables) < 2:
        yield line
        return
    for table in tables:
        left = _file(line, table).get(LEAVES, [])
        yield line.without(*left).with_words(f"table={table}")


def _controls(lines: list[Overrides]) -> list[Overrides]:
    if any(line.touches("row") for line in lines):
        raise ConfigError("controls=on adds rows to a table's own, and row=... replaces them all")
    found = []
    for line in lines:
        rows = _file(line, line.value("table")).get(CONTROLS)
        if rows:
            found.append(line.with_words(f"row={rows}", f"calibration.samples={CONTROL_SAMPLES}"))
    if not found:
        every = Folders().options("table")
        names = [name for name in every if CONTROLS in _file(Overrides(), name)]
        raise ConfigError(
            f"controls=on repeats rows of {', '.join(names)} with as many calibration samples "
            "as TMAS has states, and has no effect without one of these tables (or table=all)"
        )
    return found


def _file(line: Overrides, table: str | None) -> dict[str, Any]:
    path = line.folders.options("table").get(str(table))
    content = yaml.safe_load(path.read_text("utf-8")) if path else None
    return content if isinstance(content, dict) else {}
