"""Rows of local data files: one JSON object a line, in `<name>.jsonl.gz` or `<name>.jsonl`."""

import gzip
import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from dllmquant_exp.errors import Refusal

Row = dict[str, Any]


class DataError(Refusal):
    """Data that is missing or malformed; the message names the file and what to do."""


def find_rows(folder: Path, name: str) -> Path | None:
    """The file of a name, packed or not; None where there is none."""
    paths = (folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl")
    return next((path for path in paths if path.is_file()), None)


def read_rows(path: Path, fields: tuple[str, ...]) -> tuple[Row, ...]:
    """All rows of a file, at least one.

    Args:
        fields: what every row must have.

    Raises:
        DataError: with the file and line, and what belongs there.
    """
    return _read(path, path.stat().st_mtime_ns, fields)


@lru_cache(maxsize=8)  # MMLU asks for the same file once per subject
def _read(path: Path, _modified: int, fields: tuple[str, ...]) -> tuple[Row, ...]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            rows = tuple(
                _parse(line, f"{path}, line {number}", fields)
                for number, line in enumerate(file, start=1)
            )
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch the file again") from error
    if not rows:
        raise DataError(f"{path} has no rows: fetch the file again")
    return rows


def _parse(line: str, where: str, fields: tuple[str, ...]) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    missing = [name for name in fields if not isinstance(row, dict) or name not in row]
    if missing:
        raise DataError(
            f"{where}: no field {', '.join(missing)}; expected fields: {', '.join(fields)}"
        )
    return dict(row)
