"""What earlier calls have left of a sweep: finished cells, kept answers, and how long they took."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllmquant_exp.store.results import RESULT_FILE, ResultError, load_json


def cell_status(folder: Path, expected: str) -> tuple[str, dict[str, Any] | None]:
    """finished, failed or new, and the result of a finished cell."""
    if not (folder / RESULT_FILE).exists():
        return "new", None
    try:
        result = load_json(folder / RESULT_FILE)
    except ResultError:
        return "new", None
    if result.get("config_hash") != expected:
        return "new", None
    finished = result.get("status") == "finished"
    return ("finished", result) if finished else ("failed", None)


def answered_share(path: Path, requests: int) -> float:
    """Fraction of the requests whose answers are kept."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return 0.0
    return min(1.0, sum(line.startswith(b'{"key"') for line in lines) / max(1, requests))


def measured_times(folder: Path) -> Mapping[str, float]:
    """Seconds of each part of a finished cell's job."""
    times: Mapping[str, float] = load_json(folder / RESULT_FILE)["timing"]["wall_seconds"]
    return times
