"""Result files: one JSON per cell, written whole or not at all, and read back with checks.

<runs_dir>/<sweep>/<cell>/result.json
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllmquant_exp.errors import Refusal
from dllmquant_exp.store.strict_json import parse_json
from dllmquant_exp.store.whole_files import whole_file

SCHEMA_VERSION = 2  # of result files
RESULT_FILE = "result.json"
TABLES_SWEEP = "tables"  # where conf/table's options put their cells
FIGURES_FOLDER = "figures"  # of a runs folder, for recordings; no sweep
DIGEST = "content_digest"  # of all that stands before it in a result file; `TIMING` stands behind
TIMING = "timing"
logger = logging.getLogger(__name__)


class ResultError(Refusal):
    """A result file that cannot be read as one."""


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 of a resolved configuration, in hexadecimal."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write `folder`/result.json atomically: a reader sees the old file, the new one or none.

    It holds `content_digest`, by which damage is noticed when it is read: sha256 of what stands
    before it, which is all but `timing`. Runs with the same outcome have the same digest.
    """
    return write_json(folder / RESULT_FILE, with_digest(result))


def with_digest(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same object with its `content_digest`, as `json_text` writes it; `timing` comes last."""
    content = {key: item for key, item in value.items() if key not in (DIGEST, TIMING)}
    times = {key: item for key, item in value.items() if key == TIMING}
    before = json_text(content).removesuffix("\n}").encode()
    return {**content, DIGEST: sha256(before), **times}


def sha256(content: bytes | memoryview) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write an object to `path`, see `write_whole`."""
    return write_whole(path, (json_text(value) + "\n").encode())


def write_whole(path: Path, content: bytes) -> Path:
    """Write `path` atomically: to a temporary file beside it, synced, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_bytes(content)
    return path


def load_json(path: Path, version: int = SCHEMA_VERSION) -> dict[str, Any]:
    """The object in a JSON file.

    version: the only one that is read, of the key `schema_version`.

    Raises:
        ResultError: the file cannot be read, is not JSON, is no object, has another schema, or is
            not what was written.
    """
    try:
        written = path.read_bytes()
        value = parse_json(written)
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: not a readable result file ({error})") from error
    if not isinstance(value, dict):
        raise ResultError(f"{path}: holds {type(value).__name__}, not an object")
    if value.get("schema_version") != version:
        raise ResultError(
            f"{path}: schema_version is {value.get('schema_version')!r}, and this version reads "
            f"{version}: make it again, or read it with the version that wrote it"
        )
    if not _is_intact(written, value):
        raise ResultError(
            f"{path}: is damaged (its content has no {DIGEST}, or another than what was written)"
        )
    return value


def _is_intact(written: bytes, value: Mapping[str, Any]) -> bool:
    """Whether the digest is there, is the content's, and has nothing but `timing` behind it."""
    if [key for key in value if key != TIMING][-1] != DIGEST:
        return False
    end = written.rfind(f',\n "{DIGEST}": '.encode())
    return bool(value[DIGEST] == sha256(memoryview(written)[:end]))


def finished_result(folder: Path, expected_hash: str) -> dict[str, Any] | None:
    """The result in `folder` when it is finished and of this very configuration, else None."""
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    try:
        value = load_json(path)
    except ResultError as error:
        logger.warning("%s; the cell runs again", error)
        return None
    same = value.get("config_hash") == expected_hash
    return value if same and value.get("status") == "finished" else None
