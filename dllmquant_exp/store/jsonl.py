"""Rows of local data files: one JSON object a line, in `<name>.jsonl.gz` or `<name>.jsonl`."""

import gzip
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from dllmquant_exp.errors import Refusal
from dllmquant_exp.store.strict_json import parse_json

Row = dict[str, Any]
LARGEST_FILE = 1 << 30  # bytes unpacked; the largest official split has 50 MB


class DataError(Refusal):
    """Data that is missing or malformed; the message names the file and what to do."""


def find_rows(folder: Path, name: str) -> Path | None:
    """The file of a name, packed or not; None where there is none."""
    paths = (folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl")
    return next((path for path in paths if path.is_file()), None)


def read_rows(
    path: Path, fields: tuple[str, ...], check: Callable[[Row], Row] = dict
) -> tuple[Row, ...]:
    """All rows of a file, at least one. Blank lines are no rows.

    Args:
        fields: what every row must have.
        check: from a row to the row that is meant; a ValueError of it says what is wrong.

    Raises:
        DataError: with the file and line, and what belongs there.
    """
    return _read(path, path.stat().st_mtime_ns, fields, check)


@lru_cache(maxsize=8)  # MMLU asks for the same file once per subject
def _read(
    path: Path, _modified: int, fields: tuple[str, ...], check: Callable[[Row], Row]
) -> tuple[Row, ...]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        advice = (
            "make it readable" if isinstance(error, PermissionError) else "fetch the file again"
        )
        raise DataError(f"{path} cannot be read ({error}): {advice}") from error
    if len(content) > LARGEST_FILE:
        raise DataError(f"{path} has more than {LARGEST_FILE >> 20} MiB unpacked: fetch it again")
    rows = tuple(
        _row(line, f"{path}, line {number}", fields, check)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    )
    if not rows:
        raise DataError(f"{path} has no rows: fetch the file again")
    return rows


def _row(line: str, where: str, fields: tuple[str, ...], check: Callable[[Row], Row]) -> Row:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    missing = [name for name in fields if not isinstance(row, dict) or name not in row]
    if missing:
        raise DataError(
            f"{where}: no field {', '.join(missing)}; expected fields: {', '.join(fields)}"
        )
    try:
        return check(row)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
